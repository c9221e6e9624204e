"""The record: one line for each event, whole, in order, and never through a link."""

import asyncio
import contextlib
import json
import os
import resource
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


@contextlib.contextmanager
def room_for(size: int):
    """Let no file of this process grow beyond `size` bytes, as a disk that is full would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_an_error_and_not_silence(log):
    with room_for(0), pytest.raises(AuditError, match="cannot be written"):
        log.event("start")


def test_a_line_that_the_disk_took_in_part_swallows_none_after_it(log):
    with room_for(10), pytest.raises(AuditError, match="part of the line"):
        log.event("lost")
    log.event("whole")
    assert json.loads(log.path.read_text().splitlines()[1])["event"] == "whole"


def test_a_line_that_an_earlier_run_left_torn_swallows_none_after_it(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_text('{"time":"2026-01-01T00:00:00Z","seq')
    log = AuditLog(path, lambda: 0.0)
    log.event("start")
    log.event("stop")
    log.close()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()[1:]] == ["start", "stop"]


# --- the file that stands at the path ---------------------------------------------------------------------------


def take_away(path, how):
    """Take the file away as logrotate does, or as an attacker would."""
    if how in ("removed", "folder removed"):
        path.unlink()
    else:
        path.rename(path.with_suffix(".1"))
    if how == "replaced":
        path.write_text('{"event":"other"')
    if how == "folder removed":
        path.parent.rmdir()


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced", "folder removed"])
@pytest.mark.parametrize("durably", ["event", "record"])
def test_a_durable_entry_is_in_the_file_that_stands_at_the_path(log, how, durably):
    log.event("before")
    take_away(log.path, how)
    if durably == "event":
        log.event("after")
    else:
        asyncio.run(log.record(Entry(0.5, "after")))
    found = [json.loads(line) for line in log.path.read_text().splitlines() if line.endswith("}")]
    assert [(line["sequence"], line["event"]) for line in found] == [(1, "log-reopened"), (2, "after")]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600 or how == "replaced"


def test_entries_before_a_rename_stay_where_they_were_written(log):
    log.event("before")
    take_away(log.path, "renamed")
    log.event("after")
    assert [json.loads(line)["event"] for line in log.path.with_suffix(".1").read_text().splitlines()] == ["before"]


def test_an_entry_that_is_not_durable_looks_for_the_file_once_a_second(tmp_path):
    clock = iter((0.0, 0.5, 1.0, 1.0, 1.0))
    log = AuditLog(tmp_path / "audit.jsonl", lambda: next(clock))
    log.path.unlink()
    log.write(Entry(0.5, "unseen"))
    assert not log.path.exists()
    log.write(Entry(1.0, "seen"))
    assert [line["event"] for line in lines(log)] == ["log-reopened", "seen"]
    log.close()


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_log_in_the_place_of_the_log_stops_every_change(log, what):
    log.event("before")
    elsewhere = log.path.with_name("elsewhere")
    log.path.rename(elsewhere)
    put = {
        "link": lambda: log.path.symlink_to(elsewhere),
        "pipe": lambda: os.mkfifo(log.path),
        "folder": log.path.mkdir,
    }
    put[what]()
    for _ in range(2):
        with pytest.raises(AuditError, match="audit log"):
            asyncio.run(log.record(Entry(0.5, "lost")))
    assert "lost" not in elsewhere.read_text()
    log.path.rmdir() if what == "folder" else log.path.unlink()
    log.event("after")
    assert [line["event"] for line in lines(log)] == ["log-reopened", "after"]


def test_a_reopening_that_could_not_be_told_is_told_when_it_can(log):
    log.path.unlink()
    with room_for(0), pytest.raises(AuditError):
        log.event("lost")
    log.event("after")
    assert [line["event"] for line in lines(log)] == ["log-reopened", "after"]


@pytest.mark.parametrize(("mode", "kept"), [(0o666, 0o600), (0o660, 0o600), (0o640, 0o640)])
def test_a_log_that_others_may_write_is_taken_from_them(tmp_path, mode, kept):
    path = tmp_path / "audit.jsonl"
    path.touch()
    path.chmod(mode)
    AuditLog(path, lambda: 0.0).close()
    assert stat.S_IMODE(path.stat().st_mode) == kept


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_log_of_another_user_is_refused(tmp_path):
    path = tmp_path / "audit.jsonl"
    path.touch()
    os.chown(path, 12345, -1)
    with pytest.raises(AuditError, match="belongs to user 12345"):
        AuditLog(path, lambda: 0.0)
