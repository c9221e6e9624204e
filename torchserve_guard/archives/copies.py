"""The private copy: a tree that its model may write to, made of a staged one and compared with the manifest again.

    ROOT/RANDOM/tree/...     one copy, locked by whoever serves from it

The copy lies beside the store and not in the run directory: blocks are shared within one file system only, and a run
directory is often in memory. A copy ends with its guard: at the stop, or, after a crash, when the next one opens the
store, since a lock ends with the process that held it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path

from torchserve_guard.archives import trees
from torchserve_guard.archives.digests import Crew, gathered
from torchserve_guard.archives.locks import DIRECTORY, Tell, locked, verify_private
from torchserve_guard.archives.manifest import MemberEntry, unpacked
from torchserve_guard.archives.names import parents
from torchserve_guard.archives.room import Claim, Room
from torchserve_guard.archives.sources import Source, open_directory, open_member

FICLONE = 0x40049409  # _IOW(0x94, 9, int) of linux/fs.h: ioctl_ficlone(2)
_NO_CLONES = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EXDEV, errno.EPERM})
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE = 0o600
_AT_ONCE = 64 << 20

Clone = Callable[[int, int], object]
"""Makes the second file share the blocks of the first, or raises OSError."""


class Files(StrEnum):
    """What a model is shown of its archive."""

    READ_ONLY = "read-only"
    REFLINK = "private-copy-reflink"
    COPY = "private-copy"


def ficlone(source: int, target: int) -> None:
    """Make `target` share the blocks of `source`, each of them its own again once it is written to."""
    fcntl.ioctl(target, FICLONE, source)


class Copies:
    """The private copies of one guard, in a private folder that other guards use too."""

    def __init__(self, root: Path, clone: Clone = ficlone, room: Room | None = None, tell: Tell | None = None) -> None:
        verify_private(root)
        self._tell = tell
        self._room = room if room is not None else Room(str(root))
        self._root = root
        self._clone = clone
        self._held: dict[Path, int] = {}
        with locked(self._root, self._tell):
            trees.sweep(self._root)

    def make(
        self, tree: Path, members: tuple[MemberEntry, ...], crew: Crew, name: str | None = None
    ) -> tuple[Path, Files]:
        """Return a writable copy of a staged tree, and how it was made; raise `Drift` if it is not the one listed.

        `name` is what it is called where there is no room for it.
        """
        home = self._home()
        target = home / "tree"
        target.mkdir(mode=0o700)
        try:
            with (
                open_directory(tree, str(tree)) as old,
                open_directory(target, str(target)) as new,
                self._room.claim(f"{name or tree} (its private copy)", new, unpacked(members)) as claim,
            ):
                cloned = self._filled(old, new, members, str(tree), crew, claim=claim)
                # INVARIANT: what the model is shown is compared itself, not what it was made of.
                trees.verify_contents(new, members, str(target), crew)
        except BaseException:
            self.remove(target)
            raise
        return target, Files.REFLINK if cloned else Files.COPY

    def remove(self, tree: Path) -> None:
        """Remove a copy of ours; one that is gone, or nobody's copy, is let be."""
        held = self._held.pop(tree.parent, None)
        if held is not None:
            try:
                trees.remove(tree.parent)
            finally:
                os.close(held)

    def clear(self) -> None:
        """Remove all copies of ours."""
        for home in tuple(self._held):
            self.remove(home / "tree")

    def _home(self) -> Path:
        home = self._root / secrets.token_hex(16)
        # INVARIANT: it has a lock before another guard can sweep.
        with locked(self._root, self._tell):
            home.mkdir(mode=0o700)
            self._held[home] = os.open(home, DIRECTORY)
            fcntl.flock(self._held[home], fcntl.LOCK_EX)
        return home

    def _filled(
        self, old: int, new: int, members: tuple[MemberEntry, ...], where: str, crew: Crew, *, claim: Claim
    ) -> bool:
        """Copy every member; return whether all of them share their blocks."""
        for folder in sorted(_folders(members)):
            os.mkdir(folder, 0o700, dir_fd=new)
        marker = trees.marker_of(members)
        if marker is not None:
            os.close(os.open(marker, _NEW, _FILE_MODE, dir_fd=new))
        files = [member for member in members if not member.path.endswith("/")]
        return all(
            gathered([crew.submit(self._copied, old, new, member.path, where, crew, claim=claim) for member in files])
        )

    def _copied(self, old: int, new: int, path: str, where: str, crew: Crew, *, claim: Claim) -> bool:
        crew.heed(0)
        with open_member(old, path, where) as source:
            claim.spend(source.size)
            target = os.open(path, _NEW, _FILE_MODE, dir_fd=new)
            try:
                return self._cloned(source, target) or _sent(source, target, crew)
            finally:
                os.close(target)

    def _cloned(self, source: Source, target: int) -> bool:
        try:
            self._clone(source.descriptor, target)
        except OSError as error:
            if error.errno not in _NO_CLONES:
                raise
            return False
        return True


def _folders(members: Iterable[MemberEntry]) -> set[str]:
    above = {parent for member in members for parent in parents(member.path)}
    return above | {member.path for member in members if member.path.endswith("/")}


def _sent(source: Source, target: int, crew: Crew) -> bool:
    """Copy a file within the kernel; return that no blocks are shared. What is short is found by who compares."""
    offset = 0
    while offset < source.size and (count := os.sendfile(target, source.descriptor, offset, _AT_ONCE)):
        offset += count
        crew.heed(count)
    return False
