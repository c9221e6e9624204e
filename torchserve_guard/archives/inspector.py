"""The inspector: staged trees held against their members, by a process of its own that gets out of everybody's way.

Run as `python -I -S inspector.py`, with one JSON document as its standard input; it prints one line of JSON for each
tree. A thread would hold the interpreter's lock while it waits for a processor, and with it the door. The file imports
the standard library only, and stands alone.

It opens nothing but regular files and directories, follows no link, waits for no pipe, and stops to look at a tree that
holds far more than was staged in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

PIECE: Final = 1 << 20
MOST_TOLD: Final = 8
WORTH_A_PAUSE: Final = 0.002
FILE: Final = stat.S_IFREG | 0o400
FOLDER: Final = stat.S_IFDIR | 0o500
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC

Pace = Callable[[], None]
"""Called before each name and after each piece; it takes the time that others may have."""


class Promised(NamedTuple):
    """What a member must be: its size and SHA-256; of a folder None and an empty text."""

    size: int | None
    sha256: str


class Tree(NamedTuple):
    """A tree to look at. `ours` says that its model may write to it: then members must stand, and more may be there.

    `print` is the tree's print when it was staged, None when nobody took it.
    """

    path: str
    members: Mapping[str, Promised]
    print: str | None
    ours: bool


class _Enough(Exception):
    """What was found is enough to tell."""


class Inspection:
    """One look at one tree: what was found wrong, and how much was read."""

    def __init__(self, tree: Tree, pace: Pace) -> None:
        self._tree = tree
        self._pace = pace
        self._left = dict(tree.members)
        self._prints = hashlib.sha256()
        self.found: list[str] = []
        self.size = 0

    def look(self) -> None:
        """Look at the whole tree."""
        with suppress(_Enough):
            try:
                with _opened(self._tree.path, None, _FOLDER) as root:
                    (self._members if self._tree.ours else self._whole)(root)
            except OSError as error:
                self._tell("/", f"cannot be read ({error.strerror})")

    def _whole(self, root: int) -> None:
        status = os.fstat(root)
        self._prints.update(_line("/", status))
        self._verify_sealed(status, None, "/")
        self._folder(root, "")
        for path in sorted(self._left):
            self._tell(path, "is missing")
        if not self.found and self._tree.print not in {None, self._prints.hexdigest()}:
            # The kernel sets the time of a change; whoever puts an old file back changes it once more.
            self._tell("/", "was changed, or replaced by an equal one, and changed back since it was verified")

    def _folder(self, folder: int, prefix: str) -> None:
        for name, status in _listed(folder, len(self._tree.members) + MOST_TOLD):
            self._pace()
            path = prefix + name + ("/" if stat.S_ISDIR(status.st_mode) else "")
            promised = self._left.pop(path, None)
            if promised is None:
                self._tell(path, "was added")
                continue
            self._prints.update(_line(path, status))
            # INVARIANT: only what looked like a file or a folder is opened: a pipe or a device could answer.
            if self._verify_sealed(status, promised.size, path):
                self._descend(folder, name, path, promised)

    def _descend(self, folder: int, name: str, path: str, promised: Promised) -> None:
        try:
            if promised.size is not None:
                self._file(folder, name, path, promised)
            else:
                with _opened(name, folder, _FOLDER) as deeper:
                    self._folder(deeper, path)
        except OSError as error:
            self._tell(path, f"cannot be read ({error.strerror})")

    def _members(self, root: int) -> None:
        """Look at the members only, in a tree that its model may write to."""
        for path, promised in sorted(self._left.items()):
            self._pace()
            try:
                with _beneath(root, path.rstrip("/").split("/")) as (folder, name):
                    if self._verify_owned(os.lstat(name, dir_fd=folder), path) and promised.size is not None:
                        self._file(folder, name, path, promised)
            except FileNotFoundError:
                self._tell(path, "is missing")
            except OSError as error:
                self._tell(path, f"cannot be read ({error.strerror})")

    def _verify_sealed(self, status: os.stat_result, size: int | None, path: str) -> bool:
        """Hold kind, mode, owner and names against what staging left; return whether the kind is right."""
        sealed = FOLDER if size is None else FILE
        if status.st_mode != sealed:
            self._tell(path, f"has another kind or mode ({stat.filemode(status.st_mode)})")
        elif status.st_uid != os.geteuid():
            self._tell(path, f"belongs to user {status.st_uid}")
        elif size is not None and status.st_nlink != 1:
            self._tell(path, "has another name elsewhere (a hard link)")
        return stat.S_IFMT(status.st_mode) == stat.S_IFMT(sealed)

    def _verify_owned(self, status: os.stat_result, path: str) -> bool:
        """Hold a member of a writable tree against what may become of it; return whether it is to be looked into."""
        if stat.S_ISLNK(status.st_mode):
            self._tell(path, "is a symbolic link")
            return False
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            self._tell(path, f"may be written by others ({stat.filemode(status.st_mode)}, user {status.st_uid})")
        return True

    def _file(self, folder: int, name: str, path: str, promised: Promised) -> None:
        with _opened(name, folder, _FILE) as descriptor:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                self._tell(path, "is not a regular file")
            elif before.st_size != promised.size:
                self._tell(path, f"has {before.st_size} bytes, not {promised.size}")
            elif self._digest(descriptor, before.st_size) != promised.sha256:
                self._tell(path, "has other contents")
            elif os.fstat(descriptor).st_ctime_ns != before.st_ctime_ns and not self._tree.ours:
                self._tell(path, "was changed while it was read")

    def _digest(self, descriptor: int, size: int) -> str:
        digest, view, offset = hashlib.sha256(), memoryview(bytearray(min(PIECE, size + 1))), 0
        # One byte more than it should have: a file that grows is read no further.
        while offset <= size and (got := os.preadv(descriptor, [view[: size + 1 - offset]], offset)):
            digest.update(view[:got])
            offset += got
            self.size += got
            self._pace()
        return digest.hexdigest()

    def _tell(self, path: str, what: str) -> None:
        self.found.append(f"`{path}` {what}")
        if len(self.found) >= MOST_TOLD:
            raise _Enough


def print_of(path: str) -> str:
    """Return the print of a tree: one value over the time of the last change of everything in it. Raises OSError.

    No program can set these times (only the clock of the machine can), so what is put back in its place shows.
    """
    prints = hashlib.sha256()
    with _opened(path, None, _FOLDER) as root:
        prints.update(_line("/", os.fstat(root)))
        _print(root, "", prints.update)
    return prints.hexdigest()


def _print(folder: int, prefix: str, update: Callable[[bytes], object]) -> None:
    for name, status in _listed(folder, None):
        path = prefix + name + ("/" if stat.S_ISDIR(status.st_mode) else "")
        update(_line(path, status))
        if path.endswith("/"):
            with _opened(name, folder, _FOLDER) as deeper:
                _print(deeper, path, update)


def _line(path: str, status: os.stat_result) -> bytes:
    return b"%b\0%d\n" % (os.fsencode(path), status.st_ctime_ns)


def _listed(folder: int, most: int | None) -> list[tuple[str, os.stat_result]]:
    """Return what a folder holds, by name; of one that holds more than `most`, some."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found.append((entry.name, entry.stat(follow_symlinks=False)))
            if most is not None and len(found) > most:
                break
    return sorted(found, key=lambda one: os.fsencode(one[0]))


@contextmanager
def _opened(path: str, folder: int | None, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _beneath(folder: int, parts: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the folder that holds the last of the parts, reached through no link, and its name there."""
    if len(parts) == 1:
        yield folder, parts[0]
        return
    with _opened(parts[0], folder, _FOLDER) as deeper, _beneath(deeper, parts[1:]) as found:
        yield found


def pace_of(share: float, parent: int) -> Pace:
    """Return what keeps this process to a share of one processor, and ends it with its parent."""
    spent = time.process_time()

    def pause() -> None:
        nonlocal spent
        if os.getppid() != parent:
            raise SystemExit(1)
        now = time.process_time()
        # Each sleep costs too, and a tree of small files has many pieces.
        if share < 1 and now - spent >= WORTH_A_PAUSE:
            time.sleep((now - spent) * (1 / share - 1))
            spent = now

    return pause


def tree_of(document: Mapping[str, Any]) -> Tree:
    """Return a tree as it is asked for in JSON."""
    members = {path: Promised(size, sha256) for path, size, sha256 in document["members"]}
    return Tree(document["path"], members, document["print"], document["ours"])


def main() -> None:
    """Look at every tree that is asked for, in its order."""
    asked = json.load(sys.stdin)
    os.nice(asked["nice"])
    pace = pace_of(asked["share"], asked["parent"])
    for document in asked["trees"]:
        inspection = Inspection(tree_of(document), pace)
        inspection.look()
        told = {"found": inspection.found, "bytes": inspection.size, "cpu": time.process_time()}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
