"""The record: one line for each event, whole, in order, and never through a link."""

import asyncio
import json
import os
import stat

import pytest

from torchserve_guard.access import ANONYMOUS, Action, Decision, Effect, Operation, Resource
from torchserve_guard.audit import AuditLog, Entry, render
from torchserve_guard.audit.entry import LONGEST_TEXT, of_request
from torchserve_guard.errors import AuditError


@pytest.fixture
def log(tmp_path):
    made = AuditLog(tmp_path / "deep" / "audit.jsonl", lambda: 0.5)
    yield made
    made.close()


def lines(log: AuditLog):
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_each_entry_is_one_line_with_time_and_sequence(log):
    log.event("start", mode="none")
    asyncio.run(log.record(Entry(1.0, "request", {"status": 200})))
    assert lines(log) == [
        {"time": "1970-01-01T00:00:00.500000Z", "sequence": 0, "event": "start", "mode": "none"},
        {"time": "1970-01-01T00:00:01.000000Z", "sequence": 1, "event": "request", "status": 200},
    ]


def test_the_file_is_for_its_owner_only_and_grows(log):
    log.event("a")
    again = AuditLog(log.path, lambda: 0.0)
    again.event("b")
    again.close()
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert [line["event"] for line in lines(log)] == ["a", "b"]


@pytest.mark.parametrize("hostile", ["line\nbreak", "\x1b[31mred", '"}\n{"event":"forged"', "\u2028", "\x00", "é"])
def test_no_text_of_a_client_breaks_a_line_or_reaches_a_terminal_raw(hostile):
    line = render(Entry(0.0, "refusal", {"target": hostile}), 7)
    assert line.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    assert json.loads(line)["target"] == hostile


def test_long_text_is_cut(log):
    log.write(Entry(0.0, "refusal", {"target": "x" * 100_000}))
    assert len(lines(log)[0]["target"]) == LONGEST_TEXT + 3


def test_an_entry_of_a_request_says_who_what_and_by_which_rule():
    operation = Operation(
        Action.SCALE_MODEL, Resource("model", "m", "1.0"), "row", (("min_worker", "0"),), method="PUT"
    )
    decision = Decision(Effect.FORBID, frozenset({"mode-none"}), "reason")
    entry = of_request("refusal", 0.0, ANONYMOUS, operation, decision, status=403)
    assert entry.fields == {
        "principal": "anonymous",
        "action": "scale-model",
        "resource": "model/m/1.0",
        "parameters": {"min_worker": "0"},
        "decision": "forbid",
        "rules": ["mode-none"],
        "status": 403,
    }


def test_a_link_a_pipe_or_a_folder_is_no_log(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "pipe", tmp_path, tmp_path / "file" / "below"):
        (tmp_path / "file").touch()
        with pytest.raises(AuditError, match="audit log"):
            AuditLog(path, lambda: 0.0)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_not_silence(log):
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._descriptor)
    os.close(full)
    with pytest.raises(AuditError, match="cannot be written"):
        log.event("start")
