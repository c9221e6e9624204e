"""The unlisted: archives that are loaded in the profile `compat` although no manifest says that they may be.

Each is read whole before it is used, and its digest goes on record: who looks at the record knows what ran, though
nobody said beforehand what may.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from torchserve_guard import allotment, archives, authorization
from torchserve_guard.access import Mode
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings import LoadItem, Profile, Settings


def permitted(settings: Settings) -> bool:
    """Return whether archives may be loaded that no manifest lists.

    INVARIANT: a manifest counts once there was one. It is not done without when it was named, when signatures are
    asked for, when anything stands in its place, or when one was started from before: whoever can remove a file from
    the model store gains nothing by it.
    """
    return (
        settings.profile is Profile.COMPAT
        and not settings.manifest_named
        and settings.signature_threshold == 0
        and not os.path.lexists(settings.manifest)
        and not authorization.remembered(settings)
    )


def entry(settings: Settings, name: str) -> archives.SubjectEntry:
    """Return the entry that a manifest would have for an archive. Raises `VerificationError` or `ConfigError`."""
    return archives.describe(source(settings, name), limits=allotment.limits(settings)).model_copy(
        update={"name": name}
    )


def source(settings: Settings, name: str) -> Path:
    """Return where an archive of the store is; in the profile `compat` a link is followed, once and for all."""
    path = settings.model_store / name
    return Path(os.path.realpath(path)) if settings.profile is Profile.COMPAT and path.is_symlink() else path


def check(settings: Settings, items: Iterable[LoadItem], *, listed: bool) -> tuple[Finding, ...]:
    """Return what is to be said of a store that holds these archives, listed or not."""
    names = tuple(item.archive for item in items if item.origin is None)
    return (*([] if listed else _nothing_says(settings, names)), *_links(settings, names))


def _nothing_says(settings: Settings, names: tuple[str, ...]) -> Iterator[Finding]:
    if names or settings.mode is Mode.EXPLICIT:
        yield Finding(
            "TSG070",
            Severity.HIGH,
            f"nothing says what may be loaded: there is no manifest {settings.manifest}, so whoever writes into the "
            "model store decides; each archive is loaded as it is found, and recorded",
            f"look at the archives, then list them with `tsguard manifest create {settings.model_store}`",
            Location(str(settings.manifest)),
            key="guard.manifest",
        )


def _links(settings: Settings, names: tuple[str, ...]) -> Iterator[Finding]:
    for name in names:
        path = settings.model_store / name
        if path.is_symlink():
            end = os.path.realpath(path)
            yield Finding(
                "TSG071",
                Severity.HIGH,
                f"`{name}` is a symbolic link to {end}: who may write there decides what is loaded; "
                "the profile `strict` does not follow it",
                "put the archive itself into the model store",
                Location(str(path)),
            )
