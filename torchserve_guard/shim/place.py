"""The place: where the shim keeps which guard it started, one for each user and temporary folder.

Stock keeps a number in $TMPDIR/.model_server.pid, which anybody may write and which may mean another process by the
time it is read (hazards H46, S21). Here it is a folder of this user alone, and the record in it is locked by the guard
for as long as it runs: the kernel lets go of the lock when the guard dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torchserve_guard.errors import ConfigError, FrontendError

LARGEST_RECORD = 4096
WRITTEN_WITHIN = 5.0
LOOK_EVERY = 0.02
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STARTED = 19  # proc(5), /proc/PID/stat: `starttime` is field 22, the third one stands behind the name


class AlreadyRunning(Exception):
    """A guard that this place knows is running."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, beyond doubt: its number, and when it started (in ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this number now, or None."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        except OSError:
            return None
        # The name, in parentheses, may hold anything.
        return cls(pid, int(text.rpartition(")")[2].split()[_STARTED]))


class Place:
    """The place in a temporary folder."""

    def __init__(self, temporary: Path) -> None:
        """Make the folder if it is not there. Raises `ConfigError` when it is not this user's alone."""
        self.folder = temporary / f".tsguard-shim-{os.geteuid()}"
        self.record = self.folder / "running.json"
        try:
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
            status = self.folder.lstat()
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be made ({error.strerror}); set TMPDIR to another") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ConfigError(
                f"{self.folder}: is not a folder of this user alone (mode 0700); somebody else made it: set TMPDIR to "
                "a folder of your own"
            )

    @contextmanager
    def taken(self) -> Iterator[Claim]:
        """Hold the place. Raises `AlreadyRunning` when another guard holds it.

        A process forked meanwhile holds it too: it is free when the last of them is gone.
        """
        try:
            descriptor = os.open(self.record, _OPEN | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.record}: cannot be written ({error.strerror}); remove it") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyRunning from None
        try:
            yield Claim(descriptor, orphaned=os.fstat(descriptor).st_size > 0)
        finally:
            os.close(descriptor)

    def running(self) -> Process | None:
        """Return the guard that holds this place; None when none does. Raises `FrontendError`."""
        deadline = time.monotonic() + WRITTEN_WITHIN
        while self._held():
            told = self._told()
            if told is not None and Process.of(told.pid) == told:
                return told
            if time.monotonic() > deadline:
                raise FrontendError(f"{self.record}: its guard is not among the processes here; stop it where it runs")
            time.sleep(LOOK_EVERY)
        return None

    def forget(self) -> bool:
        """Empty the record of a guard that is gone; return whether there was one."""
        with self.taken() as claim:
            claim.clear()
            return claim.orphaned

    def _held(self) -> bool:
        try:
            descriptor = os.open(self.record, _OPEN)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _told(self) -> Process | None:
        """Return the record; None while it is not written whole."""
        try:
            with self.record.open("rb") as file:
                return Process(**json.loads(file.read(LARGEST_RECORD)))
        except (OSError, ValueError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class Claim:
    """The place, held. `orphaned` says that a guard died and left its record."""

    descriptor: int
    orphaned: bool

    def write(self) -> None:
        """Say that this process is the guard."""
        process = Process.of(os.getpid())
        assert process is not None  # noqa: S101 - we run
        self.clear()
        os.pwrite(self.descriptor, json.dumps(asdict(process)).encode(), 0)

    def clear(self) -> None:
        """Say that nobody is."""
        os.ftruncate(self.descriptor, 0)


def ended(process: Process, patience: float, hurried: float) -> bool:
    """Ask a guard to stop, and again after `patience` seconds, which hurries it; return whether it ended in time."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        # INVARIANT: compared after the descriptor is held, so the number cannot come to mean another process.
        if Process.of(process.pid) != process:
            return True
        return _asked(descriptor, patience) or _asked(descriptor, hurried)
    finally:
        os.close(descriptor)


def _asked(descriptor: int, patience: float) -> bool:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    watched = select.poll()
    watched.register(descriptor, select.POLLIN)
    return bool(watched.poll(patience * 1000))
