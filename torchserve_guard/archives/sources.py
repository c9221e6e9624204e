"""A source: a regular file, or a directory of regular files, held by descriptors that follow no link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.refusal import refuse
from torchserve_guard.errors import VerificationError

CHUNK = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Source:
    """An open regular file, as large as it was when it was opened."""

    descriptor: int
    status: os.stat_result
    where: str
    member: str | None = None

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes; raise VerificationError when the file has become shorter."""
        data = os.pread(self.descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self.descriptor, length - len(data), offset + len(data))
            if not more:
                refuse(self.where, self.member, "became shorter while it was read")
            data += more
        return data

    def pieces(self, span: tuple[int, int]) -> Iterator[memoryview]:
        """Yield the bytes of a span, each piece in the same memory: the one before is gone by then."""
        begin, end = span
        view = memoryview(bytearray(min(CHUNK, max(end - begin, 0))))
        while begin < end:
            got = os.preadv(self.descriptor, [view[: end - begin]], begin)
            if not got:
                refuse(self.where, self.member, "became shorter while it was read")
            yield view[:got]
            begin += got

    def chunks(self, progress: Progress | None = None) -> Iterator[bytes]:
        """Yield the whole file from its front."""
        for offset in range(0, self.size, CHUNK):
            chunk = self.read(offset, min(CHUNK, self.size - offset))
            yield chunk
            if progress is not None:
                progress(len(chunk))


def size_of(path: Path) -> int:
    """Return about how many bytes a file or directory has, 0 where that cannot be seen: for a progress, not a proof."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        with open_directory(path, str(path)) as root:
            return sum(status.st_size for _, status in listing(root, str(path)) if stat.S_ISREG(status.st_mode))
    except (OSError, VerificationError):
        return 0


@contextmanager
def open_file(
    path: Path | str, where: str, member: str | None = None, *, beneath: int | None = None
) -> Iterator[Source]:
    """Hold a regular file open; links, pipes and devices are refused, and nothing is waited for."""
    try:
        descriptor = os.open(path, _FILE, dir_fd=beneath)
    except OSError as error:
        refuse(where, member, _why(error))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            refuse(where, member, "is not a regular file")
        yield Source(descriptor, status, where, member)
    finally:
        os.close(descriptor)


@contextmanager
def open_directory(
    path: Path | str, where: str, member: str | None = None, *, beneath: int | None = None
) -> Iterator[int]:
    """Hold a directory open; a link to one is refused."""
    try:
        descriptor = os.open(path, _DIRECTORY, dir_fd=beneath)
    except OSError as error:
        refuse(where, member, _why(error))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_member(root: int, path: str, where: str) -> Iterator[Source]:
    """Hold a file beneath a directory open, component by component, following no link anywhere."""
    parent, _, name = path.rpartition("/")
    if not parent:
        with open_file(name, where, path, beneath=root) as source:
            yield source
        return
    with (
        _descend(root, parent.split("/"), where) as directory,
        open_file(name, where, path, beneath=directory) as source,
    ):
        yield source


def listing(root: int, where: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield each path beneath a directory with its own status; a directory's path ends in `/`."""
    with os.scandir(root) as entries:
        found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    for name, status in found:
        path = prefix + name
        if stat.S_ISDIR(status.st_mode):
            yield path + "/", status
            with open_directory(name, where, path, beneath=root) as descriptor:
                yield from listing(descriptor, where, path + "/")
        else:
            yield path, status


@contextmanager
def _descend(root: int, parts: list[str], where: str) -> Iterator[int]:
    with open_directory(parts[0], where, parts[0], beneath=root) as descriptor:
        if len(parts) == 1:
            yield descriptor
            return
        with _descend(descriptor, parts[1:], where) as deeper:
            yield deeper


_REASONS = {
    "ELOOP": "is a symbolic link: put the file itself there",
    "ENOENT": "does not exist",
    "EACCES": "may not be read by this user",
    "ENOTDIR": "is not a directory, or a symbolic link",
    "ENXIO": "is a socket or a device",
}


def _why(error: OSError) -> str:
    return _REASONS.get(errno.errorcode.get(error.errno or 0, ""), f"cannot be opened: {error.strerror}")
