"""The import: which member of an archive Python takes for a module, and what stands behind it. Pure.

Python looks into one folder for `NAME` (importlib/_bootstrap_external.py, FileFinder.find_spec): first for
`NAME/__init__`, then for `NAME`, each first as native code, then as `.py`, then as `.pyc`. A folder without `__init__`
comes after all of them. What ends native code's name is a Python's own (`.cpython-311-x86_64-linux-gnu.so`,
`.abi3.so`, `.so`), and workers may run another Python than the guard: every `NAME.*.so` counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """What a member is by the end of its name, in the order in which Python takes them."""

    NATIVE = 0
    SOURCE = 1
    COMPILED = 2


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A member that may be taken for a module; of two of one module, the lesser comes first."""

    module: str
    """Where the module is, without the end of the name: `pkg/deep` for `pkg.deep`."""
    alone: bool
    """Whether it is a file of its own; a package, `__init__` in a folder, comes before it."""
    kind: Kind
    breadth: int
    """How many Pythons take native code of this end: those that name one come first."""
    path: str


def candidate(path: str) -> Candidate | None:
    """Return what Python may take this member for, or None if it is no module by its name."""
    folder, _, name = path.rpartition("/")
    told = _told(name)
    if told is None:
        return None
    stem, kind, breadth = told
    if stem == "__init__" and folder:
        return Candidate(folder, alone=False, kind=kind, breadth=breadth, path=path)
    module = f"{folder}/{stem}" if folder else stem
    return Candidate(module, alone=True, kind=kind, breadth=breadth, path=path)


def candidates(module: str, paths: Iterable[str]) -> tuple[Candidate, ...]:
    """Return what may be taken for the module at this place, first what Python would take."""
    return tuple(sorted(one for path in paths if (one := candidate(path)) is not None and one.module == module))


def _told(name: str) -> tuple[str, Kind, int] | None:
    stem, dot, end = name.partition(".")
    if stem and dot and f".{end}".endswith(".so"):
        return stem, Kind.NATIVE, ("abi3.so", "so").index(end) + 1 if end in {"abi3.so", "so"} else 0
    for suffix, kind in ((".py", Kind.SOURCE), (".pyc", Kind.COMPILED)):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix), kind, 0
    return None
