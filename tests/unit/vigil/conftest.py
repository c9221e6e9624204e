"""A staged tree of a model that is served, and a vigil over it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from torchserve_guard.archives import MemberEntry, trees
from torchserve_guard.archives.inspector import print_of
from torchserve_guard.archives.sources import open_directory
from torchserve_guard.audit import Entry
from torchserve_guard.errors import AuditError
from torchserve_guard.policy import Closures
from torchserve_guard.vigil import Scene, Strayed, Vigil, Watched

FILES = {"MAR-INF/MANIFEST.json": b"{}", "handler.py": b"def handle(d, c): return d\n", "data/weights.bin": b"w" * 3000}


@pytest.fixture
def tree(tmp_path) -> Path:
    """`FILES` and an empty folder, as the store would have staged them."""
    path = tmp_path / "home" / "tree"
    path.mkdir(parents=True)
    with open_directory(path, str(path)) as root:
        writer = trees.TreeWriter(root)
        for name, data in FILES.items():
            writer.open(name)
            writer.write(data)
            writer.close()
        writer.open("empty/")
    trees.seal(path, entries())
    _let_the_clock_go_on(path)
    yield path
    for folder, _, _ in os.walk(tmp_path):
        os.chmod(folder, 0o700)


def _let_the_clock_go_on(tree: Path) -> None:
    """Return when a change would have a later time than everything in the tree: that clock goes in steps."""
    newest = max(path.stat().st_ctime_ns for path in (tree, *tree.rglob("*")))
    probe = tree.parent / "probe"
    probe.touch()
    while probe.stat().st_ctime_ns <= newest:
        probe.chmod(0o600)


def entries() -> tuple[MemberEntry, ...]:
    made = [MemberEntry(path=p, size=len(d), sha256=hashlib.sha256(d).hexdigest()) for p, d in FILES.items()]
    return (*made, MemberEntry(path="empty/", size=0, sha256=hashlib.sha256().hexdigest()))


@pytest.fixture
def served(tree):
    """Return the model that is served from the tree, as it looks now."""

    def now(model: str = "m", *, writable: bool = False) -> Watched:
        print_ = None if writable else print_of(str(tree))
        return Watched(model, "1.0", f"{model}.mar", "0" * 64, tree, entries(), writable, print_)

    return now


class World:
    """A vigil, and everything it was told and did."""

    def __init__(self, *watched: Watched) -> None:
        self.watched = watched
        self.strayed: list[Strayed] = []
        self.recorded: list[Entry] = []
        self.said: list[str] = []
        self.broken = False
        self.stands = True
        self.closures = Closures()
        scene = Scene(lambda: self.watched, self._strayed, self._stands)
        self.vigil = Vigil(scene, self.closures, self, self.said.append, 0)

    async def record(self, entry: Entry) -> None:
        if self.broken:
            raise AuditError("full")
        # What is recorded is recorded before it takes effect.
        model = entry.fields.get("model")
        assert entry.event != "drift" or model is None or self.closures.of(model, entry.fields["version"]) is None
        self.recorded.append(entry)

    async def _strayed(self):
        return self.strayed

    async def _stands(self, _watched: Watched) -> bool:
        return self.stands


@pytest.fixture
def world():
    return World
