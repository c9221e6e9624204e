"""The preflight: settings to a report. `tsguard check` and `tsguard start` run this same code.

It verifies, stages and scans every archive that is about to be loaded; what CI passes, a start accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torchserve_guard import archives, scan, wire
from torchserve_guard.errors import BadRequest, ConfigError, VerificationError
from torchserve_guard.findings import Finding, Report, Severity, Subject
from torchserve_guard.settings import LoadItem, Settings

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """One model about to be loaded: what is staged, and the name and version under which it will serve."""

    staged: archives.Staged
    item: LoadItem
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a preflight brought about: the report, and the models in the order of `load_models`."""

    report: Report
    models: tuple[Loaded, ...]


def preflight(settings: Settings, store: archives.Store, now: datetime, progress: Progress | None = None) -> Preflight:
    """Verify, stage and scan. Raises `ConfigError` or `VerificationError`; findings are in the report."""
    items = named(settings)
    scanners = scan.scanners(settings.scanners)
    if not items:
        return Preflight(Report(str(settings.config), settings.findings), ())
    entries = entries_of(settings, items, now)
    staged = [store.stage(settings.model_store / entry.name, entry, progress=progress) for entry in entries]
    models = tuple(loaded(one, item) for one, item in zip(staged, items, strict=True))
    verify_distinct(models)
    found = (finding for one in staged for finding in scanned(one, scanners))
    subjects = tuple(Subject(one.name, one.digest, one.size) for one in staged)
    return Preflight(Report(str(settings.config), (*settings.findings, *found), subjects), models)


def scanned(staged: archives.Staged, scanners: Iterable[scan.Scanner]) -> list[Finding]:
    """Return what the scanners find in a staged archive."""
    return [finding for scanner in scanners for finding in scanner.scan(staged.name, staged)]


def named(settings: Settings) -> tuple[LoadItem, ...]:
    """Return what is to be loaded, `ALL` spelt out as TorchServe would (ModelServer.initModelStore)."""
    if settings.load is not None:
        return settings.load
    return tuple(LoadItem(name) for name in sorted(_all_names(settings.model_store)))


def _all_names(model_store: Path) -> Iterable[str]:
    for path in model_store.iterdir():
        archive = path.name.endswith((".mar", ".model", ".tar.gz"))
        if not path.name.startswith(".") and (archive or path.is_dir()):
            yield path.name


def entries_of(settings: Settings, items: Iterable[LoadItem], now: datetime) -> list[archives.SubjectEntry]:
    """Return the manifest's entry of each item. Raises one `VerificationError` that names all that have none."""
    manifest = archives.load_manifest(settings.manifest, now)
    found = [(item, manifest.subject(item.archive)) for item in items]
    missing = [item.archive for item, entry in found if entry is None]
    if missing:
        raise VerificationError(
            "\n".join(
                f"{settings.manifest}: `{name}` is to be loaded and is not listed; look at the archive, then list it "
                "with `tsguard manifest create`"
                for name in missing
            )
        )
    return [entry for _, entry in found if entry is not None]


def loaded(staged: archives.Staged, item: LoadItem) -> Loaded:
    """Return the model that TorchServe will make of a staged archive (ModelManager.createModelArchive).

    Raises `VerificationError` for a name or version that no request could spell.
    """
    name, version = archives.model_of(staged)
    try:
        wire.verify_name("the model's name", item.model or name)
        wire.verify_name("the model's version", version)
    except BadRequest as error:
        raise VerificationError(
            f"{staged.name}: {error}; nobody could ask for it; build the archive again with another"
        ) from error
    return Loaded(staged, item, item.model or name, version)


def verify_distinct(models: Iterable[Loaded]) -> None:
    """Raise `ConfigError` for two archives with one name and version: TorchServe would not start (hazard S08)."""
    seen: dict[tuple[str, str], str] = {}
    for model in models:
        first = seen.setdefault((model.model, model.version), model.item.archive)
        if first is not model.item.archive:
            raise ConfigError(
                f"`{first}` and `{model.item.archive}` are both model `{model.model}` version `{model.version}`; "
                "load one of them, or give one another version"
            )


def stopping(report: Report, threshold: Severity) -> bool:
    """Return whether the report stops a start at this threshold."""
    return bool(report.at_or_above(threshold))
