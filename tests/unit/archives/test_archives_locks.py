"""A lock that somebody keeps: who waits says so, names the holder, and gives up in the end."""

import subprocess
import sys
import threading
import time

import pytest

from torchserve_guard import archives
from torchserve_guard.archives import locks
from torchserve_guard.errors import GuardError

HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the store's lock until its standard input ends."""
    archives.Store(tmp_path / "store")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "store")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process


def test_a_store_that_stays_locked_is_given_up_and_the_holder_named(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    monkeypatch.setattr(locks, "BOUND", 0.4)
    said = []
    with pytest.raises(GuardError) as given_up:
        archives.Store(tmp_path / "store", tell=said.append)
    holding = f"{tmp_path / 'store'}, which is locked by process {holder.pid}"
    assert [text.startswith(f"waiting for {holding}; ") for text in said] == [True]
    assert f"{tmp_path / 'store'}: is locked by process {holder.pid}, and was not let go within " in str(given_up.value)


def test_a_wait_that_ends_is_said_once_and_goes_on(holder, tmp_path):
    said = threading.Event()
    told = []

    def tell(text: str) -> None:
        told.append(text)
        said.set()

    began = time.monotonic()
    opening = threading.Thread(target=archives.Store, args=(tmp_path / "store",), kwargs={"tell": tell})
    opening.start()
    assert said.wait(20)
    assert time.monotonic() - began >= locks.PATIENCE
    holder.stdin.close()
    opening.join(20)
    assert not opening.is_alive()
    assert len(told) == 1


def test_where_the_kernel_does_not_say_who_holds_it_the_path_is_named(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_LOCKS", tmp_path / "none")
    monkeypatch.setattr(locks, "BOUND", 0.1)
    with pytest.raises(GuardError, match="store: is locked by another process"):
        archives.Store(tmp_path / "store")
