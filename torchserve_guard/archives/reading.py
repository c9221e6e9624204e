"""The reading: one subject, read once, hashed as a whole and member by member, and handed to a sink.

What was read is compared with what the manifest promises before anything is said about its inside: an
archive that is not the approved one is reported as that, with both digests.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Literal

from torchserve_guard.archives import mar, names
from torchserve_guard.archives.container import Table, read_table
from torchserve_guard.archives.lanes import Belt, Lane
from torchserve_guard.archives.ledger import Ledger, differences
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.manifest import MemberEntry, SubjectEntry
from torchserve_guard.archives.passage import Sink, Tape, walk
from torchserve_guard.archives.refusal import refuse
from torchserve_guard.archives.sources import Progress, Source, listing, open_directory, open_file, open_member
from torchserve_guard.errors import VerificationError


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


def digest_of(source: Source, progress: Progress | None = None) -> str:
    """Return the SHA-256 of a whole file."""
    digest = hashlib.sha256()
    for chunk in source.chunks(progress):
        digest.update(chunk)
    return digest.hexdigest()


def kind_of(path: Path) -> Literal["mar", "directory"]:
    """Return what a path in the model store is: a directory, or else an archive."""
    return "directory" if path.is_dir() and not path.is_symlink() else "mar"


def read_subject(
    path: Path,
    promised: SubjectEntry | None,
    behind: Sink | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> SubjectEntry:
    """Return what is there, all of it read once; raise VerificationError if it is not what is promised."""
    kind = promised.kind if promised is not None else kind_of(path)
    read = _read_directory if kind == "directory" else _read_archive
    return read(path, promised, Ledger(behind), limits or Limits(), progress)


def verify_promise(where: str, promised: SubjectEntry, digest: str, size: int, cause: Exception | None = None) -> None:
    """Return if digest and size are the promised ones; raise VerificationError with both digests."""
    if digest == promised.sha256 and promised.size in (None, size):
        return
    how = "changed" if promised.size in (None, size) else "changed and resized"
    raise VerificationError(
        f"{where}: is not what the manifest lists as `{promised.name}`: it was {how}: expected sha256 "
        f"{promised.sha256} ({_bytes(promised.size)}), found {digest} ({_bytes(size)}): restore it, "
        "or list the new one with `tsguard manifest create`"
    ) from cause


def _read_archive(
    path: Path, promised: SubjectEntry | None, ledger: Ledger, limits: Limits, progress: Progress | None
) -> SubjectEntry:
    where = str(path)
    with open_file(path, where) as source:
        digest, problem = _pass(source, ledger, limits, progress)
    if promised is not None:
        verify_promise(where, promised, digest, source.size, problem)
    if problem is not None:
        raise problem
    entries = ledger.entries()
    mar.verify(bytes(ledger.manifest), {entry.path for entry in entries}, where)
    return _found(path, promised, source.size, digest, entries)


def _pass(
    source: Source, ledger: Ledger, limits: Limits, progress: Progress | None
) -> tuple[str, VerificationError | None]:
    """Return the digest of the whole, and what was wrong inside, if anything was; every byte is read once."""
    digest = hashlib.sha256()
    belt = Belt()
    try:
        table = read_table(source.read, source.size, source.where, limits)
        _verify_manifest_is_there(table, source.where, limits)
    except VerificationError as error:
        return digest_of(source, progress), error
    problems: list[VerificationError] = []
    with Lane("tsguard-unpack") as unpacking:
        unpacking.give(partial(_unpack, belt, table, ledger, source.where, problems))
        try:
            for chunk in source.chunks(progress):
                belt.put(chunk)
                digest.update(chunk)
        finally:
            belt.put(b"")
    return digest.hexdigest(), next(iter(problems), None)


def _unpack(belt: Belt, table: Table, ledger: Ledger, where: str, problems: list[VerificationError]) -> None:
    """Walk the archive; take every chunk off the belt, whatever happens, so that nobody waits for ever."""
    chunks = iter(belt)
    try:
        with Lane("tsguard-write") as writing:
            walk(Tape(chunks, where), table, _Laned(ledger, writing), where)
    except VerificationError as error:
        problems.append(error)
    finally:
        for _ in chunks:
            pass


def _verify_manifest_is_there(table: Table, where: str, limits: Limits) -> None:
    sizes = [member.size for member in table.members if member.path == mar.MANIFEST]
    if not sizes:
        refuse(where, None, f"has no `{mar.MANIFEST}`: make it with torch-model-archiver")
    if sizes[0] > limits.mar_manifest:
        refuse(where, mar.MANIFEST, f"is larger than the limit of {limits.mar_manifest} bytes")


def _read_directory(
    path: Path, promised: SubjectEntry | None, ledger: Ledger, limits: Limits, progress: Progress | None
) -> SubjectEntry:
    where = str(path)
    with open_directory(path, where) as root:
        paths = _files(root, where, limits)
        with Lane("tsguard-write") as writing:
            for member in paths:
                _copy(root, member, where, _Laned(ledger, writing), progress)
    entries = ledger.entries()
    size = sum(entry.size for entry in entries)
    digest = hashlib.sha256(b"".join(f"{e.sha256}  {e.path}\n".encode() for e in entries)).hexdigest()
    if promised is not None:
        verify_promise(where, promised, digest, size)
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
            refuse(where, path, f"its name {why}")
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
    path: Path, promised: SubjectEntry | None, size: int, digest: str, entries: tuple[MemberEntry, ...]
) -> SubjectEntry:
    """Return the entry for what was read; members that the manifest lists otherwise are refused."""
    kind = promised.kind if promised is not None else kind_of(path)
    rows = differences(promised.members, entries) if promised is not None and promised.members else []
    if rows:
        raise VerificationError(f"{path}: its members are not those of the manifest: {'; '.join(rows)}")
    name = promised.name if promised is not None else path.name
    return SubjectEntry(name=name, kind=kind, size=size, sha256=digest, members=entries)


def _bytes(size: int | None) -> str:
    return "size not listed" if size is None else f"{size} bytes"
