"""Shadowing: members that run before the declared handler, or in the place of something else.

A model's directory stands on `sys.path` before the standard library (hazard H14, seen on 0.12.0): a member
called like a module that Python or TorchServe's worker imports is run in its place, whatever the handler is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from torchserve_guard.findings import Finding, Location, Severity
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

_SUFFIXES = (*EXTENSION_SUFFIXES, ".pyc", ".py")
_SHARED = re.compile(r"\.(so(\.\d+)*|pyd|dylib|dll)$")
_UNCHECKED = 0b01
_HEADER = 16
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
UNCHECKED = Rule("TSG-SCAN-005", Severity.HIGH, "is compiled code that Python runs whatever its source says", _SOURCE)
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


class Shadowing:
    """The scanner of names, path files, compiled and native code."""

    name = "shadowing"

    def scan(self, subject: str, staged: Tree) -> list[Finding]:
        """Return what was found in the subject of this name, in the order of the paths."""
        paths = frozenset(staged.paths)
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
            for rule, message in _findings(path, paths, staged.tree)
        ]


def _findings(path: str, paths: frozenset[str], tree: Path) -> Iterator[tuple[Rule, str]]:
    rule = _by_name(path)
    if rule is not None:
        yield rule, rule.message.format(name=_module(path))
    for rule in _by_content(path, paths, tree):
        yield rule, rule.message


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
    top, _, rest = path.partition("/")
    if rest:
        return top if _stem(rest) == "__init__" else None
    return _stem(top)


def _stem(name: str) -> str | None:
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    return name.removesuffix(suffix) if suffix is not None and "/" not in name else None


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
    """Return the rule for a compiled file (PEP 552: bit 0 of its flags is "hash-based", bit 1 "checked")."""
    if len(header) < _HEADER or header[2:4] != b"\r\n":
        return UNREADABLE
    flags = int.from_bytes(header[4:8], "little")
    if flags & 0b11 == _UNCHECKED:
        return UNCHECKED
    return COMPILED if _source_of(path) in paths else SOURCELESS


def _source_of(path: str) -> str:
    """Return the path of the source that a compiled file stands for (PEP 3147)."""
    directory, _, name = path.rpartition("/")
    if directory.endswith("__pycache__"):
        directory = directory.removesuffix("__pycache__").removesuffix("/")
        name = name.partition(".")[0] + ".pyc"
    source = name.rpartition(".")[0] + ".py"
    return f"{directory}/{source}" if directory else source


def _head(file: Path, length: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(length)
