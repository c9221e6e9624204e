"""The scanner: one interface, by which each scanner is asked about one staged subject. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torchserve_guard.findings import Finding


class Tree(Protocol):
    """What a scanner is shown: the subject's digest, its unpacked tree, and the paths of all files in it."""

    @property
    def digest(self) -> str:
        """The SHA-256 of the subject."""

    @property
    def tree(self) -> Path:
        """The directory that holds the files."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files' paths in the tree."""


class Scanner(Protocol):
    """One way to look at a subject. What it could not read it reports: skipped is not clean."""

    name: str

    def scan(self, subject: str, staged: Tree) -> list[Finding]:
        """Return what was found in the subject of this name."""
