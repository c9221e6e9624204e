"""The locks: folders that are ours alone, and who holds them; a lock ends with the process that held it."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchserve_guard.errors import ConfigError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def verify_private(directory: Path) -> None:
    """Make a directory that only we can enter; one that is there must be such already."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"{directory}: the store cannot be made: {error.strerror}") from error
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{directory}: the store is not a directory; links are not followed here")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{directory}: the store belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{directory}: the store is open to others (mode {mode:04o}): `chmod 700 {directory}`")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the store for a moment, against other guards that share it."""
    descriptor = os.open(directory, DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def abandoned(leftover: Path) -> Iterator[bool]:
    """Tell whether whoever made a folder is gone; if so, hold it."""
    descriptor = os.open(leftover, DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
