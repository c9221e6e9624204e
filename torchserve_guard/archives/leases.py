"""The leases: which subjects of a store somebody is using, be it another process that shares the store.

    LEASES/RANDOM     one file for each user, locked as long as that user lives; a line for each subject

All functions are called by whoever holds the store's own lock, so nobody begins to use what somebody else removes. A
lock ends with the process that held it, so a crash leaves no lease that counts.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from pathlib import Path

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Lease:
    """The lease of one user, who has it until it is closed, forgotten, or the process ends."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / secrets.token_hex(16), _NEW, 0o600)
        self._claimed: set[str] = set()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.close = weakref.finalize(self, os.close, self._file)

    def claim(self, name: str) -> None:
        """Note that a subject is used from now on."""
        if name not in self._claimed:
            os.write(self._file, f"{name}\n".encode())
            self._claimed.add(name)


def claimed(folder: Path) -> frozenset[str]:
    """Return the names of all that is in use; remove the leases of users that are no more."""
    return frozenset(name for path in list(folder.iterdir()) for name in _names(path))


def _names(path: Path) -> list[str]:
    descriptor = os.open(path, _OLD)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return path.read_text().splitlines()
    else:
        path.unlink()
        return []
    finally:
        os.close(descriptor)
