"""The obtaining: every listed archive staged, from the model store or from where its address says.

What the store of trees holds already is not asked for again. What is fetched lies in the quarantine beside that store
until its digest was compared, and is gone from there when it is staged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard import allotment, archives, unlisted
from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.remote.fetching import fetched
from torchserve_guard.archives.remote.quarantine import Quarantine
from torchserve_guard.errors import VerificationError
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings import LoadItem, Settings

Wanted = tuple[LoadItem, archives.SubjectEntry]


@dataclass(frozen=True, slots=True)
class Arrival:
    """An archive that was fetched, verified and staged; `origin` is its address without what opens it."""

    archive: str
    origin: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Obtained:
    """The trees, in the order in which they were wanted, and which of them had to be fetched."""

    staged: tuple[archives.Staged, ...]
    arrivals: tuple[Arrival, ...] = ()


def obtain(
    settings: Settings,
    store: archives.Store,
    wanted: Iterable[Wanted],
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Obtained:
    """Return the staged trees. Raises `VerificationError`, `ConfigError`, or `GuardError` for what is not to be had.

    Once `stop` is set it ends soon, wherever it is.
    """
    wanted, limits = tuple(wanted), allotment.limits(settings)
    away = {entry.name: (item, entry) for item, entry in wanted if is_remote(item)}
    found = {name: store.held(entry, limits=limits, progress=progress, stop=stop) for name, (_, entry) in away.items()}
    held = {name: tree for name, tree in found.items() if tree is not None}
    missing = {entry.sha256: (item, entry) for name, (item, entry) in away.items() if name not in held}
    with ExitStack() as stack:
        # INVARIANT: each digest once and in one order, for each is locked until all are staged: nobody waits for
        # himself, nor two guards for each other.
        places = {
            digest: stack.enter_context(_fetched(settings, store, one, progress, stop))
            for digest, one in sorted(missing.items())
        }
        local = [(_place(settings, one, places), one[1]) for one in wanted if not _among(one[0], held)]
        staged = iter(store.stage_all(local, limits=limits, progress=progress, stop=stop))
        trees = tuple(held[item.archive] if _among(item, held) else next(staged) for item, _ in wanted)
    sizes = {tree.name: tree.size for tree in trees}
    arrivals = tuple(
        Arrival(entry.name, str(item.origin), entry.sha256, sizes[entry.name]) for item, entry in missing.values()
    )
    return Obtained(trees, arrivals)


def is_remote(item: LoadItem) -> bool:
    """Return whether an archive has to be fetched."""
    return item.origin is not None and item.origin.scheme.remote


def verify_listed(settings: Settings, items: Iterable[LoadItem]) -> None:
    """Raise `VerificationError` if there are archives from elsewhere where no manifest says what they must be."""
    strangers = [item for item in items if item.origin is not None]
    if strangers:
        raise VerificationError(
            *(
                f"{item.origin}: there is no manifest {settings.manifest} that lists `{item.archive}`, and what comes "
                "from elsewhere is loaded for its digest only: write one with `tsguard manifest create`"
                for item in strangers
            )
        )


def check_unfetched(settings: Settings, wanted: Iterable[Wanted]) -> Iterator[Finding]:
    """Yield what is to be said of archives that were not fetched, and so not looked at."""
    for item, entry in wanted:
        yield Finding(
            "TSG110",
            Severity.LOW,
            f"`{entry.name}` would be fetched from {item.origin} and was not: that it has the sha256 {entry.sha256}, "
            "and what is in it, was not looked at",
            "check with `--fetch` where the address can be reached; a start fetches and verifies it in any case",
            Location(str(settings.config)),
            key="load_models",
        )


def _fetched(
    settings: Settings, store: archives.Store, one: Wanted, progress: Progress | None, stop: threading.Event | None
) -> AbstractContextManager[Path]:
    item, entry = one
    assert item.origin is not None  # noqa: S101 - it is remote
    quarantine = Quarantine(store.root.with_name("quarantine"), time.time())
    return fetched(item.origin, entry, settings.terms, quarantine, progress=progress, stop=stop)


def _among(item: LoadItem, held: dict[str, archives.Staged]) -> bool:
    return is_remote(item) and item.archive in held


def _place(settings: Settings, one: Wanted, places: dict[str, Path]) -> Path:
    item, entry = one
    if item.origin is None:
        return unlisted.source(settings, item.archive)
    return places[entry.sha256] if is_remote(item) else Path(item.origin.path)
