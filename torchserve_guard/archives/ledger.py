"""The ledger: members as they pass by, each with its size and SHA-256; and how two such lists differ. Pure."""

from __future__ import annotations

import hashlib

from torchserve_guard.archives import mar
from torchserve_guard.archives.manifest import MemberEntry
from torchserve_guard.archives.names import parents
from torchserve_guard.archives.passage import Sink


class Ledger:
    """A sink that hashes the members, keeps the archive's own manifest, and passes all on to another sink."""

    def __init__(self, behind: Sink | None = None) -> None:
        self._behind = behind
        self._path = ""
        self._size = 0
        self._digest = hashlib.sha256()
        self._entries: list[MemberEntry] = []
        self.manifest = bytearray()

    def entries(self) -> tuple[MemberEntry, ...]:
        """Return the members by the bytes of their paths; of the directories only the empty ones."""
        taken = {parent for entry in self._entries for parent in parents(entry.path)}
        kept = (entry for entry in self._entries if entry.path not in taken)
        return tuple(sorted(kept, key=lambda entry: entry.path.encode()))

    def expect(self, size: int) -> None:
        """Pass on how much will come."""
        if self._behind is not None:
            self._behind.expect(size)

    def open(self, path: str) -> None:
        """Begin a member."""
        self._path, self._size, self._digest = path, 0, hashlib.sha256()
        if self._behind is not None:
            self._behind.open(path)

    def write(self, data: bytes | memoryview) -> None:
        """Hash a piece, and pass it on."""
        self._digest.update(data)
        self._size += len(data)
        if self._path == mar.MANIFEST:
            self.manifest += data
        if self._behind is not None:
            self._behind.write(data)

    def close(self) -> None:
        """Enter the member."""
        self._entries.append(MemberEntry(path=self._path, size=self._size, sha256=self._digest.hexdigest()))
        if self._behind is not None:
            self._behind.close()


def differences(promised: tuple[MemberEntry, ...], found: tuple[MemberEntry, ...]) -> list[str]:
    """Return what differs, member by member, in words."""
    left, right = ({entry.path: entry for entry in entries} for entries in (promised, found))
    rows = []
    for path in sorted(left.keys() | right.keys()):
        if path not in right:
            rows.append(f"`{path}` is missing")
        elif path not in left:
            rows.append(f"`{path}` is not listed")
        elif left[path] != right[path]:
            rows.append(f"`{path}` is {right[path].sha256} ({right[path].size} bytes), not {left[path].sha256}")
    return rows
