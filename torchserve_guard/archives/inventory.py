"""The inventory: what lies in a model store, described for a manifest and compared with one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from torchserve_guard.archives import mar, names
from torchserve_guard.archives.ledger import differences
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.manifest import JSON, Manifest, SubjectEntry
from torchserve_guard.archives.reading import digest_of, read_subject, verify_promise
from torchserve_guard.archives.sources import Progress, open_file
from torchserve_guard.errors import ConfigError, VerificationError

MOST_ROWS = 20
_LOADABLE = (".mar", ".model", ".tar.gz", ".war")
"""What TorchServe takes for a model by its name (ModelManager, WorkflowManager)."""


def describe(path: Path, *, limits: Limits | None = None, progress: Progress | None = None) -> SubjectEntry:
    """Return the manifest's entry for an archive or an archive directory, read whole and strictly."""
    _verify_name(path.name, path)
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
    return Manifest(
        schema=JSON,
        version=version,
        created=created.replace(microsecond=0),
        expires=expires.replace(microsecond=0) if expires is not None else None,
        subjects=tuple(describe(store / name, limits=limits, progress=progress) for name in listed),
    )


def found(store: Path) -> list[str]:
    """Return the names of the archives and archive directories in a model store, sorted by their bytes."""
    return sorted((entry.name for entry in _entries(store) if _is_subject(entry)), key=str.encode)


def verify(manifest: Manifest, store: Path, *, progress: Progress | None = None) -> None:
    """Return if the model store holds exactly what the manifest lists; raise one error that names all else.

    Archives are hashed on all cores; `progress` is called by one thread at a time.
    """
    progress = _one_at_a_time(progress)
    with ThreadPoolExecutor(os.cpu_count(), "tsguard-verify") as pool:
        found_out = pool.map(lambda subject: _complaint(store, subject, progress), manifest.subjects)
        complaints = [why for why in found_out if why is not None]
    extra = [entry.name for entry in _entries(store) if _is_loadable(entry) and manifest.subject(entry.name) is None]
    complaints += [f"{store / name}: is not listed in the manifest" for name in sorted(extra)]
    if complaints:
        raise VerificationError(*complaints)


def _verify_name(name: str, path: Path) -> None:
    """Return if what is at the path can be a subject of this name; raise ConfigError."""
    why = names.subject_fault(name)
    if why is None and not path.is_dir() and path.suffix != ".mar":
        why = "is neither a `.mar` archive nor a directory made by torch-model-archiver --archive-format no-archive"
    if why is not None:
        raise ConfigError(f"{path}: `{name}` {why}")


def _complaint(store: Path, subject: SubjectEntry, progress: Progress | None) -> str | None:
    path = store / subject.name
    if not os.path.lexists(path):
        return f"{path}: is missing, and the manifest lists it with sha256 {subject.sha256}"
    try:
        if subject.kind == "directory":
            read_subject(path, subject, progress=progress)
        else:
            with open_file(path, str(path)) as file:
                verify_promise(str(path), subject, digest_of(file, progress), file.size)
    except VerificationError as error:
        return "; ".join([str(error), *_inside(path, subject)])
    return None


def _inside(path: Path, subject: SubjectEntry) -> list[str]:
    """Return which members differ, where both sides can be told: what has changed is what to look at."""
    try:
        found = read_subject(path, None) if subject.members else None
    except VerificationError:
        return []
    rows = differences(subject.members, found.members) if found is not None else []
    more = [f"and {len(rows) - MOST_ROWS} more"] if len(rows) > MOST_ROWS else []
    return ["in it " + "; ".join([*rows[:MOST_ROWS], *more])] if rows else []


def _one_at_a_time(progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    lock = threading.Lock()

    def locked(count: int) -> None:
        with lock:
            progress(count)

    return locked


def _entries(store: Path) -> list[Path]:
    try:
        return list(store.iterdir())
    except OSError as error:
        raise ConfigError(f"{store}: the model store cannot be read: {error.strerror}") from error


def _is_subject(path: Path) -> bool:
    return path.suffix == ".mar" or (path / mar.MANIFEST).exists()


def _is_loadable(path: Path) -> bool:
    return path.name.endswith(_LOADABLE) or _is_subject(path)
