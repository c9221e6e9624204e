"""The texts: small members of a subject, kept as they pass by or read where they are staged; never without end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torchserve_guard.archives.manifest import SubjectEntry
from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.reading import as_listed, read_subject
from torchserve_guard.archives.sources import open_directory, open_member
from torchserve_guard.archives.store import Staged

LARGEST: Final = 1 << 20
"""Bytes of a member that is kept."""
MOST: Final = 32 << 20
"""Bytes that are kept of one subject."""


def read(staged: Staged, member: str, largest: int = LARGEST) -> bytes:
    """Return a staged member's bytes, or as many as `largest`; raise VerificationError."""
    where = str(staged.tree)
    with open_directory(staged.tree, where) as root, open_member(root, member, where) as file:
        return file.read(0, min(file.size, largest))


def collect(
    path: Path, promised: SubjectEntry, wanted: Callable[[str], bool], progress: Progress | None = None
) -> dict[str, bytes | None]:
    """Return the wanted texts of an archive that is what is promised, by their paths; raise VerificationError."""
    found = Texts(wanted, {})
    read_subject(path, promised, found, as_listed(promised), progress)
    return found.kept


@dataclass(slots=True)
class Texts:
    """A sink that keeps the members that are wanted by their path; None stands for one that is too large."""

    wanted: Callable[[str], bool]
    kept: dict[str, bytes | None]
    _path: str | None = None
    _data: bytearray | None = None
    _total: int = 0

    def expect(self, size: int) -> None:
        """Take note of nothing: what is too large shows as it comes."""

    def open(self, path: str) -> None:
        """Begin a member."""
        self._path = path if not path.endswith("/") and self.wanted(path) else None
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Keep a piece, or let go of the member that has become too large."""
        if self._path is None or self._data is None:
            return
        if len(self._data) + len(data) > LARGEST or self._total + len(data) > MOST:
            self._total -= len(self._data)
            self._data = None
            return
        self._data += data
        self._total += len(data)

    def close(self) -> None:
        """End the member."""
        if self._path is not None:
            self.kept[self._path] = bytes(self._data) if self._data is not None else None
        self._path = None
