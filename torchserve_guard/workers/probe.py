"""The probe: a program that the workers' interpreter runs to say what is installed beside it.

It imports none of what it is asked about, and runs none of it: sources are read and parsed, modules looked for. It
stands alone, since that interpreter need not have the guard. Standard input gives it the models as JSON, standard
output gets what is missing.
"""

from __future__ import annotations

import ast
import json
import re
import resource
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

LARGEST_SOURCE = 4 << 20
MOST_FILES = 500
SECONDS = 3
MEMORY = 2 << 30
CATCHING = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})
TYPING_ONLY = frozenset({"TYPE_CHECKING", "typing.TYPE_CHECKING"})
WORKER = "ts.model_service_worker"
NEEDED = ("yaml", "torch", "psutil")


class Origin:
    """Where an import is to be told: the member, or file of TorchServe's, that leads to it, and the line there."""

    def __init__(self, member: str, line: int) -> None:
        self.member = member
        self.line = line


class Walk:
    """One walk over what is imported when a module is: from the archive in `tree`, and from TorchServe's `home`."""

    def __init__(self, tree: Path | None, home: Path | None) -> None:
        self._tree = tree
        self._home = home
        self._seen: set[Path] = set()
        self.missing: dict[tuple[str, str], int] = {}
        self.broken: list[tuple[str, int, str]] = []

    def handler(self, name: str, origin: Origin) -> None:
        """Walk from a handler: a module of the archive, else one of TorchServe's own handlers (ts/model_loader.py)."""
        found = _file(self._tree, name) if self._tree is not None else None
        if found is None and self._home is not None:
            found = _file(self._home, f"ts.torch_handler.{name}")
        if found is not None:
            self._read(found, origin)

    def module(self, name: str, origin: Origin) -> None:
        """Walk from a module by its whole name."""
        top = name.partition(".")[0]
        root = self._tree if self._brings(top) else self._home if top == "ts" else None
        if root is not None:
            for file in filter(None, (_file(root, whole) for whole in _and_packages(name))):
                self._read(file, origin)
        elif top not in sys.stdlib_module_names and not _installed(top) and not self._hides(top):
            self.missing.setdefault((top, origin.member), origin.line)

    def _brings(self, top: str) -> bool:
        """Return whether the archive has this module or package, which then comes before all others."""
        return self._tree is not None and ((self._tree / top).is_dir() or any(self._tree.glob(f"{top}.*")))

    def _hides(self, top: str) -> bool:
        """Return whether it lies deeper in the archive, from where a handler may put it on the path itself."""
        return self._tree is not None and any(path.stem == top for path in self._tree.rglob(f"{top}*"))

    def _read(self, file: Path, origin: Origin) -> None:
        if file in self._seen or len(self._seen) >= MOST_FILES:
            return
        self._seen.add(file)
        member = self._member(file)
        try:
            source = file.read_bytes()[:LARGEST_SOURCE]
            parsed = ast.parse(source)
        except OSError:
            return
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            self.broken.append((member or origin.member, line if member else origin.line, str(error)))
            return
        for name, line in _imports(parsed.body, self._package(file)):
            self.module(name, Origin(member, line) if member is not None else origin)

    def _member(self, file: Path) -> str | None:
        """Return the file's path in the archive, None for one that is TorchServe's."""
        if self._tree is not None and file.is_relative_to(self._tree):
            return str(file.relative_to(self._tree))
        return str(file) if self._tree is None else None

    def _package(self, file: Path) -> str:
        """Return the package that a file's relative imports start from."""
        for root in (self._tree, self._home):
            if root is not None and file.is_relative_to(root):
                return ".".join(file.relative_to(root).parent.parts)
        return ""


def _imports(body: list[ast.stmt], package: str) -> Iterator[tuple[str, int]]:
    """Yield what is imported, come what may, when these statements run, with its line."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if base:
                yield base, node.lineno
                # `from package import module` reads the module's file, if there is one.
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, (ast.With, ast.ClassDef)):
            yield from _imports(node.body, package)
        elif isinstance(node, ast.Try) and not _catches(node):
            yield from _imports(node.body, package)
            yield from _imports(node.finalbody, package)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the module that a `from` names, whole (PEP 328)."""
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _catches(node: ast.Try) -> bool:
    """Return whether a failing import is caught."""
    names = [ast.unparse(one.type) if one.type is not None else "Exception" for one in node.handlers]
    return any(not CATCHING.isdisjoint(re.findall(r"\w+", name)) for name in names)


def _and_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


def _file(root: Path, name: str) -> Path | None:
    """Return the file that a module's whole name means beneath a root."""
    path = root.joinpath(*name.split("."))
    found = (file for file in (path / "__init__.py", path.with_name(path.name + ".py")) if file.is_file())
    return next(found, None)


def _installed(top: str) -> bool:
    try:
        return find_spec(top) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def _version_of_torch() -> str | None:
    """Return torch's version, read and not imported: that takes seconds."""
    spec = find_spec("torch")
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8") if spec and spec.origin else ""
    except OSError:
        return None
    told = re.search(r"""^__version__ = ['"]([^'"]+)""", text, re.MULTILINE)
    return told[1] if told else None


def _walked(walk: Walk) -> dict[str, list[tuple[str, str, int]] | list[tuple[str, int, str]]]:
    missing = [(module, member, line) for (module, member), line in walk.missing.items()]
    return {"missing": missing, "broken": walk.broken}


def answered(models: list[dict[str, str]]) -> dict[str, object]:
    """Return what is to be said of the interpreter, and of each model's code."""
    spec = find_spec("ts")
    home = Path(spec.origin).parents[1] if spec is not None and spec.origin is not None else None
    worker = Walk(None, home)
    for name in (WORKER, *NEEDED) if home is not None else NEEDED:
        worker.module(name, Origin(WORKER, 1))
    told = []
    for model in models:
        walk = Walk(Path(model["tree"]), home)
        manifest = Origin(model["manifest"], 0)
        if model["handler"]:
            walk.handler(model["handler"], manifest)
        if model["model"]:
            walk.module(model["model"], manifest)
        told.append(_walked(walk))
    return {"torch": _version_of_torch(), "worker": _walked(worker), "models": told}


def main() -> None:
    """Answer what standard input asks."""
    # A source that is made to exhaust whoever parses it ends this process, and no other.
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    json.dump(answered(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
