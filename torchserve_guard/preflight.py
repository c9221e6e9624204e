"""The preflight: settings to a report. `tsguard check` and `tsguard start` run this same code.

It verifies, stages and scans every archive that is about to be loaded; what CI passes, a start accepts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from torchserve_guard import archives, authorization, looks, needs, obtaining, scan, unlisted, wire
from torchserve_guard.authorization import Authorization
from torchserve_guard.errors import BadRequest, ConfigError, VerificationError
from torchserve_guard.findings import Finding, Report, Severity, Subject
from torchserve_guard.settings import LoadItem, Settings, check_tls, ports
from torchserve_guard.settings.waivers import accepted, waived
from torchserve_guard.workers import Interpreter

Progress = Callable[[int], None]
NOT_FETCHED = "not fetched"


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
    authorization: Authorization | None = None
    arrivals: tuple[obtaining.Arrival, ...] = ()


def preflight(
    settings: Settings,
    store: archives.Store,
    now: datetime,
    progress: Progress | None = None,
    *,
    allow_rollback: bool = False,
    interpreter: Interpreter | None = None,
    fetch: bool = True,
    begin: Callable[[], None] | None = None,
) -> Preflight:
    """Verify, stage and scan; findings are in the report. What lies elsewhere is looked at only if it is to be fetched.

    `begin` is called when only the archives are left to be judged, and nothing that is known until then stops a start.
    Raises `ConfigError`, `VerificationError`, or `GuardError` for an archive that is not to be had.
    """
    items = named(settings)
    scanners = scan.scanners(settings.scanners)
    free = unlisted.permitted(settings)
    told = [*_told(settings, now), *unlisted.check(settings, items, listed=not free)]
    if not items:
        return Preflight(_report(settings, told, now), ())
    authorized = None if free else authorization.authorized(settings, now, allow_rollback=allow_rollback)
    told += authorization.check(settings, authorized, now) if authorized is not None else ()
    # The interpreter starts up while archives are hashed.
    with interpreter or Interpreter(os.environ) as asked:
        entries = entries_of(settings, items, authorized.manifest if authorized is not None else None)
        wanted = tuple(zip(items, entries, strict=True))
        here = tuple(one for one in wanted if fetch or not obtaining.is_remote(one[0]))
        left = tuple(one for one in wanted if not fetch and obtaining.is_remote(one[0]))
        if begin is not None and not stopping(Report("", waived(settings, told, now)), settings.fail_on):
            begin()
        obtained = obtaining.obtain(settings, store, here, progress)
        staged = obtained.staged
        lacking = needs.check(asked, settings.model_store, staged)
    models = tuple(loaded(tree, item) for tree, (item, _) in zip(staged, here, strict=True))
    verify_distinct(models)
    findings = [*told, *(finding for one in staged for finding in scanned(settings, one, scanners))]
    findings += [*lacking, *obtaining.check_unfetched(settings, left)]
    subjects = (
        *(Subject(one.name, one.digest, one.size) for one in staged),
        *(Subject(entry.name, entry.sha256, entry.size or 0, NOT_FETCHED) for _, entry in left),
    )
    return Preflight(_report(settings, findings, now, subjects), models, authorized, obtained.arrivals)


def _report(
    settings: Settings, findings: Iterable[Finding], now: datetime, subjects: tuple[Subject, ...] = ()
) -> Report:
    return Report(str(settings.config), accepted(settings, findings, now), subjects)


def _told(settings: Settings, now: datetime) -> tuple[Finding, ...]:
    """Return what is to be said of the settings, at this time."""
    found = (*settings.findings, *ports.check(settings))
    return found if settings.tls is None else (*found, *check_tls(settings.tls, now))


def scanned(settings: Settings, staged: archives.Staged, scanners: Iterable[scan.Scanner]) -> list[Finding]:
    """Return what the scanners find in a staged archive, and what its configuration asks for, told by where it lies."""
    found = (finding for scanner in scanners for finding in scanner.scan(staged.name, staged))
    return [_in_store(settings, finding) for finding in (*archives.check_model_config(staged), *found)]


def _in_store(settings: Settings, finding: Finding) -> Finding:
    place = finding.location
    if place is None:
        return finding
    whole = dataclasses.replace(place, path=str(settings.model_store / place.path))
    return dataclasses.replace(finding, location=whole)


def named(settings: Settings) -> tuple[LoadItem, ...]:
    """Return what is to be loaded, `ALL` spelt out as TorchServe would (ModelServer.initModelStore)."""
    if settings.load is not None:
        return settings.load
    return tuple(LoadItem(name) for name in sorted(_all_names(settings.model_store)))


def _all_names(model_store: Path) -> Iterable[str]:
    for path in model_store.iterdir():
        archive = path.name.endswith((".mar", ".model", ".tar.gz"))
        if not path.name.startswith(".") and (archive or looks.is_folder(path)):
            yield path.name


def entries_of(
    settings: Settings, items: Iterable[LoadItem], manifest: archives.Manifest | None
) -> list[archives.SubjectEntry]:
    """Return the manifest's entry of each item, or without a manifest the archive's own.

    Raises one `VerificationError` that names all that have none.
    """
    items = tuple(items)
    if manifest is None:
        obtaining.verify_listed(settings, items)
        return [unlisted.entry(settings, item.archive) for item in items]
    found = [(item, manifest.subject(item.archive)) for item in items]
    missing = [item.archive for item, entry in found if entry is None]
    if missing:
        raise VerificationError(
            *(
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
    if item.model is None:
        _verify_spellable(staged, "name", name, "build the archive again with another")
    else:
        _verify_spellable(staged, "name", item.model, "give it another in `load_models`")
    _verify_spellable(staged, "version", version, "build the archive again with another")
    return Loaded(staged, item, item.model or name, version)


def _verify_spellable(staged: archives.Staged, what: str, text: str, remedy: str) -> None:
    try:
        wire.verify_name(f"model's {what}", text)
    except BadRequest as error:
        expected = error.message.partition(": ")[2].rstrip(".")
        raise VerificationError(
            f"{staged.name}: {error.reason} that anybody could ask for: {expected}; {remedy}"
        ) from error


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
