"""The inspection: what one archive holds, says of itself, and would have TorchServe load. Nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torchserve_guard import archives, preflight, scan
from torchserve_guard.archives import mar, model_config, texts
from torchserve_guard.findings import Finding
from torchserve_guard.settings import LoadItem

CODE: Final = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dylib", ".dll", ".jar", ".sh")
"""What is run, or read by what is run, by the end of its name."""
MOST_REQUIREMENTS: Final = 1000

_CREDENTIALS = re.compile(r"//[^/\s]*@")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found of an archive.

    `handler` is the member that workers import, None where it is TorchServe's own; `model_code` is the one that
    TorchServe's own handlers import for the model file, None where there is none. `settings` are the keys of the
    model's configuration that TorchServe reads, `others` the names of those that it leaves to the handler; both are
    None where there is no configuration, or none that can be read. `accepts` are the forms of weights that it has the
    handler load, None where it does not say. `requirements` come without credentials.
    """

    entry: archives.SubjectEntry
    about: mar.About
    model: str
    version: str
    handler: str | None
    model_code: str | None
    settings: Mapping[str, Any] | None
    others: tuple[str, ...] | None
    accepts: tuple[str, ...] | None
    requirements: tuple[str, ...] | None
    findings: tuple[Finding, ...]

    @property
    def files(self) -> tuple[archives.MemberEntry, ...]:
        """The members that are files."""
        return tuple(member for member in self.entry.members if not member.path.endswith("/"))

    @property
    def code(self) -> tuple[archives.MemberEntry, ...]:
        """The members that are code by their name."""
        return tuple(member for member in self.files if member.path.lower().endswith(CODE) or ".so." in member.path)

    @property
    def largest(self) -> archives.MemberEntry:
        """The largest member; there is one, because the archive's own manifest is a member."""
        return max(self.files, key=lambda member: member.size)


def inspect(
    path: Path,
    store: archives.Store,
    progress: Callable[[int], None] | None = None,
    *,
    limits: archives.Limits | None = None,
) -> Inspection:
    """Return what an archive is, read by the same steps as at a start; raise `ConfigError` or `VerificationError`."""
    entry = archives.describe(path, limits=limits, progress=progress)
    staged = store.stage(path, entry, limits=limits, progress=progress)
    about = mar.about(texts.read(staged, mar.MANIFEST), staged.name)
    loaded = preflight.loaded(staged, LoadItem(staged.name))
    stated, paths = _config(staged, about.config_file), set(staged.paths)
    return Inspection(
        entry=entry,
        about=about,
        model=loaded.model,
        version=loaded.version,
        handler=mar.resolved(about.handler, paths) if about.handler is not None else None,
        model_code=mar.imported(about.model_file, paths) if about.model_file is not None else None,
        settings=None if stated is None else {key: stated[key] for key in stated if key in model_config.KEYS},
        others=None if stated is None else tuple(key for key in stated if key not in model_config.KEYS),
        accepts=None if stated is None else model_config.accepted(stated),
        requirements=_requirements(staged, about.requirements_file),
        findings=_findings(staged),
    )


def _findings(staged: archives.Staged) -> tuple[Finding, ...]:
    scanned = (finding for scanner in scan.scanners() for finding in scanner.scan(staged.name, staged))
    found = (*archives.check_model_config(staged), *scanned)
    return tuple(sorted(found, key=lambda finding: -finding.severity))


def _config(staged: archives.Staged, member: str | None) -> Mapping[str, Any] | None:
    return model_config.stated(texts.read(staged, member)) if member is not None else None


def _requirements(staged: archives.Staged, member: str | None) -> tuple[str, ...] | None:
    """Return the lines that ask for something; a password in an address of an index stays where it is."""
    if member is None:
        return None
    lines = texts.read(staged, member).decode("utf-8", "backslashreplace").splitlines()
    wanted = (line.strip() for line in lines)
    return tuple(_CREDENTIALS.sub("//***@", line) for line in wanted if line and line[0] != "#")[:MOST_REQUIREMENTS]
