"""Shadowing: members that run before the declared handler, or in the place of something else.

A model's directory stands on `sys.path` before the standard library (hazard H14, seen on 0.12.0): a member
called like a module that Python or TorchServe's worker imports is run in its place, whatever the handler is. And what
Python takes for a module of the archive need not be the source that was reviewed: native code of its name comes first.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.importing import Candidate, Kind, candidate
from torchserve_guard.scan.scanner import Tree

HOOKS = frozenset({"sitecustomize", "usercustomize"})
"""Imported by Python itself at every start (module `site`)."""

WORKER = frozenset(
    {
        "_distutils_hack",
        "_yaml",
        "captum",
        "filelock",
        "fsspec",
        "functorch",
        "jinja2",
        "markupsafe",
        "model_archiver",
        "mpmath",
        "networkx",
        "numpy",
        "packaging",
        "PIL",
        "pkg_resources",
        "psutil",
        "setuptools",
        "sympy",
        "torch",
        "torchgen",
        "torchvision",
        "typing_extensions",
        "yaml",
    }
)
"""Imported by the worker before the handler, or by torch in it (python -X importtime, TorchServe 0.12.0)."""

IDLE = frozenset({"antigravity", "idlelib", "test", "this", "turtle", "turtledemo"})
"""Modules of the standard library that nothing imports: an archive's own `test` package replaces nothing."""

_SHARED = re.compile(r"\.(so(\.\d+)*|pyd|dylib|dll)$")
_HASHED = 0b01
_CHECKED = 0b10
_HEADER = 16
_MANIFEST = "MAR-INF/MANIFEST.json"
_HEAD = 64 << 10
_WEIGHTS = (b"PK\x03\x04", b"\x80", b"\x89HDF", b"\x93NUMPY")
_IMPORT = re.compile(r"^import[ \t]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is looked for."""

    rule: str
    severity: Severity
    message: str
    remedy: str


_RENAME = "rename the member, or leave it out: nothing in an archive may stand in for Python or TorchServe"
_SOURCE = "leave compiled files out of the archive: Python compiles the source itself"

HOOK = Rule("TSG-SCAN-001", Severity.HIGH, "is run by Python at every start, before TorchServe", _RENAME)
SERVER = Rule("TSG-SCAN-002", Severity.HIGH, "replaces TorchServe's own package `ts`", _RENAME)
SHADOW = Rule("TSG-SCAN-003", Severity.HIGH, "is imported in the place of the module `{name}`", _RENAME)
PATH_FILE = Rule(
    "TSG-SCAN-004",
    Severity.HIGH,
    "is a path configuration file: its `import` lines are run where Python takes the directory for a site",
    "leave it out; weights that are called `.pth` begin like a zip or a pickle, this does not",
)
HASHED = Rule(
    "TSG-SCAN-005",
    Severity.HIGH,
    "is compiled code that Python runs whatever its source says: its header has a hash of the source, unchecked or put "
    "there by whoever wrote it, and no time",
    _SOURCE,
)
SOURCELESS = Rule("TSG-SCAN-006", Severity.MEDIUM, "is compiled code without its source: nobody can review it", _SOURCE)
COMPILED = Rule("TSG-SCAN-007", Severity.LOW, "is compiled code beside its source, which may differ", _SOURCE)
UNREADABLE = Rule(
    "TSG-SCAN-008", Severity.MEDIUM, "is called compiled code, but is not: it was not looked into", _SOURCE
)
NATIVE = Rule(
    "TSG-SCAN-009",
    Severity.LOW,
    "is native code: no scanner here looks into it",
    "build it from source where you build the archive",
)
REPLACING = Rule(
    "TSG-SCAN-010",
    Severity.HIGH,
    "is {what} that Python imports {how}",
    "leave it out, or rename it: what is imported by a name is to be the source that can be reviewed",
)

_WHAT = {Kind.NATIVE: "native code", Kind.COMPILED: "compiled code"}


class Shadowing:
    """The scanner of names, path files, compiled and native code."""

    name = "shadowing"

    def scan(self, subject: str, staged: Tree) -> list[Finding]:
        """Return what was found in the subject of this name, in the order of the paths."""
        paths = frozenset(staged.paths)
        replacing = _replacing(staged)
        return [
            Finding(
                rule.rule,
                rule.severity,
                f"`{path}` {message}",
                rule.remedy,
                Location(subject, member=path),
                staged.digest,
            )
            for path in sorted(paths)
            for rule, message in _findings(path, paths, staged.tree, replacing)
        ]


def _findings(path: str, paths: frozenset[str], tree: Path, replacing: Mapping[str, str]) -> Iterator[tuple[Rule, str]]:
    rule = _by_name(path)
    if rule is not None:
        yield rule, rule.message.format(name=_module(path))
    if path in replacing:
        yield REPLACING, replacing[path]
    for rule in _by_content(path, paths, tree):
        yield rule, rule.message


def _replacing(staged: Tree) -> dict[str, str]:
    """Return what is told of each member that is no source and stands where a source is, or what a worker imports."""
    inverse = sorted((one for path in staged.paths if (one := candidate(path)) is not None), reverse=True)
    return _named(staged, {one.module: one for one in inverse}) | _before_source(inverse)


def _before_source(inverse: list[Candidate]) -> dict[str, str]:
    """Return what has a source of its name behind it; given from the last that Python would take to the first."""
    told: dict[str, str] = {}
    source: dict[str, str] = {}
    for one in inverse:
        if one.kind is Kind.SOURCE:
            source[one.module] = one.path
        elif one.module in source:
            told[one.path] = _message(one.kind, f"in the place of `{source[one.module]}`")
    return told


def _named(staged: Tree, taken: Mapping[str, Candidate]) -> dict[str, str]:
    """Return what a worker imports by the archive's own manifest, and is no source."""
    found = ((name, taken.get(name.replace(".", "/"))) for name in _imports(staged))
    return {
        one.path: _message(one.kind, f"as `{name}`, by the archive's own manifest")
        for name, one in found
        if one is not None and one.kind is not Kind.SOURCE
    }


def _imports(staged: Tree) -> Iterator[str]:
    """Yield the modules that a worker imports by the archive's own manifest: each package on the way is one.

    Nothing is imported by a manifest that cannot be read: staging refuses it (`torchserve_guard.archives.mar`).
    """
    if _MANIFEST not in staged.paths:
        return
    try:
        model = json.loads((staged.tree / _MANIFEST).read_bytes())["model"]
        handler, model_file = (model.get(key) or "" for key in ("handler", "modelFile"))
        # As ts/model_loader.py and ts/torch_handler/base_handler.py take them apart.
        module = handler.partition(":")[0].removesuffix(".py").rpartition("/")[2]
        yield from accumulate(module.split("."), lambda above, name: f"{above}.{name}")
        yield model_file.partition(".")[0]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return


def _message(kind: Kind, how: str) -> str:
    return REPLACING.message.format(what=_WHAT[kind], how=how)


def _by_name(path: str) -> Rule | None:
    """Return the rule for a top-level module or package by this name."""
    module = _module(path)
    if module is None:
        return None
    if module in HOOKS:
        return HOOK
    if module == "ts":
        return SERVER
    return SHADOW if module in WORKER or module in sys.stdlib_module_names - IDLE else None


def _module(path: str) -> str | None:
    """Return the top-level module that a path makes importable, or None.

    A directory without `__init__` is only a namespace, which loses to every module elsewhere on `sys.path`.
    """
    one = candidate(path)
    return one.module if one is not None and "/" not in one.module else None


def _by_content(path: str, paths: frozenset[str], tree: Path) -> Iterator[Rule]:
    """Yield the rules for what a member is, wherever it is."""
    lower = path.lower()
    if lower.endswith(".pth") and _is_path_file(_head(tree / path, _HEAD)):
        yield PATH_FILE
    if lower.endswith((".pyc", ".pyo")):
        yield _compiled(path, paths, _head(tree / path, _HEADER))
    if _SHARED.search(lower):
        yield NATIVE


def _is_path_file(head: bytes) -> bool:
    """Whether Python's `site` would find lines in it: text, or text at the front of something else.

    Weights are called `.pth` as well. `site` decodes as it reads, and runs the lines before the first byte
    that is not text: so a zip's magic number alone proves nothing.
    """
    try:
        text, binary = head.decode("utf-8"), False
    except UnicodeDecodeError as error:
        text, binary = head[: error.start].decode("utf-8"), True
    if _IMPORT.search(text.replace("\r", "\n")):
        return True
    return not binary and (len(head) == _HEAD or not head.startswith(_WEIGHTS))


def _compiled(path: str, paths: frozenset[str], header: bytes) -> Rule:
    """Return the rule for a compiled file (PEP 552: bit 0 of its flags is "hash-based", bit 1 "checked").

    A checked hash is no proof: whoever writes the file puts the hash of the source beside it into it, and other code
    behind it. A time stamp would have to be the second in which the archive is unpacked here.
    """
    if len(header) < _HEADER or header[2:4] != b"\r\n":
        return UNREADABLE
    flags = int.from_bytes(header[4:8], "little")
    sourced = _source_of(path) in paths
    if flags & _HASHED and (sourced or not flags & _CHECKED):
        return HASHED
    return COMPILED if sourced else SOURCELESS


def _source_of(path: str) -> str:
    """Return the path of the source that a compiled file stands for (PEP 3147)."""
    directory, _, name = path.rpartition("/")
    if f"/{directory}".endswith("/__pycache__"):
        directory = directory.removesuffix("__pycache__").removesuffix("/")
        name = name.partition(".")[0] + ".pyc"
    source = name.rpartition(".")[0] + ".py"
    return f"{directory}/{source}" if directory else source


def _head(file: Path, length: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(length)
