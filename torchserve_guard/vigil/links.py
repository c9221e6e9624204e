"""The links: what TorchServe was shown, and what it has linked to, by name.

TorchServe makes `MODELS/RANDOM/NAME` for each model, a link to what its store shows as NAME, and every worker that is
started reads the model through that link (ModelArchive.downloadModel). So the link decides what runs.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MOST_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Strayed:
    """Something of TorchServe's that is not as the guard left it; `tree` is what it led to, None when it never did."""

    archive: str
    tree: Path | None
    what: str


class Links:
    """The private store that TorchServe sees (`exposed`), and its own folder of links (`links`).

    Where they `may_vanish`, models are unregistered at run time, and TorchServe takes a link away with its model.
    """

    def __init__(self, exposed: Path, links: Path, *, may_vanish: bool) -> None:
        self._exposed = exposed
        self._links = links
        self._real = {folder: os.path.realpath(folder) for folder in (exposed, links)}
        self._may_vanish = may_vanish
        self._shown: dict[str, Path] = {}
        self._trees: defaultdict[str, dict[Path, Path]] = defaultdict(dict)  # where a tree really lies: the tree
        self._pinned: dict[Path, Path] = {}  # TorchServe's link: where its tree really lies

    def show(self, archive: str, tree: Path) -> None:
        """Take note that a name in the store leads to this tree from now on."""
        self._shown[archive] = tree
        self._trees[archive][tree.resolve()] = tree

    def pin(self) -> None:
        """Make TorchServe's links point at the staged trees themselves.

        INVARIANT: what was registered under a name stays what it was, whatever the name shows later. What leads to no
        tree that was shown under this name is left, for `check` to find.
        """
        for link in self._links.glob("*/*"):
            target = _target(link)
            if target is not None and target.parent == self._exposed:
                real = Path(os.path.realpath(link))
                if real in self._trees[link.name]:
                    # TorchServe may be taking it away this moment, with its model.
                    with suppress(FileNotFoundError):
                        _replace(link, real)
                        self._pinned[link] = real

    def lead_to(self, tree: Path) -> bool:
        """Return whether TorchServe still has a link to a tree."""
        real = tree.resolve()
        return any(pinned == real and link.is_symlink() for link, pinned in self._pinned.items())

    def check(self) -> list[Strayed]:
        """Return what is not as the guard left it."""
        try:
            return [*self._folders(), *self._store(), *self._own()]
        except OSError as error:
            return [Strayed("", None, f"TorchServe's links cannot be read ({error})")]

    def _folders(self) -> Iterator[Strayed]:
        for folder, real in self._real.items():
            if os.path.realpath(folder) != real:
                yield Strayed("", None, f"`{folder}` is a link now, or below one")
            # TorchServe makes its folder with its first model, and takes what it made away with the model.
            for one in filter(os.path.lexists, (Path(real), Path(real).parent)):
                status = one.lstat()
                if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    yield Strayed("", None, f"`{one}` may be written by others")

    def _store(self) -> Iterator[Strayed]:
        for archive, tree in self._shown.items():
            target = _target(self._exposed / archive)
            if target != tree:
                yield Strayed(archive, tree, f"the store shows `{target or 'no link'}` to TorchServe")

    def _own(self) -> Iterator[Strayed]:
        """Hold TorchServe's own links against those that were pinned."""
        seen = set(islice((link for folder in _inside(self._links) for link in _inside(folder)), MOST_ENTRIES))
        for link in sorted(seen):
            target, pinned = _target(link), self._pinned.get(link)
            if pinned is not None and target != pinned:
                yield Strayed(link.name, self._tree(link), f"TorchServe's link leads to `{target or 'no link'}`")
            elif pinned is None and target != self._exposed / link.name:
                yield Strayed(link.name, None, f"TorchServe has `{link}`, which it was not shown")
        for link in self._pinned.keys() - seen:
            if self._may_vanish and not os.path.lexists(link):
                del self._pinned[link]
            else:
                yield Strayed(link.name, self._tree(link), "TorchServe's link is gone")

    def _tree(self, link: Path) -> Path:
        return self._trees[link.name][self._pinned[link]]


def _inside(folder: Path) -> list[Path]:
    """Return what is in a folder, some of it where it is too much; nothing of one that TorchServe just removed."""
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in islice(entries, MOST_ENTRIES)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _replace(link: Path, target: Path) -> None:
    """Put a link to the target in the place of another, at once or not at all."""
    fresh = link.with_name(f".{secrets.token_hex(8)}")
    fresh.symlink_to(target)
    try:
        fresh.rename(link)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _target(link: Path) -> Path | None:
    """Return what a link says, None if it is none, or lies in a folder that is one."""
    try:
        return None if link.parent.is_symlink() else link.readlink()
    except OSError:
        return None
