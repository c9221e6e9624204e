"""Lines that stock's two readers take differently, and keys in the wrong place: each rule fires and keeps quiet."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchserve_guard.findings import Finding, Severity
from torchserve_guard.settings import Flags, Surroundings, differences, load
from torchserve_guard.settings.stock import RealDisk

HIGH, MEDIUM, LOW = Severity.HIGH, Severity.MEDIUM, Severity.LOW


def found(data: str | bytes, place: Path, environment: dict[str, str] | None = None) -> tuple[Finding, ...]:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return differences.check(Path("config.properties"), raw, environment or {}, RealDisk(place))


@pytest.mark.parametrize(
    ("rule", "severity", "line", "data"),
    [
        ("TSG022", HIGH, 2, "models={}\\\nvmargs=-Xmx1g\n"),
        ("TSG022", HIGH, 1, "vmargs: -Xmx1g\n"),
        ("TSG022", HIGH, 1, "plugins_path /x\n"),
        ("TSG022", HIGH, 1, "vmargs=-Xmx1g \\\n  -Xms1g\n"),
        ("TSG022", HIGH, 1, "vmargs=-Da=\\u0041\n"),
        ("TSG022", MEDIUM, 1, "model_store=/a\nmodel_st\\u006fre=/b\n"),
        ("TSG022", MEDIUM, 1, "\u00a0model_store=/a\n".encode()),
        ("TSG023", MEDIUM, 2, "load_models=a\\\nenable_model_api=true\n"),
        ("TSG023", MEDIUM, 3, "load_models=a,\\\nb,\\\nmodel-control-mode=none\n"),
        ("TSG024", MEDIUM, 1, "enable\\u005fmodel_api=true\n"),
        ("TSG024", MEDIUM, 1, "\\enable_model_api=true\n"),
        ("TSG024", LOW, 2, "#\nload_models=\\u0041LL\n"),
        ("TSG025", MEDIUM, 1, "blacklist_env_vars=AWS_\\w+\n"),
        ("TSG025", MEDIUM, 1, "metrics_config=C:\\metrics.yaml\n"),
        ("TSG026", LOW, 1, "job_queue_size: 1\n"),
        ("TSG026", LOW, 1, "job_queue_size 1\n"),
        ("TSG026", LOW, 1, "job_queue\\\n   _size=1\n"),
        ("TSG026", LOW, 1, "\u00a0job_queue_size=1\n".encode()),
        ("TSG027", LOW, 1, "cors_allowed_origin=* \n"),
        ("TSG027", LOW, 1, b"cors_allowed_origin=\xe9\n"),
        ("TSG027", LOW, 2, b"job_queue_size=1\n# caf\xe9\n"),
        ("TSG028", HIGH, 1, "guard_manifest=/x\n"),
        ("TSG028", HIGH, 1, "Guard.FailOn=low\n"),
        ("TSG028", HIGH, 1, "tsguard.manifest=/x\n"),
        ("TSG028", HIGH, 1, "modelControlMode=none\n"),
        ("TSG029", LOW, 1, "model_store=$$STORE$$\n"),
        ("TSG029", LOW, 1, "load_models=$$X$$\n"),
        ("TSG029", LOW, 1, "load_models=$$GROUP$$\n"),
        ("TSG029", LOW, 1, "load_models=$$COST$$\n"),
    ],
)
def test_a_rule_fires_with_its_line(rule, severity, line, data, tmp_path):
    told = found(data, tmp_path, {"STORE": "/m", "X": "x", "GROUP": "a$1", "COST": "a$"})
    assert [(one.rule, one.severity, one.location.line) for one in told if one.rule == rule] == [(rule, severity, line)]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "# vmargs: x\n! vmargs=y\n",
        "vmargs=-Xmx1g -Xms1g\nplugins_path=/x\nmodel_store=/m\n",
        "vmargs = -Xmx1g\nmodel_store =/m\n",
        'models={\\\n  "a": {\\\n    "1.0": {"minWorkers": 1}\\\n  }\\\n}\n',
        "blacklist_env_vars=AWS_\\\\w+\n",
        "inference_address=http\\://127.0.0.1\\:8080\n",
        "cors_allowed_origin=gr\\u00f6\\u00dfe\n",
        "load_models=$$NAME$$,b.mar\n",
        "guard.manifest=/x\nmodel-control-mode=none\n",
        "# gr\u00f6\u00dfe\n".encode(),
        "model_control_mode=none\n",
        "guardian=x\nunknown: y\nunknown\\u0041=x \n",
        "job_queue_size=1\r\nnetty_client_threads=1\r#c\\\r\nnumber_of_gpu=1",
    ],
)
def test_plain_lines_are_let_pass(data, tmp_path):
    assert found(data, tmp_path, {"NAME": "a.mar", "TSGUARD_CONFIG": "x", "TSGUARD_MODEL_CONTROL_MODE": "none"}) == ()


@pytest.mark.parametrize(
    "name", ["TS_GUARD_MANIFEST", "GUARD_MANIFEST", "guard.manifest", "MODEL_CONTROL_MODE", "TS_MODEL_CONTROL_MODE"]
)
def test_a_key_of_the_guards_in_the_environment_is_told(name, tmp_path):
    (told,) = found("", tmp_path, {name: "x"})
    assert (told.rule, told.severity, told.key) == ("TSG028", MEDIUM, name)
    assert told.message.count("manifest") + told.message.count("model-control-mode") >= 1


def test_a_key_of_the_guards_in_the_newest_snapshot_is_told_unless_the_configuration_has_it_too(tmp_path):
    folder = tmp_path / "here/config"
    folder.mkdir(parents=True)
    (folder / "20250101000000000").write_text("guard.fail_on=low\n")
    (folder / "20260101000000000").write_text("x=1\nguard.manifest=/x\n")
    environment = {"LOG_LOCATION": "here"}
    (told,) = found("job_queue_size=1\n", tmp_path, environment)
    assert (told.rule, told.severity, told.key, told.location.line) == ("TSG028", LOW, "guard.manifest", 2)
    assert found("guard.manifest=/y\n", tmp_path, environment) == ()


def test_a_snapshot_that_cannot_be_read_is_torchserves_affair(tmp_path):
    (tmp_path / "logs/config").mkdir(parents=True)
    (tmp_path / "logs/config/x").write_bytes(b"a=\\u00zz")
    assert found("", tmp_path) == ()


def test_a_password_is_not_quoted(tmp_path):
    told = found("keystore_pass=\\qsecret\\u0041 \n", tmp_path)
    assert {one.rule for one in told} >= {"TSG025", "TSG027"}
    assert not [one for one in told if "secret" in one.message + one.remedy or "\\q" in one.message + one.remedy]


def test_a_file_of_nothing_else_has_no_more_findings_than_anybody_reads(tmp_path):
    assert len(found("job_queue_size:1\n" * 5000, tmp_path)) == differences.MOST


def test_loading_tells_them(tmp_path):
    config, store = tmp_path / "config.properties", tmp_path / "store"
    store.mkdir()
    config.write_text(f"model_store={store}\njob_queue_size: 7\n")
    settings = load(config, Flags(), Surroundings({}, tmp_path, tmp_path))
    assert [(one.rule, one.location.line) for one in settings.findings if one.rule in {"TSG022", "TSG026"}] == [
        ("TSG026", 2)
    ]
