"""The locks: folders that are ours alone, and who holds them; a lock ends with the process that held it."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torchserve_guard.errors import ConfigError, GuardError

Tell = Callable[[str], object]
"""Is told what is waited for."""
PATIENCE = 1.0
"""Seconds for which nobody needs to be told: the store is locked for moments."""
BOUND = 30.0
"""Seconds after which whoever waits gives up: who holds the lock then is stuck, or is not a guard."""
_LOCKS = Path("/proc/locks")
_AGAIN = (0.001, 0.05)
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def verify_private(directory: Path, what: str = "the store") -> None:
    """Make a directory that only we can enter; one that is there must be such already. `what` it is for the reader."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"{directory}: {what} cannot be made: {error.strerror}") from error
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{directory}: {what} is not a directory; links are not followed here")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{directory}: {what} belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{directory}: {what} is open to others (mode {mode:04o}): `chmod 700 {directory}`")


@contextmanager
def locked(directory: Path, tell: Tell | None = None) -> Iterator[None]:
    """Hold the store for a moment, against other guards that share it.

    `tell` is told of a wait that is longer than a moment. Raises GuardError when it takes longer than any guard does.
    """
    descriptor = os.open(directory, DIRECTORY)
    try:
        _take(descriptor, directory, tell)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, directory: Path, tell: Tell | None) -> None:
    pause, longest = _AGAIN
    began = time.monotonic()
    while not taken(descriptor):
        waited = time.monotonic() - began
        if waited > BOUND:
            raise GuardError(
                f"{directory}: is locked by {_holder(descriptor)}, and was not let go within {BOUND:.0f} seconds, "
                "where a guard needs a moment; end what holds it, or name another `guard.state_dir`"
            )
        if waited > PATIENCE and tell is not None:
            tell(f"waiting for {directory}, which is locked by {_holder(descriptor)}; {BOUND:.0f} seconds at most")
            tell = None
        time.sleep(pause)
        pause = min(2 * pause, longest)


def taken(descriptor: int) -> bool:
    """Take the lock of an open file if nobody has it, and return whether it was so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    """Return who holds the lock of an open file, in words, as the kernel tells it (proc_locks(5))."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        rows = [line.split() for line in _LOCKS.read_text("ascii").splitlines()]
    except (OSError, ValueError):
        rows = []
    # Whoever waits has `->` in the second column. A process of another container has no number here.
    held = [row[4] for row in rows if row[1:2] == ["FLOCK"] and row[5:6] == [place] and row[4] not in {"0", "-1"}]
    return f"process {held[0]}" if held else "another process"


@contextmanager
def abandoned(leftover: Path) -> Iterator[bool]:
    """Tell whether whoever made a folder is gone; if so, hold it."""
    descriptor = os.open(leftover, DIRECTORY)
    try:
        yield taken(descriptor)
    finally:
        os.close(descriptor)
