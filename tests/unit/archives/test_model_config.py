"""What TorchServe would make of an archive's configuration is said before it does it."""

from __future__ import annotations

import pytest
from corpus.archives import HANDLER_ENTRY, MANIFEST, Entry, archive, manifest

from torchserve_guard import archives
from torchserve_guard.archives import model_config
from torchserve_guard.findings import Severity

DIGEST = "ab" * 32
# Every key that TorchServe knows (archive/model/ModelConfig.java), with values as its examples have them.
WHOLE = """\
minWorkers: 1
maxWorkers: 4
batchSize: 8
maxBatchDelay: 100
responseTimeout: 300
startupTimeout: 1200
deviceType: "GPU"
deviceIds: [0, 1]
parallelType: custom
parallelLevel: 2
torchrun:
  nproc-per-node: 2
  OMP_NUMBER_THREADS: 4
maxRetryTimeoutInSec: 10
clientTimeoutInMills: 1000
jobQueueSize: 50
useJobTicket: true
sequenceMaxIdleMSec: 1000
sequenceTimeoutMSec: 2000
maxSequenceJobQueueSize: 10
maxNumSequence: 4
continuousBatching: true
sequenceBatching: false
asyncCommunication: true
useVenv: false
handler:
  useVenv: true
pippy: {rpc_timeout: 1800}
deepspeed: {config: ds-config.json}
micro_batching: {micro_batch_size: 4}
"""


def told(text: str) -> list[tuple[str, int | None]]:
    found = model_config.findings(text.encode(), "model-config.yaml", "m.mar", DIGEST)
    return [(one.rule, one.location.line) for one in found]


def test_every_key_with_a_value_that_torchserve_takes_gives_no_finding():
    assert told(WHOLE) == []
    assert {line.partition(":")[0] for line in WHOLE.splitlines() if line[0].isalpha()} >= model_config.KEYS


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("useVenv: true\n", "TSG102"),
        ("useVenv: yes\n", "TSG102"),
        ("? useVenv\n: ON\n", "TSG102"),
        ("x: &on true\nuseVenv: *on\n", "TSG102"),
        ("parallelType: tp\ntorchrun: {nproc-per-node: 1}\n", "TSG103"),
        ("parallelType: 'PpTp'\nparallelLevel: 1\n", "TSG103"),
        ("torchrun: {}\nparallelType: pp\n", "TSG103"),
        ("minWorkers: 257\n", "TSG104"),
        ("maxWorkers: 0x7fffffff\n", "TSG104"),
    ],
)
def test_what_runs_something_else_or_without_end_is_high(text, rule):
    found = model_config.findings(text.encode(), "model-config.yaml", "m.mar", DIGEST)
    assert [(one.rule, one.severity) for one in found] == [(rule, Severity.HIGH)]
    assert (found[0].location.path, found[0].location.member, found[0].digest) == ("m.mar", "model-config.yaml", DIGEST)


@pytest.mark.parametrize(
    "text",
    [
        "useVenv: false\n",
        "handler:\n  useVenv: true\n",
        "parallelType: custom\nparallelLevel: 2\n",
        "parallelType: tp\n",
        "torchrun: {nproc-per-node: 2}\n",
        "parallelType: tp\nparallelLevel: 0\n",
        "minWorkers: 256\n",
        "handler: {minWorkers: 100000}\n",
    ],
)
def test_what_has_no_such_effect_is_no_finding(text):
    assert told(text) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\nminWorkers: '1'\n", 2),
        ("minWorkers: 0\n", 1),
        ("minWorkers:\n", 1),
        ("batchSize: 2.5\n", 1),
        ("batchSize: true\n", 1),
        ("responseTimeout: 3000000000\n", 1),
        ("deviceType: tpu\n", 1),
        ("deviceIds: [0, x]\n", 1),
        ("deviceIds: 0\n", 1),
        ("useVenv: 'true'\n", 1),
        ("useJobTicket: 1\n", 1),
        ("parallelType: dp\n", 1),
        ("parallelLevel: -1\n", 1),
        ("torchrun: 2\n", 1),
        ("torchrun: {nproc_per_node: 2}\n", 1),
        ("torchrun:\n  master-addr: 10.0.0.1\n", 1),
    ],
)
def test_a_value_that_torchserve_would_replace_is_named_with_its_line(text, line):
    assert told(text) == [("TSG101", line)]


@pytest.mark.parametrize("key", ["BatchSize", "minworkers", "minWorker", "max_workers", "responseTimeOut", "useVEnv"])
def test_a_misspelt_key_is_told_with_the_one_that_was_meant(key):
    found = model_config.findings(f"{key}: 1\n".encode(), "c.yaml", "m.mar", DIGEST)
    assert [(one.rule, one.severity) for one in found] == [("TSG105", Severity.LOW)]


@pytest.mark.parametrize("text", ["", "a: [", "useVenv: false\nuseVenv: true\n", "useVenv: !!bool true", "[1]", "\tx"])
def test_a_file_that_cannot_be_read_is_high_and_not_silence(text):
    found = model_config.findings(text.encode(), "c.yaml", "m.mar", DIGEST)
    assert [(one.rule, one.severity) for one in found] == [("TSG100", Severity.HIGH)]
    assert "`c.yaml` " in found[0].message


def test_no_finding_can_be_waived_for_all_archives_at_once():
    for text in ("useVenv: true\nBatchSize: 1\nbatchSize: x\n", "["):
        found = model_config.findings(text.encode(), "c.yaml", "m.mar", DIGEST)
        assert all(one.key is None and one.digest == DIGEST for one in found)


def staged(tmp_path, config: bytes, **model):
    path = tmp_path / "m.mar"
    entries = (HANDLER_ENTRY, Entry("conf.yaml", config), Entry(MANIFEST, manifest(**model)))
    path.write_bytes(archive(*entries))
    return archives.Store(tmp_path / "store").stage(path, archives.describe(path))


def test_the_member_that_the_archive_names_is_the_one_that_is_read(tmp_path):
    found = archives.check_model_config(staged(tmp_path, b"useVenv: true\n", configFile="conf.yaml"))
    assert [(one.rule, str(one.location)) for one in found] == [("TSG102", "m.mar!conf.yaml:1")]


def test_an_archive_that_names_none_has_none(tmp_path):
    assert archives.check_model_config(staged(tmp_path, b"useVenv: true\n")) == []


def test_a_file_without_end_is_not_read_whole(tmp_path):
    found = archives.check_model_config(staged(tmp_path, b"a: 1\n" * 200_000, configFile="conf.yaml"))
    assert [one.rule for one in found] == ["TSG100"]
    assert "larger than the limit" in found[0].message


@pytest.mark.parametrize(
    "text",
    [
        "deviceIds: [" + "x," * 5000 + "]\n",
        "torchrun: {" + ",".join(f"a{n}: 1" for n in range(2000)) + "}\n",
        "torchrun: {" + "a" * 900 + ": 1}\n",
        ("a" * 900 + ": 1\n") * 2,
        "a: !" + "b" * 9000 + " 1\n",
    ],
)
def test_an_archive_cannot_fill_the_report(text):
    (found,) = model_config.findings(text.encode(), "c.yaml", "m.mar", DIGEST)
    assert len(found.message) < 500


@pytest.mark.parametrize(
    ("accepts", "severities"),
    [
        ("[pickle]", [Severity.HIGH]),
        ("[state_dict, Pickle]", [Severity.HIGH]),
        ("[torchscript]", [Severity.MEDIUM]),
        ("[torchscript, pickle]", [Severity.HIGH, Severity.MEDIUM]),
        ("pickle", [Severity.HIGH]),
        ("{pickle: true}", [Severity.HIGH]),
        ("[state_dict, safetensors]", []),
        ("[]", []),
        ("", []),
        ("7", []),
        ("[[pickle]]", []),
    ],
)
def test_forms_that_a_handler_is_told_to_run_are_told(accepts, severities):
    text = f"minWorkers: 1\nhandler:\n  accepts: {accepts}\n"
    found = model_config.findings(text.encode(), "model-config.yaml", "m.mar", DIGEST)
    assert [(one.rule, one.severity) for one in found] == [("TSG139", severity) for severity in severities]
    assert all(one.location.line == 2 and one.key is None for one in found)


@pytest.mark.parametrize(
    "text", ["accepts: [pickle]\n", "handler: [accepts, pickle]\n", "other: {accepts: [pickle]}\n"]
)
def test_forms_that_no_handler_is_told_are_not(text):
    assert told(text) == []
