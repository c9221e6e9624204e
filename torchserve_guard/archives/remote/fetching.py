"""The fetching: a listed archive into the quarantine, whole and with the digest that the manifest promises.

Nothing is asked for that is there already; what was begun is continued; what turns out to be something else is removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torchserve_guard import allowance
from torchserve_guard.archives.manifest import SubjectEntry
from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.remote import https, objects
from torchserve_guard.archives.remote.errand import Errand
from torchserve_guard.archives.remote.failure import Unfetched, refused
from torchserve_guard.archives.remote.quarantine import Quarantine
from torchserve_guard.archives.remote.watch import Watch
from torchserve_guard.errors import VerificationError
from torchserve_guard.origin import Origin, Scheme
from torchserve_guard.terms import Terms

ATTEMPTS = 3
"""How often an archive is asked for in one go, each time for what is still missing."""

Transfer = Callable[[Errand], None]
TRANSFERS: dict[Scheme, Transfer] = {
    Scheme.HTTPS: https.transfer,
    Scheme.S3: objects.transfer,
    Scheme.GS: objects.transfer,
}


@contextmanager
def fetched(
    origin: Origin,
    subject: SubjectEntry,
    terms: Terms,
    quarantine: Quarantine,
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    transfers: dict[Scheme, Transfer] = TRANSFERS,
) -> Iterator[Path]:
    """Lend the file of an archive whose digest is the listed one; it is removed when it is staged.

    Raises `VerificationError`, `Unfetched`, `ConfigError`, or `GuardError` when it cannot be kept.
    """
    _verify_fetchable(origin, subject, terms)
    with Watch(origin, terms, stop or threading.Event()) as watch, quarantine.hold(subject, watch) as partial:
        errand = Errand(origin, subject, terms, partial, watch, progress)
        try:
            _bring(errand, transfers[origin.scheme])
        except VerificationError:
            partial.discard()
            raise
        watch.end()
        yield partial.path
        # Of a tree without listed members nobody can say that it still is what it was: the archive itself is kept.
        if subject.members:
            partial.discard()
        else:
            partial.used()


def _verify_fetchable(origin: Origin, subject: SubjectEntry, terms: Terms) -> None:
    """Return if it makes sense to ask; raise `VerificationError`."""
    try:
        allowance.verify(origin, terms)
    except ValueError as error:
        refused(origin, str(error))
    if subject.kind == "directory":
        refused(origin, f"`{subject.name}` is listed as a directory, which cannot be fetched")
    if subject.size is not None and subject.size > terms.largest:
        refused(origin, f"is listed with {subject.size} bytes, more than {terms.largest} (`guard.fetch_max_size`)")


def _bring(errand: Errand, transfer: Transfer) -> None:
    """Return when the file is whole and the listed one."""
    partial = errand.partial
    for again in reversed(range(ATTEMPTS)):
        if partial.size > errand.most:
            partial.forget()  # nothing of that size was begun by us, and hashing it would take as long as it is
        partial.pieced = partial.size > 0
        partial.digest()  # of what is there already, before anybody is kept waiting
        if (_whole(errand) or _transferred(errand, transfer, again=again)) and _verified(errand, again=again):
            return


def _transferred(errand: Errand, transfer: Transfer, *, again: int) -> bool:
    """Return whether all came; False when some did, and the rest may be asked for again. Raises what it met."""
    before = errand.partial.size
    try:
        transfer(errand)
    except Unfetched:
        errand.watch.verify()
        if not again or errand.partial.size == before:
            raise
        return False
    return True


def _whole(errand: Errand) -> bool:
    """Return whether nothing more is to be asked for."""
    size, note = errand.subject.size, errand.partial.note
    if size is None:
        size = note.total if note is not None else None
    return size is not None and errand.partial.size >= size


def _verified(errand: Errand, *, again: int) -> bool:
    """Return whether the file is the listed one; False when one of several pieces was not, and is forgotten."""
    partial, listed = errand.partial, errand.subject.sha256
    found = partial.digest()
    if found != listed and not (partial.pieced and again):
        refused(errand.origin, f"has the sha256 {found}, and the manifest lists {listed} for `{errand.subject.name}`")
    if found != listed:
        partial.forget()
    return found == listed
