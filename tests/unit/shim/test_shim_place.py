"""The place: one guard in each temporary folder, private, known beyond doubt, and never somebody else."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from torchserve_guard.errors import ConfigError, FrontendError
from torchserve_guard.shim.place import AlreadyRunning, Place, Process, ended

HOLDER = """
import sys, time, pathlib, signal
from torchserve_guard.shim.place import Place
with Place(pathlib.Path(sys.argv[1])).taken() as claim:
    claim.write()
    print("held", flush=True)
    {then}
"""


@pytest.fixture
def holder(tmp_path):
    """Start processes that hold the place in a folder; ended afterwards."""
    started = []

    def hold(then="time.sleep(60)"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(then=then), str(tmp_path)], stdout=-1, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_a_place_that_nobody_holds_runs_nothing(tmp_path):
    place = Place(tmp_path)
    assert place.running() is None
    assert not place.forget()


def test_the_guard_that_holds_a_place_is_known_and_no_second_one_takes_it(tmp_path, holder):
    process = holder()
    place = Place(tmp_path)
    assert place.running() == Process.of(process.pid)
    with pytest.raises(AlreadyRunning), place.taken():
        pass


def test_a_guard_that_was_killed_leaves_an_orphan_that_the_next_one_clears(tmp_path, holder):
    process = holder()
    process.kill()
    process.wait()
    place = Place(tmp_path)
    assert place.running() is None
    assert place.forget()
    with place.taken() as claim:
        assert not claim.orphaned


def test_it_is_stopped_once_gently_and_again_when_it_hesitates(tmp_path, holder):
    gentle = holder()
    assert ended(Place(tmp_path).running(), 10, 10)
    assert gentle.wait(10) == -signal.SIGTERM
    slow = "signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL)); time.sleep(60)\n"
    slow += "    time.sleep(60)"
    hesitating = holder(slow)
    assert ended(Place(tmp_path).running(), 0.5, 10)
    assert hesitating.wait(10) == -signal.SIGTERM


def test_one_that_does_not_stop_is_told_of(tmp_path, holder):
    holder("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    time.sleep(0.2)
    assert not ended(Place(tmp_path).running(), 0.1, 0.1)


def test_a_process_that_took_over_the_number_is_left_alone(tmp_path):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        mistaken = Process(bystander.pid, Process.of(bystander.pid).started + 1)
        assert ended(mistaken, 5, 5)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_record_that_names_another_process_stops_nobody(tmp_path, holder, monkeypatch):
    holder()
    place = Place(tmp_path)
    place.record.write_text(json.dumps({"pid": os.getpid(), "started": 1}))
    monkeypatch.setattr("torchserve_guard.shim.place.WRITTEN_WITHIN", 0.1)
    with pytest.raises(FrontendError, match="not among the processes"):
        place.running()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "1"}', '{"pid": 1, "started": 1, "more": 1}', "\xff" * 9])
def test_a_record_that_is_none_names_nobody(tmp_path, text):
    place = Place(tmp_path)
    place.record.write_bytes(text.encode("latin-1"))
    assert place.running() is None


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_a_folder_that_others_may_enter_is_not_used(tmp_path, mode):
    folder = tmp_path / f".tsguard-shim-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match="set TMPDIR"):
        Place(tmp_path)


def test_a_link_in_the_place_of_folder_or_record_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f".tsguard-shim-{os.geteuid()}").symlink_to(elsewhere)
    with pytest.raises(ConfigError):
        Place(tmp_path / "a")
    place = Place(tmp_path)
    place.record.symlink_to(elsewhere / "victim")
    with pytest.raises(ConfigError), place.taken():
        pass
    assert not (elsewhere / "victim").exists()
