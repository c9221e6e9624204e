"""The sighting: an archive as it was when all its bytes were found to be those of a digest, to be known again by.

    ROOT/subjects/KIND-DIGEST/seen.json      the archives that were read whole and had this digest

A sighting says one thing only: this file had that digest. What the digest must be, the manifest says; what runs is the
staged tree, and that is hashed at every start. Whatever is not certain is no sighting, and then the archive is hashed.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from torchserve_guard.archives import contents, document
from torchserve_guard.archives.manifest import SubjectEntry
from torchserve_guard.archives.sources import Source, open_file
from torchserve_guard.errors import ConfigError

NAME: Final = "seen.json"
LARGEST: Final = 16 << 10
MOST: Final = 8
"""Archives that one digest is remembered to have had: several model stores may share a store of trees."""
SETTLED: Final = 2_000_000_000
"""Nanoseconds that a file must have lain unchanged: what changes it later then gets another time of change, also where
times are kept in whole seconds (ext3), or in those of the timer (Linux before 6.13)."""
SYNCED_WITHIN: Final = 0.25
FILE_SYSTEMS: Final = frozenset({"ext4", "xfs", "btrfs"})
"""Where the kernel itself stamps the time of change, by its own clock, and stamps a mapped page again once the page
was written back. Not tmpfs, which never does the second; nor what a server or a FUSE daemon has, whose times are what
the other side says."""

Clock = Callable[[], int]
"""Nanoseconds since 1970, as files are stamped with them."""
Kind = Callable[[int], str | None]
"""Takes a descriptor, returns the name of the file system that the file is on."""


class Proof(StrEnum):
    """What a start did to know that an archive is the listed one."""

    HASHED = "hashed"
    BELIEVED = "believed"
    NOT_ASKED = "not-asked"


class Sighting(BaseModel):
    """A file as `fstat` shows it.

    INVARIANT: whatever changes content, mode, owner or names moves `changed` (ctime), and no call sets it back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: StrictInt
    inode: StrictInt
    size: StrictInt
    modified: StrictInt
    changed: StrictInt


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["tsguard-seen/1"] = Field(alias="schema")
    kind: StrictStr
    sha256: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]
    seen: Annotated[tuple[Sighting, ...], Field(max_length=MOST)]


class Look:
    """One reading of an archive, from before its first byte to after its last; what it makes known is `sighting`.

    Without a clock nothing is looked at.
    """

    def __init__(self, clock: Clock | None = None, kind: Kind | None = None) -> None:
        self._clock = clock
        self._kind = kind or file_system
        self._before: Sighting | None = None
        self.sighting: Sighting | None = None

    def begin(self, source: Source) -> None:
        """Look at an open file before it is read."""
        if self._clock is None:
            return
        began, before = self._clock(), _of(source.descriptor)
        settled = began - before.changed >= SETTLED
        # INVARIANT: pages that somebody has mapped and made dirty can be changed without a new time of change, until
        # they are written back. From then on, the next store into one is a fault, which stamps the file.
        if settled and self._kind(source.descriptor) in FILE_SYSTEMS and _synced(source.descriptor):
            self._before = before

    def end(self, source: Source) -> None:
        """Look at it again, when it was read through this descriptor and all of it was as promised."""
        if self._before is not None and self._before == _of(source.descriptor):
            self.sighting = self._before


def knows(home: Path, subject: SubjectEntry, source: Path, kind: Kind) -> bool:
    """Return whether a file is one that had the subject's digest, and was not touched since; raise VerificationError.

    INVARIANT: nobody reads the file after this. It can be swapped once it was looked at, as it could once it was
    hashed: what TorchServe is shown is the tree.
    """
    with open_file(source, str(source)) as file:
        return (
            subject.size in {None, file.size}
            and _of(file.descriptor) in _read(home, subject)
            and kind(file.descriptor) in FILE_SYSTEMS
        )


def with_one_more(home: Path, subject: SubjectEntry, new: Sighting) -> bytes:
    """Return the record with one sighting more; of the same file there is one, of all the last ones."""
    others = [one for one in _read(home, subject) if (one.device, one.inode) != (new.device, new.inode)]
    seen = [*others[-(MOST - 1) :], new]
    rows = [one.model_dump() for one in seen]
    return document.render({"schema": "tsguard-seen/1", "kind": subject.kind, "sha256": subject.sha256, "seen": rows})


def file_system(descriptor: int) -> str | None:
    """Return the kind of the file system that an open file is on, None if it cannot be told (proc(5))."""
    try:
        told = Path(f"/proc/self/fdinfo/{descriptor}").read_text("ascii")
        number = next(line.split()[1] for line in told.splitlines() if line.startswith("mnt_id:"))
        with Path("/proc/self/mountinfo").open("rb") as mounts:
            found = (row for row in mounts if row.split(b" ", 1)[0] == number.encode())
            return next(found).rpartition(b" - ")[2].split()[0].decode()
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def _of(descriptor: int) -> Sighting:
    status = os.fstat(descriptor)
    return Sighting(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified=status.st_mtime_ns,
        changed=status.st_ctime_ns,
    )


def _read(home: Path, subject: SubjectEntry) -> tuple[Sighting, ...]:
    """Return what is on record of a subject; a record that is not one tells nothing."""
    place = home / NAME
    try:
        if not stat.S_ISREG(place.lstat().st_mode):
            return ()
        record = document.shaped(_Record, document.parse(contents.read(place, LARGEST, "record"), deepest=4))
    except (OSError, ConfigError, document.Malformed):
        return ()
    return record.seen if (record.kind, record.sha256) == (subject.kind, subject.sha256) else ()


def _synced(descriptor: int) -> bool:
    """Return whether all of a file is on the disk, or is there in a moment; nobody waits for more than that."""
    outcome: list[bool] = []
    copy = os.dup(descriptor)
    thread = threading.Thread(target=_sync, args=(copy, outcome), name="tsguard-sync", daemon=True)
    thread.start()
    thread.join(SYNCED_WITHIN)
    return bool(outcome) and outcome[0]


def _sync(descriptor: int, outcome: list[bool]) -> None:
    try:
        os.fdatasync(descriptor)
        outcome.append(True)
    except OSError:
        outcome.append(False)
    finally:
        os.close(descriptor)
