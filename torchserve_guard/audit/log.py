"""The log: entries appended to one file, one line each, in one order.

`write` leaves the line to the kernel, `record` returns only when it is on the disk. A change is forwarded
after `record`, or not at all. The file is the one that stands at the path: one that was removed, renamed or
replaced is left, and a new one begun with `log-reopened`.
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

LOOK_EVERY = 1.0
REOPENED = "log-reopened"


class AuditLog:
    """The open record. `now` gives seconds since the epoch."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self.path = path
        self.now = now
        self._lock = threading.Lock()
        self._sequence = 0
        self._descriptor = _opened(path)
        self._torn = _ends_torn(self._descriptor)
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
        if not self._stands():
            self._reopen()
            self._unannounced = True
        if self._unannounced:
            self._append(Entry(self.now(), REOPENED))
            self._unannounced = False
        self._looked = self.now()

    def _stands(self) -> bool:
        """Whether the path still leads, without a link, to the file that is open."""
        try:
            return os.path.samestat(self.path.lstat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def _reopen(self) -> None:
        # INVARIANT: the number of the descriptor never changes and the old file is on the disk before it is left,
        # so that a `record` whose sync is still to come loses nothing and syncs nothing of somebody else's.
        self._sync()
        descriptor = _opened(self.path)
        try:
            self._torn = _ends_torn(descriptor)
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


def _opened(path: Path) -> int:
    """Return a descriptor for appending: a regular file that nobody else may write, not reached through a link."""
    # Read too: only so is it seen whether the last line is whole.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise AuditError(
            f"{path}: the audit log cannot be opened ({error.strerror}); set `guard.audit_log` to a file "
            "that this user may read and write"
        ) from error
    try:
        _verify_ours(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _verify_ours(path: Path, descriptor: int) -> None:
    """Raise `AuditError` unless it is a regular file that only root and this user may write."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise AuditError(f"{path}: the audit log must be a regular file; set `guard.audit_log` to one")
    if status.st_uid not in {0, os.geteuid()}:
        raise AuditError(
            f"{path}: the audit log belongs to user {status.st_uid}, who could rewrite it; remove or `chown` it, "
            "or set `guard.audit_log` to a file of this user"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        try:
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise AuditError(
                f"{path}: the audit log may be written by others, and this user may not change that "
                f"({error.strerror}); `chmod 600` it"
            ) from error


def _ends_torn(descriptor: int) -> bool:
    """Whether the file ends in the middle of a line: an earlier run was cut off there."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
