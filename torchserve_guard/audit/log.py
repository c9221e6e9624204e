"""The log: entries appended to one file, one line each, in one order.

`write` leaves the line to the kernel, `record` returns only when it is on the disk. A change is forwarded
after `record`, or not at all. The file is the one that stands at the path: one that was removed, renamed or
replaced is left, and a new one begun with `log-reopened`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

from torchserve_guard.audit import file
from torchserve_guard.audit.entry import Entry, Value, render
from torchserve_guard.errors import AuditError

LOOK_EVERY = 1.0
REOPENED = "log-reopened"
WHAT, KEY = "audit log", "guard.audit_log"


class AuditLog:
    """The open record. `now` gives seconds since the epoch."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self.now = now
        self._lock = threading.Lock()
        self._sequence = 0
        self._descriptor = file.opened(path, WHAT, KEY)
        self._torn = file.ends_torn(self._descriptor)
        self._looked = now()
        self._unannounced = False

    def write(self, entry: Entry) -> None:
        """Append one entry. Raises `AuditError` when the line is not whole in the file."""
        with self._lock:
            # Not at each refusal: those come as fast as a client sends, and one look is three system calls.
            if abs(self.now() - self._looked) >= LOOK_EVERY:
                self._follow()
            self._append(entry)

    def event(self, event: str, **fields: Value) -> None:
        """Append an event of the guard itself, durably: a start, a stop, a key renewed."""
        self._write_where_it_is_found(Entry(self.now(), event, fields))
        self._sync()

    async def record(self, entry: Entry) -> None:
        """Append one entry and return when the disk has it. Raises `AuditError`."""
        self._write_where_it_is_found(entry)
        await asyncio.get_running_loop().run_in_executor(None, self._sync)

    def _write_where_it_is_found(self, entry: Entry) -> None:
        with self._lock:
            self._follow()
            self._append(entry)

    def _append(self, entry: Entry) -> None:
        line = b"\n" * self._torn + render(entry, self._sequence)
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error
        self._torn = written != len(line)
        if self._torn:
            raise self._broken("the disk took only a part of the line")
        self._sequence += 1

    def _follow(self) -> None:
        """Go on in the file that stands at the path now, and say so in it first."""
        if not file.stands(self.path, self._descriptor):
            self._reopen()
            self._unannounced = True
        if self._unannounced:
            self._append(Entry(self.now(), REOPENED))
            self._unannounced = False
        self._looked = self.now()

    def _reopen(self) -> None:
        # INVARIANT: the number of the descriptor never changes and the old file is on the disk before it is left,
        # so that a `record` whose sync is still to come loses nothing and syncs nothing of somebody else's.
        self._sync()
        descriptor = file.opened(self.path, WHAT, KEY)
        try:
            self._torn = file.ends_torn(descriptor)
            os.dup2(descriptor, self._descriptor, inheritable=False)
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error
        finally:
            os.close(descriptor)

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
