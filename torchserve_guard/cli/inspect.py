"""`tsguard inspect`: what an archive holds and would have TorchServe load, on one screen; nothing of it is run."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard.cli import archive_limits
from torchserve_guard.cli.progress import Progress
from torchserve_guard.escape import printable

if TYPE_CHECKING:
    from torchserve_guard.archives import MemberEntry
    from torchserve_guard.findings import Finding
    from torchserve_guard.inspection import Inspection

SCHEMA = "torchserve_guard/inspection/v1"
MOST_ROWS = 10
LONGEST_VALUE = 80


def inspect(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A `.mar`, a `.tar.gz`, or the directory of one.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, with every member.")] = False,
    *,
    max_members: archive_limits.Members = archive_limits.MEMBERS,
    max_unpacked: archive_limits.Unpacked = archive_limits.UNPACKED,
    max_ratio: archive_limits.Ratio = archive_limits.RATIO,
) -> None:
    """Show what an archive holds, says of itself, and would have TorchServe load. Nothing of it is run.

    Exit codes: 0 it was read whole, whatever the findings; 2 it is no archive; 4 it is refused, and why.
    """
    from torchserve_guard import archives, inspection  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.reporting.document import rendered  # noqa: PLC0415

    path = Path(os.path.abspath(archive))  # noqa: PTH100 - links are to be seen, not resolved
    with tempfile.TemporaryDirectory(prefix="tsguard-inspect-") as folder, Progress(sys.stderr) as progress:
        store = archives.Store(Path(folder) / "store", believing=False, scratch=True)
        try:
            limits = archive_limits.told(max_members, max_unpacked, max_ratio)
            found = inspection.inspect(path, store, progress, limits=limits)
        finally:
            store.clear()
    if as_json:
        typer.echo(rendered(_document(found)), nl=False)
        return
    for line in _screen(found):
        typer.echo(printable(line))


def _screen(found: Inspection) -> Iterator[str]:
    entry, about = found.entry, found.about
    yield f"{entry.name}: {entry.kind}, {entry.size or 0:,} bytes"
    for label, rows in (
        ("sha256", [entry.sha256]),
        ("model", [f"{found.model} version {found.version}, runtime {about.runtime}"]),
        ("handler", [_handler(found)]),
        ("model file", [_model_file(found)]),
        ("weights", [about.serialized_file or "none"]),
        ("config", list(_config(found))),
        ("requirements", list(_requirements(found))),
        ("members", [_members(found)]),
        ("code", list(_first((_member(one) for one in found.code), len(found.code))) or ["none"]),
        ("loaded", [_loaded(found)]),
    ):
        for number, row in enumerate(rows):
            yield f"  {label if number == 0 else '':13} {row}"
    yield f"findings: {len(found.findings) or 'none'}"
    told = (f"{one.severity!s:8}  {one.rule}  {one.location}: {one.message}" for one in found.findings)
    for row in _first(told, len(found.findings)):
        yield f"  {row}"


def _handler(found: Inspection) -> str:
    name = found.about.handler
    if name is None:
        return "none: TorchServe takes its `default_service_handler`"
    if found.handler is None:
        return f"{name}: TorchServe's own, ts.torch_handler.{name}"
    return f"{name}: the member {found.handler}"


def _model_file(found: Inspection) -> str:
    name, member = found.about.model_file, found.model_code
    if name is None:
        return "none"
    return name if member in {name, None} else f"{name}, imported as the member {member}"


def _config(found: Inspection) -> Iterator[str]:
    member, settings = found.about.config_file, found.settings
    if member is None:
        yield "none"
    elif settings is None:
        yield f"{member}: cannot be read, see the findings"
    else:
        yield f"{member}: " + (", ".join(f"{key}={_short(value)}" for key, value in settings.items()) or "nothing")
        if found.others:
            yield "for the handler: " + _short(", ".join(found.others))
        if found.accepts is not None:
            yield "which may load: " + _short(", ".join(found.accepts) or "nothing")


def _requirements(found: Inspection) -> Iterable[str]:
    if found.requirements is None:
        return ["none"]
    head = f"{found.about.requirements_file}: not installed under the guard; must be there beside TorchServe"
    return [head, *_first((_short(one) for one in found.requirements), len(found.requirements))]


def _members(found: Inspection) -> str:
    total = sum(member.size for member in found.files)
    return f"{len(found.files):,}, {total:,} bytes unpacked; the largest is {_sized(found.largest)}"


def _loaded(found: Inspection) -> str:
    """Say what becomes of the archive at a start with a manifest that lists it."""
    first = next(iter(found.findings), None)
    if first is not None and first.severity.name in {"HIGH", "CRITICAL"}:
        return "nothing: the findings stop a start, unless they are waived or `guard.fail_on` is `critical`"
    return f"a private read-only directory {found.entry.name} of these members, as model {found.model}"


def _first(rows: Iterable[str], count: int) -> Iterator[str]:
    yield from islice(rows, MOST_ROWS)
    if count > MOST_ROWS:
        yield f"and {count - MOST_ROWS:,} more: `--json` lists all"


def _member(member: MemberEntry) -> str:
    return f"{member.sha256}  {_sized(member)}"


def _sized(member: MemberEntry) -> str:
    return f"{member.path} ({member.size:,} bytes)"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _document(found: Inspection) -> dict[str, object]:
    entry, about = found.entry, found.about
    return {
        "schema": SCHEMA,
        "name": entry.name,
        "kind": entry.kind,
        "size": entry.size,
        "sha256": entry.sha256,
        "model": {"name": found.model, "version": found.version, "runtime": about.runtime},
        "handler": {
            "name": about.handler,
            "member": found.handler,
            "built_in": f"ts.torch_handler.{about.handler}" if about.handler and found.handler is None else None,
        },
        "envelope": about.envelope,
        "model_file": about.model_file,
        "model_file_imported": found.model_code,
        "serialized_file": about.serialized_file,
        "requirements": {
            "member": about.requirements_file,
            "lines": None if found.requirements is None else list(found.requirements),
        },
        "config": {
            "member": about.config_file,
            "settings": None if found.settings is None else {key: _plain(one) for key, one in found.settings.items()},
            "for_the_handler": None if found.others is None else list(found.others),
            "accepts": None if found.accepts is None else list(found.accepts),
        },
        "code": [member.path for member in found.code],
        "members": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in entry.members],
        "findings": [_finding(one) for one in found.findings],
    }


def _plain(value: object) -> object:
    """Return a value as JSON has it; YAML knows dates, infinities and keys that are no words."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _finding(finding: Finding) -> dict[str, object]:
    place = finding.location
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "message": finding.message,
        "remedy": finding.remedy,
        "member": place.member if place else None,
        "line": place.line if place else None,
    }
