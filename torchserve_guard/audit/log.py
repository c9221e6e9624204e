"""The log: entries appended to one file, one line each, in one order.

`write` leaves the line to the kernel, `record` returns only when it is on the disk. A change is forwarded
after `record`, or not at all.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from torchserve_guard.audit.entry import Entry, Value, render
from torchserve_guard.errors import AuditError


class AuditLog:
    """The open record. `now` gives seconds since the epoch."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self.now = now
        self._lock = threading.Lock()
        self._sequence = 0
        self._torn = False
        self._descriptor = _opened(path)

    def write(self, entry: Entry) -> None:
        """Append one entry. Raises `AuditError` when the line is not whole in the file."""
        with self._lock:
            line = b"\n" * self._torn + render(entry, self._sequence)
            try:
                written = os.write(self._descriptor, line)
            except OSError as error:
                raise self._broken(error.strerror or str(error)) from error
            self._torn = written != len(line)
            if self._torn:
                raise self._broken("the disk took only a part of the line")
            self._sequence += 1

    def event(self, event: str, **fields: Value) -> None:
        """Append an event of the guard itself, durably: a start, a stop, a key renewed."""
        self.write(Entry(self.now(), event, fields))
        self._sync()

    async def record(self, entry: Entry) -> None:
        """Append one entry and return when the disk has it. Raises `AuditError`."""
        self.write(entry)
        await asyncio.get_running_loop().run_in_executor(None, self._sync)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error

    def _broken(self, why: str) -> AuditError:
        return AuditError(
            f"{self.path}: the audit log cannot be written ({why}); free or repair the disk, then try again"
        )

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _opened(path: Path) -> int:
    """Return a descriptor for appending: a regular file of mode 0600, not reached through a link."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise AuditError(
            f"{path}: the audit log cannot be opened ({error.strerror}); set `guard.audit_log` to a file "
            "that this user may write"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AuditError(f"{path}: the audit log must be a regular file; set `guard.audit_log` to one")
    return descriptor
