"""A tree: the unpacked members of one subject, written once, read-only, and comparable with its record.

INVARIANT: a tree is written in a private directory (0700, ours) by names that `names.fault` let through, and
holds no link; so a path beneath it leads nowhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from torchserve_guard.archives.digests import Crew, digest_of, gathered
from torchserve_guard.archives.locks import abandoned
from torchserve_guard.archives.manifest import MemberEntry
from torchserve_guard.archives.names import MARKER, parents
from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.room import Claim, Room
from torchserve_guard.archives.sources import listing, open_directory, open_member
from torchserve_guard.errors import VerificationError

FILE_MODE = 0o400
DIRECTORY_MODE = 0o500
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Drift(VerificationError):
    """A staged tree is no longer what was staged."""


class TreeWriter:
    """A sink that writes the members beneath a directory, as far as there is room for them."""

    def __init__(self, root: int, claim: Claim | None = None) -> None:
        self._root = root
        self._claim = claim if claim is not None else Claim(Room("the tree", left=0), "what is unpacked", root)
        self._made: set[str] = set()
        self._file = -1

    def expect(self, size: int) -> None:
        """Raise GuardError when the disk has no room for so many bytes."""
        self._claim.ask(size)

    def open(self, path: str) -> None:
        """Create a file and the directories above it, or an empty directory."""
        for parent in parents(path):
            self._directory(parent)
        if path.endswith("/"):
            self._directory(path)
        else:
            self._file = os.open(path, _NEW, FILE_MODE, dir_fd=self._root)

    def write(self, data: bytes | memoryview) -> None:
        """Write a piece to the open file."""
        view = memoryview(data)
        self._claim.spend(len(view))
        while view:
            view = view[os.write(self._file, view) :]

    def close(self) -> None:
        """Close the open file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _directory(self, path: str) -> None:
        if path not in self._made:
            os.mkdir(path, 0o700, dir_fd=self._root)
            self._made.add(path)


def seal(tree: Path, members: Iterable[MemberEntry]) -> None:
    """Make a tree read-only, with a marker beside a lone directory, or TorchServe would read one level down."""
    marker = marker_of(members)
    if marker is not None:
        os.close(os.open(tree / marker, _NEW, FILE_MODE))
    for directory, _, files in os.walk(tree, topdown=False):
        for name in files:
            os.chmod(Path(directory, name), FILE_MODE)  # noqa: PTH101 - the umask may have taken more than that
        os.chmod(directory, DIRECTORY_MODE)  # noqa: PTH101


def marker_of(members: Iterable[MemberEntry]) -> str | None:
    """Return the marker's name if the tree needs one: its only entry is a directory (ModelArchive.java)."""
    tops = {member.path.partition("/")[:2] for member in members}
    return MARKER if len(tops) == 1 and next(iter(tops))[1] else None


def verify(tree: Path, members: tuple[MemberEntry, ...], crew: Crew, tell: Progress | None = None) -> None:
    """Return if the tree holds exactly these members, untouched; raise `Drift` with the first difference.

    `tell` is told the bytes of the tree, by several threads.
    """
    where = str(tree)
    try:
        with open_directory(tree, where) as root:
            _verify_shape(root, members, where)
            verify_contents(root, members, where, crew, tell)
    except VerificationError as error:
        raise Drift(str(error)) from error


def verify_contents(
    root: int, members: tuple[MemberEntry, ...], where: str, crew: Crew, tell: Progress | None = None
) -> None:
    """Return if the files of a tree have these digests; on all cores, the largest first. Raise `Drift`."""
    files = sorted((member for member in members if not member.path.endswith("/")), key=lambda member: -member.size)

    def verify_one(member: MemberEntry) -> None:
        with open_member(root, member.path, where) as source:
            if source.size != member.size or digest_of(source, tell or crew.heed) != member.sha256:
                raise Drift(f"{where}!{member.path}: was changed in the staged tree")

    gathered([crew.submit(verify_one, member) for member in files])


def sweep(folder: Path) -> None:
    """Remove the trees in a folder that nobody holds any more; to be called by whoever has the folder's lock."""
    for leftover in folder.iterdir():
        if leftover.is_symlink() or not leftover.is_dir():
            leftover.unlink()
            continue
        with abandoned(leftover) as nobodys:
            if nobodys:
                remove(leftover)


def remove(path: Path) -> None:
    """Remove a tree and what is around it, read-only or not; links are removed, not followed."""
    if path.is_symlink():
        path.unlink()
        return
    for directory, names, files in os.walk(path):
        os.chmod(directory, 0o700)  # noqa: PTH101 - os.walk does not follow links
        for name in names:
            entry = Path(directory, name)
            if entry.is_symlink():
                entry.unlink()
            else:
                entry.chmod(0o700)
        for name in files:
            Path(directory, name).unlink()
    for directory, _, _ in os.walk(path, topdown=False):
        with suppress(FileNotFoundError):
            Path(directory).rmdir()


def _verify_shape(root: int, members: tuple[MemberEntry, ...], where: str) -> None:
    """Compare paths, kinds, owners, modes and sizes; nothing is opened but directories."""
    wanted: dict[str, int | None] = {parent: None for member in members for parent in parents(member.path)}
    wanted |= {member.path: None if member.path.endswith("/") else member.size for member in members}
    marker = marker_of(members)
    if marker is not None:
        wanted[marker] = 0
    _verify_status(os.fstat(root), None, where, "/")
    for path, status in listing(root, where):
        if path not in wanted:
            raise Drift(f"{where}!{path}: was added to the staged tree")
        _verify_status(status, wanted.pop(path), where, path)
    if wanted:
        raise Drift(f"{where}!{min(wanted)}: is missing from the staged tree")


def _verify_status(status: os.stat_result, size: int | None, where: str, path: str) -> None:
    mode = stat.S_IFDIR | DIRECTORY_MODE if size is None else stat.S_IFREG | FILE_MODE
    if status.st_mode != mode or status.st_uid != os.geteuid():
        raise Drift(f"{where}!{path}: kind, mode or owner was changed in the staged tree")
    if size is not None and (status.st_size != size or status.st_nlink != 1):
        raise Drift(f"{where}!{path}: size or number of links was changed in the staged tree")
