"""The reading: one subject, read once, hashed as a whole and member by member, and handed to a sink.

What was read is compared with what the manifest promises before anything is said about its inside: an
archive that is not the approved one is reported as that, with both digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from torchserve_guard.archives import mar, names, promise, tarball
from torchserve_guard.archives.container import Table, read_table
from torchserve_guard.archives.digests import Reckoning
from torchserve_guard.archives.lanes import Belt, Lane
from torchserve_guard.archives.ledger import Ledger, differences
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.manifest import CHUNK, MemberEntry, SubjectEntry, unpacked
from torchserve_guard.archives.passage import Sink, Tape, walk
from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.refusal import Reason, refuse
from torchserve_guard.archives.sighting import Look
from torchserve_guard.archives.sources import Source, listing, open_directory, open_file, open_member
from torchserve_guard.errors import VerificationError

Walk = Callable[[Iterator[bytes], Sink], None]
"""Takes an archive apart: its bytes in their order, and who takes the members."""


class _Laned:
    """A sink whose work is done by a lane."""

    def __init__(self, sink: Sink, lane: Lane) -> None:
        self._sink = sink
        self._lane = lane

    def expect(self, size: int) -> None:
        self._lane.give(partial(self._sink.expect, size))

    def open(self, path: str) -> None:
        self._lane.give(partial(self._sink.open, path))

    def write(self, data: bytes | memoryview) -> None:
        self._lane.give(partial(self._sink.write, data))

    def close(self) -> None:
        self._lane.give(self._sink.close)


def kind_of(path: Path) -> Literal["mar", "directory", "tar.gz"]:
    """Return what a path in the model store is: a directory, or else an archive, as its name says."""
    if path.is_dir() and not path.is_symlink():
        return "directory"
    return "tar.gz" if path.name.endswith(".tar.gz") else "mar"


def read_subject(
    path: Path,
    promised: SubjectEntry | None,
    behind: Sink | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    *,
    look: Look | None = None,
) -> SubjectEntry:
    """Return what is there, all of it read once; raise VerificationError if it is not what is promised.

    `look` is had at an archive before it is read, and once all of it was found to be as promised.
    """
    kind = promised.kind if promised is not None else kind_of(path)
    read = _read_directory if kind == "directory" else partial(_read_archive, look=look or Look())
    with Lane("tsguard-write") as writing:
        ledger = Ledger(_Laned(behind, writing) if behind is not None else None)
        return read(path, promised, ledger, limits or Limits(), progress)


def verify_listed(where: str, subject: SubjectEntry, limits: Limits) -> None:
    """Return if what a manifest lists of a subject is within the limits: then nothing has to be read to refuse it."""
    total = unpacked(subject.members)
    why = limits.fault(len(subject.members), total, total if subject.size is None else subject.size)
    if why is not None:
        refuse(where, None, why)


def as_listed(subject: SubjectEntry) -> Limits:
    """Return limits with room for what a manifest lists, for who compares and unpacks nothing."""
    default = Limits()
    folders = {parent for member in subject.members for parent in names.parents(member.path)}
    total = unpacked(subject.members)
    return Limits(
        members=max(default.members, len(subject.members) + len(folders) + 1),
        unpacked=max(default.unpacked, total),
        ratio=max(default.ratio, -(-total // max(subject.size or total, 1))),
    )


def _read_archive(
    path: Path, promised: SubjectEntry | None, ledger: Ledger, limits: Limits, progress: Progress | None, *, look: Look
) -> SubjectEntry:
    where = str(path)
    kind = promised.kind if promised is not None else kind_of(path)
    with open_file(path, where) as source:
        look.begin(source)
        reckoning = Reckoning(_chunk_of(source) if promised is None else None)
        problem = _pass(source, reckoning, partial(_walker, kind, source, limits), ledger, progress)
        if promised is not None:
            promise.verify(where, promised, reckoning.digest(), source.size, problem)
        if problem is not None:
            raise problem
        look.end(source)
    entries = ledger.entries()
    mar.verify(bytes(ledger.manifest), {entry.path for entry in entries}, where)
    found = _found(path, promised, source.size, reckoning.digest(), entries)
    return found.model_copy(update={"chunks": reckoning.chunks()})


def _chunk_of(source: Source) -> int | None:
    """Return the size of the chunks of a new entry. What is promised is held against the whole: see `promise`."""
    return CHUNK if source.size > CHUNK else None


def _pass(
    source: Source, reckoning: Reckoning, walker: Callable[[], Walk], ledger: Ledger, progress: Progress | None
) -> VerificationError | None:
    """Reckon the archive and take it apart; return what was wrong inside, if anything. Every byte is read once."""
    belt = Belt()
    try:
        taking_apart = walker()
    except VerificationError as error:
        reckoning.take(source, progress)
        return error
    problems: list[VerificationError] = []
    with Lane("tsguard-unpack") as unpacking:
        unpacking.give(partial(_unpack, belt, taking_apart, ledger, problems))
        try:
            reckoning.take(source, progress, belt.put)
        finally:
            belt.put(b"")
    return next(iter(problems), None)


def _walker(kind: str, source: Source, limits: Limits) -> Walk:
    """Return what takes the archive apart; what its end tells is refused before anything is read."""
    where = source.where
    if kind == "tar.gz":
        return lambda chunks, sink: tarball.walk(chunks, source.size, sink, where, limits)
    table = read_table(source.read, source.size, where, limits)
    _verify_manifest_is_there(table, where, limits)
    return lambda chunks, sink: walk(Tape(chunks, where), table, sink, where)


def _unpack(belt: Belt, taking_apart: Walk, ledger: Ledger, problems: list[VerificationError]) -> None:
    """Walk the archive; take every chunk off the belt, whatever happens, so that nobody waits for ever."""
    chunks = iter(belt)
    try:
        with Lane("tsguard-members") as hashing:
            taking_apart(chunks, _Laned(ledger, hashing))
    except VerificationError as error:
        problems.append(error)
    finally:
        for _ in chunks:
            pass


def _verify_manifest_is_there(table: Table, where: str, limits: Limits) -> None:
    sizes = [member.size for member in table.members if member.path == mar.MANIFEST]
    if not sizes:
        refuse(where, None, f"has no `{mar.MANIFEST}`: make it with torch-model-archiver", Reason.NO_MANIFEST)
    if sizes[0] > limits.mar_manifest:
        why = f"is larger than the limit of {limits.mar_manifest} bytes"
        refuse(where, mar.MANIFEST, why, Reason.MANIFEST_LARGE)


def _read_directory(
    path: Path, promised: SubjectEntry | None, ledger: Ledger, limits: Limits, progress: Progress | None
) -> SubjectEntry:
    where = str(path)
    with open_directory(path, where) as root:
        paths = _files(root, where, limits)
        with Lane("tsguard-members") as hashing:
            for member in paths:
                _copy(root, member, where, _Laned(ledger, hashing), progress)
    entries = ledger.entries()
    size = unpacked(entries)
    digest = hashlib.sha256(b"".join(f"{e.sha256}  {e.path}\n".encode() for e in entries)).hexdigest()
    if promised is not None:
        promise.verify(where, promised, digest, size)
    if mar.MANIFEST not in paths:
        refuse(where, None, f"has no `{mar.MANIFEST}`: make it with torch-model-archiver --archive-format no-archive")
    mar.verify(bytes(ledger.manifest), set(paths), where)
    return _found(path, promised, size, digest, entries)


def _files(root: int, where: str, limits: Limits) -> list[str]:
    """Return the paths of the regular files beneath; anything else but directories is refused."""
    spellings = names.Spellings()
    files: list[str] = []
    total = 0
    for path, status in listing(root, where):
        why = names.fault(path) or spellings.fault(path)
        if why is not None:
            refuse(where, path, f"its name {why}", why.reason)
        if not path.endswith("/"):
            files.append(path)
            total += status.st_size
        why = limits.fault(len(files), total, total)
        if why is not None:
            refuse(where, None, why)
    return sorted(files, key=str.encode)


def _copy(root: int, path: str, where: str, sink: Sink, progress: Progress | None) -> None:
    with open_member(root, path, where) as source:
        sink.open(path)
        for chunk in source.chunks(progress):
            sink.write(chunk)
        sink.close()


def _found(
    path: Path,
    promised: SubjectEntry | None,
    size: int,
    digest: str,
    entries: tuple[MemberEntry, ...],
) -> SubjectEntry:
    """Return the entry for what was read; members that the manifest lists otherwise are refused."""
    kind = promised.kind if promised is not None else kind_of(path)
    rows = differences(promised.members, entries) if promised is not None and promised.members else []
    if rows:
        raise VerificationError(f"{path}: its members are not those of the manifest: {'; '.join(rows)}")
    name = promised.name if promised is not None else path.name
    return SubjectEntry(name=name, kind=kind, size=size, sha256=digest, members=entries)
