"""The access log: written behind the requests' backs, bounded on the disk and in memory, never in their way."""

import json
import os
import resource
import stat
import threading

import pytest

from torchserve_guard.audit import access_log
from torchserve_guard.audit.access_log import AccessLog
from torchserve_guard.errors import AuditError


class Head:
    method, target, passed = "GET", b"/ping", ()


def note(number: int = 0):
    return (2.0, 1.0, "inference", "unix", Head, None, "k", b"r%d" % number, b"t", 200, 0, 0, "")


def ids(*paths):
    return [json.loads(line)["request_id"] for path in paths for line in path.read_text().splitlines()]


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**more) -> AccessLog:
        made.append(AccessLog(tmp_path / "logs" / "access.log", **more))
        return made[-1]

    yield make
    for log in made:
        log.close()


def test_each_request_is_a_line_in_the_order_of_their_ends_for_the_owner_only(make):
    log = make()
    for number in range(200):
        log.note(note(number))
    log.flush()
    assert ids(log.path) == [f"r{number}" for number in range(200)]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_thread_writes_and_the_end_writes_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(access_log, "WRITE_EVERY_S", 0.01)
    log = AccessLog(tmp_path / "access.log")
    log.start()
    log.note(note(1))
    deadline = threading.Event()
    while not log.path.stat().st_size:
        deadline.wait(0.01)
    log.note(note(2))
    log.close()
    assert ids(log.path) == ["r1", "r2"]


def test_what_is_much_is_written_before_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(access_log, "WRITE_EVERY_S", 3600)
    monkeypatch.setattr(access_log, "WRITE_AT", 10_000)
    log = AccessLog(tmp_path / "access.log")
    log.start()
    for number in range(10 * access_log._AT_ONCE):
        log.note(note(number))
    deadline = threading.Event()
    while log.path.stat().st_size < 10_000:
        deadline.wait(0.01)
    log.close()
    assert ids(log.path) == [f"r{number}" for number in range(10 * access_log._AT_ONCE)]


def test_a_note_that_no_line_can_be_made_of_keeps_nobody_from_the_log(make):
    log = make()
    for number in range(access_log._AT_ONCE - 1):
        log.note(note(number))
    with pytest.raises(UnicodeDecodeError):
        log.note((*note()[:7], b"\xff", *note()[8:]))
    for number in range(access_log.MOST_NOTES + 1):  # beyond which a request would wait for its turn to make lines
        log.note(note(number))
    log.flush()
    assert len(ids(log.path)) == access_log.MOST_NOTES + 1


def test_the_file_grows_to_its_size_and_as_many_older_ones_are_kept(make):
    log = make(size=2000, count=2)
    for number in range(60):
        log.note(note(number))
        log.flush()
    older = [log.path.with_name(f"access.log.{n}") for n in (2, 1)]
    assert sorted(path.name for path in log.path.parent.iterdir()) == ["access.log", "access.log.1", "access.log.2"]
    found = ids(*older, log.path)
    assert found == [f"r{number}" for number in range(60 - len(found), 60)]
    assert all(path.stat().st_size < 2500 for path in older)


def test_two_processes_may_write_the_same_file(make):
    one, other = make(size=2000, count=50), make(size=2000, count=50)
    for number in range(100):
        log = (one, other)[number % 2]
        log.note(note(number))
        log.flush()
    files = sorted(one.path.parent.iterdir())
    assert len(files) > 5
    assert sorted(ids(*files), key=lambda name: int(name[1:])) == [f"r{number}" for number in range(100)]


def test_a_file_that_somebody_else_moved_is_begun_anew(make):
    log = make()
    log.note(note(1))
    log.flush()
    log.path.rename(log.path.with_name("moved"))
    log.note(note(2))
    log.flush()
    assert (ids(log.path.with_name("moved")), ids(log.path)) == (["r1"], ["r2"])


def test_a_full_disk_loses_lines_and_says_so_when_there_is_room_again(make, caplog):
    log = make()
    log.note(note(1))
    log.flush()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 50, limits[1]))
    try:
        for number in range(10):
            log.note(note(number))
        log.flush()
        log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.lost == 10
    assert caplog.text.count("cannot be written") == 1
    log.note(note(2))
    log.flush()
    first, torn, lost, last = log.path.read_text().splitlines()
    assert json.loads(first)["request_id"] == "r1"
    assert not torn.endswith("}")
    assert json.loads(lost)["lines_lost"] == 10
    assert json.loads(last)["request_id"] == "r2"


def test_lines_that_nobody_writes_are_bounded_and_counted(make, monkeypatch):
    monkeypatch.setattr(access_log, "MOST_UNWRITTEN", 10_000)
    log = make()
    for number in range(3200):
        log.note(note(number))
    assert sum(len(lines) for _, lines in log._made) < 20_000
    assert not log._notes
    lost = log.lost
    assert 3000 < lost < 3200
    log.flush()
    told, *lines = log.path.read_text().splitlines()
    assert json.loads(told)["lines_lost"] == lost
    assert len(lines) == 3200 - lost
    log.note(note())
    log.flush()
    assert len(log.path.read_text().splitlines()) == 3200 - lost + 2


def test_a_disk_that_hangs_holds_up_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(access_log, "WRITE_EVERY_S", 0.01)
    monkeypatch.setattr(access_log, "_LAST_LINES_S", 0.1)
    log = AccessLog(tmp_path / "access.log")
    writing, release = threading.Event(), threading.Event()

    def hangs(_descriptor, data):
        writing.set()
        release.wait(20)
        return len(data)

    monkeypatch.setattr(os, "write", hangs)
    log.start()
    log.note(note())
    assert writing.wait(20)
    for number in range(100_000):  # would hang here
        log.note(note(number))
    assert log.lost > 10_000
    log.close()
    release.set()
    log.close()


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_file_of_ours_is_no_log(tmp_path, what):
    path = tmp_path / "access.log"
    {"link": lambda: path.symlink_to(tmp_path / "x"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[what]()
    with pytest.raises(AuditError, match=r"guard\.access_log"):
        AccessLog(path)
