"""The inventory: what lies in a model store, described for a manifest and compared with one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from torchserve_guard.archives import mar, names, promise
from torchserve_guard.archives.digests import READERS, Crew, cores
from torchserve_guard.archives.ledger import differences
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.manifest import JSON, Manifest, SubjectEntry
from torchserve_guard.archives.progress import Progress, expect
from torchserve_guard.archives.reading import as_listed, read_subject
from torchserve_guard.archives.sources import open_file, size_of
from torchserve_guard.errors import ConfigError, VerificationError

MOST_ROWS = 20
_ARCHIVES = (".mar", ".tar.gz")
_LOADABLE = (".mar", ".model", ".tar.gz", ".tgz", ".war")
"""What TorchServe takes for a model by its name (ModelManager, WorkflowManager).

Under any other name it would unpack a file as a tar as well, if it were asked to by that name (hazard H27).
"""


def describe(path: Path, *, limits: Limits | None = None, progress: Progress | None = None) -> SubjectEntry:
    """Return the manifest's entry for an archive or an archive directory, read whole and strictly."""
    _verify_name(path.name, path)
    expect(progress, size_of(path), "reading")
    return read_subject(path, None, None, limits, progress)


def create(
    store: Path,
    chosen: Iterable[str] | None,
    *,
    version: int,
    created: datetime,
    expires: datetime | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Return a manifest of these subjects of a model store, or of all that are there; times have their zone."""
    listed = sorted(set(chosen)) if chosen is not None else found(store)
    for name in listed:
        _verify_name(name, store / name)
    if not listed:
        raise ConfigError(f"{store}: holds no archives, and an empty manifest permits nothing")
    expect(progress, sum(size_of(store / name) for name in listed), "listing")
    with Crew(progress) as crew:
        subjects = crew.each(lambda name: describe(store / name, limits=limits, progress=crew.tell), listed, READERS)
    return Manifest(
        schema=JSON,
        version=version,
        created=created.replace(microsecond=0),
        expires=expires.replace(microsecond=0) if expires is not None else None,
        subjects=tuple(subjects),
    )


def found(store: Path) -> list[str]:
    """Return the names of the archives and archive directories in a model store, sorted by their bytes."""
    return sorted((entry.name for entry in _entries(store) if _is_subject(entry)), key=str.encode)


def verify(manifest: Manifest, store: Path, *, whole: bool = False, progress: Progress | None = None) -> None:
    """Return if the model store holds exactly what the manifest lists; raise one error that names all else.

    Archives are hashed on all cores, one that is listed with its chunks by all of them at once; `promise` says what
    that proves. `whole` is for who does not trust the manifest to be of one piece: then one reading of each archive
    computes both its digests. `progress` is called by one thread at a time.
    """
    expect(progress, sum(size_of(store / subject.name) for subject in manifest.subjects), "verifying")
    with Crew(progress) as crew:
        found_out = crew.each(
            lambda subject: _complaint(store, subject, crew, whole=whole), manifest.subjects, cores() + 1
        )
    complaints = [why for why in found_out if why is not None]
    extra = [entry.name for entry in _entries(store) if _is_loadable(entry) and manifest.subject(entry.name) is None]
    complaints += [f"{store / name}: is not listed in the manifest" for name in sorted(extra)]
    if complaints:
        raise VerificationError(*complaints)


def _verify_name(name: str, path: Path) -> None:
    """Return if what is at the path can be a subject of this name; raise ConfigError."""
    why = names.subject_fault(name)
    if why is None and not path.is_dir() and not name.endswith(_ARCHIVES):
        why = (
            "is neither a `.mar` nor a `.tar.gz` archive, nor a directory made by torch-model-archiver "
            "--archive-format no-archive"
        )
    if why is not None:
        raise ConfigError(f"{path}: `{name}` {why}")


def _complaint(store: Path, subject: SubjectEntry, crew: Crew, *, whole: bool) -> str | None:
    path = store / subject.name
    if not os.path.lexists(path):
        return f"{path}: is missing, and the manifest lists it with sha256 {subject.sha256}"
    try:
        _verify_one(path, subject, crew, whole=whole)
    except VerificationError as error:
        with crew.reading:
            return "; ".join([str(error), *_inside(path, subject)])
    return None


def _verify_one(path: Path, subject: SubjectEntry, crew: Crew, *, whole: bool) -> None:
    if subject.kind == "directory":
        with crew.reading:
            read_subject(path, subject, None, as_listed(subject), crew.tell)
        return
    with open_file(path, str(path)) as file:
        if whole and subject.chunks is not None:
            with crew.reading:
                promise.verify_both(file, subject, crew)
        else:
            promise.verify_archive(file, subject, crew)


def _inside(path: Path, subject: SubjectEntry) -> list[str]:
    """Return which members differ, where both sides can be told: what has changed is what to look at."""
    try:
        found = read_subject(path, None, None, as_listed(subject)) if subject.members else None
    except VerificationError:
        return []
    rows = differences(subject.members, found.members) if found is not None else []
    more = [f"and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    return ["in it " + "; ".join([*rows[:MOST_ROWS], *more])] if rows else []


def _entries(store: Path) -> list[Path]:
    try:
        return list(store.iterdir())
    except OSError as error:
        raise ConfigError(f"{store}: the model store cannot be read: {error.strerror}") from error


def _is_subject(path: Path) -> bool:
    return path.name.endswith(_ARCHIVES) or (path / mar.MANIFEST).exists()


def _is_loadable(path: Path) -> bool:
    return path.name.endswith(_LOADABLE) or _is_subject(path)
