"""The quarantine: archives on their way, each under the digest that it must turn out to have.

    FOLDER/KIND-DIGEST         what has come of it so far; locked by whoever fetches it
    FOLDER/KIND-DIGEST.json    from where, with which validator, and how long the whole is

Nothing here is ever shown to TorchServe, or taken apart before its digest was compared. A partial file is continued by
the next who wants the same archive; one that nobody wanted for long is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torchserve_guard import draft
from torchserve_guard.archives.locks import taken, verify_private
from torchserve_guard.archives.manifest import SubjectEntry
from torchserve_guard.archives.remote.watch import Watch
from torchserve_guard.archives.room import LEFT
from torchserve_guard.errors import GuardError

KEPT = 14 * 86400.0
"""Seconds for which a file is kept that nobody asks for."""
PIECE = 1 << 20
AGAIN = 0.2
LARGEST_NOTE = 16384
_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a file that is being fetched. `origin` is its address without the query."""

    origin: str
    validator: str | None
    total: int | None


class Partial:
    """One archive on its way, locked and open, hashed as it grows; `pieced` when it did not come in one go."""

    def __init__(self, path: Path, descriptor: int, heed: Callable[[], object]) -> None:
        self.path = path
        self._heed = heed
        self._descriptor = descriptor
        self._beside = path.with_name(f"{path.name}.json")
        self.size = os.fstat(descriptor).st_size
        self._digest = hashlib.sha256()
        self._hashed = 0
        self.pieced = self.size > 0
        self.note = self._noted()

    def begin(self, note: Note) -> None:
        """Begin anew: what is there is forgotten before the note says what will be."""
        self.forget()
        with _told(self.path):
            draft.replace(self._beside, json.dumps(asdict(note)).encode())
        self.note = note

    def verify_room(self, count: int) -> None:
        """Return if the disk takes so many bytes more; raise `GuardError`."""
        with _told(self.path):
            disk = os.fstatvfs(self._descriptor)
        if disk.f_bavail * disk.f_frsize < count + LEFT:
            raise GuardError(f"{self.path}: the disk has no room for {count} bytes more; make some, or move the state")

    def append(self, data: bytes | memoryview) -> None:
        """Write behind what is there."""
        self._catch_up()
        self.verify_room(len(data))
        view = memoryview(data)
        while view:
            with _told(self.path):
                written = os.pwrite(self._descriptor, view, self.size)
            self._digest.update(view[:written])
            self.size += written
            self._hashed = self.size
            view = view[written:]

    def digest(self) -> str:
        """Return the SHA-256 of what is there."""
        self._catch_up()
        return self._digest.hexdigest()

    def used(self) -> None:
        """Take note that it was wanted: it is kept for longer."""
        with _told(self.path):
            os.utime(self._descriptor)

    def forget(self) -> None:
        """Let go of what is there, and of its note."""
        with _told(self.path):
            self._beside.unlink(missing_ok=True)
            os.ftruncate(self._descriptor, 0)
        self.size = self._hashed = 0
        self._digest = hashlib.sha256()
        self.pieced = False
        self.note = None

    def discard(self) -> None:
        """Remove it."""
        self.forget()
        with _told(self.path):
            self.path.unlink(missing_ok=True)

    def _catch_up(self) -> None:
        while self._hashed < self.size:
            self._heed()
            with _told(self.path):
                piece = os.pread(self._descriptor, min(PIECE, self.size - self._hashed), self._hashed)
            if not piece:
                raise GuardError(f"{self.path}: became shorter while it was read")
            self._digest.update(piece)
            self._hashed += len(piece)

    def _noted(self) -> Note | None:
        """Return what the note says; what cannot be read says nothing, and the file is begun anew."""
        try:
            with os.fdopen(os.open(self._beside, _READ), "rb") as file:
                note = Note(**json.loads(file.read(LARGEST_NOTE)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        # The validator becomes a line of a request.
        plain = isinstance(note.validator, str | None) and (note.validator or "").isascii()
        whole = plain and (note.validator or "").isprintable() and isinstance(note.total, int | None)
        return note if whole and isinstance(note.origin, str) else None


class Quarantine:
    """The quarantine in a private folder, which is made if it is not there. `now` is in seconds since the epoch."""

    def __init__(self, folder: Path, now: float) -> None:
        self._folder = folder
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        verify_private(folder)
        self._sweep(now)

    @contextmanager
    def hold(self, subject: SubjectEntry, watch: Watch) -> Iterator[Partial]:
        """Lend what there is of an archive; while somebody else fetches it, wait. Raises `GuardError`."""
        path = self._folder / f"{subject.kind}-{subject.sha256}"
        descriptor = self._locked(path, watch)
        try:
            yield Partial(path, descriptor, watch.verify)
        finally:
            os.close(descriptor)

    def _locked(self, path: Path, watch: Watch) -> int:
        while True:
            with _told(path):
                descriptor = os.open(path, _FILE, 0o600)
            if taken(descriptor) and _stands(path, descriptor):
                _verify_ours(path, descriptor)
                return descriptor
            os.close(descriptor)
            watch.pause(AGAIN)

    def _sweep(self, now: float) -> None:
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if now - path.lstat().st_mtime > KEPT:
                    _remove_unless_held(path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GuardError(f"{path}: what is fetched cannot be kept: {error.strerror or error}") from error


def _remove_unless_held(path: Path) -> None:
    descriptor = os.open(path, _READ)
    try:
        if taken(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def _verify_ours(path: Path, descriptor: int) -> None:
    """Return if what was locked is a file that has no other name, which would be written to as well."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise GuardError(f"{path}: is not a file of the guard's own, or has a second name; remove it")


def _stands(path: Path, descriptor: int) -> bool:
    """Whether the file that was locked is still the one of this name: who held it before may have removed it."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
