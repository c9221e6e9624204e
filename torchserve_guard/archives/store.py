"""The store: staged trees, private, read-only, each under the digest of what it came from.

    ROOT/subjects/KIND-DIGEST/tree/...       what TorchServe is shown
    ROOT/subjects/KIND-DIGEST/record.json    what was staged, member by member
    ROOT/subjects/KIND-DIGEST/seen.json      the archives that had this digest; see `sighting`
    ROOT/staging/...                         trees in the making; locked by whoever makes them
    ROOT/aside/KIND-DIGEST                   the last tree found changed, kept to be looked at
    ROOT/subjects/KIND-DIGEST/idle           for how many starts nobody asked for it
    ROOT/leases/...                          who uses what; see `leases`
    ROOT/copies/...                          trees that their models may write to; see `copies`

A tree gets its name by one rename, after its digest was compared: what has a name is whole. Nothing is
synced to the disk, on purpose: every stage compares the whole tree with its digests before it is used, so a
power cut costs time, never truth.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from torchserve_guard.archives import manifest, mar, record, sighting, trees
from torchserve_guard.archives.copies import Copies, Files
from torchserve_guard.archives.digests import READERS, Crew, Stopped
from torchserve_guard.archives.lanes import Lane
from torchserve_guard.archives.leases import Lease, claimed
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.locks import DIRECTORY, Tell, locked, verify_private
from torchserve_guard.archives.manifest import MemberEntry, SubjectEntry
from torchserve_guard.archives.progress import Progress, Share, expect
from torchserve_guard.archives.reading import read_subject, verify_listed
from torchserve_guard.archives.room import Room
from torchserve_guard.archives.sighting import Look, Proof
from torchserve_guard.archives.sources import open_directory, open_member, size_of
from torchserve_guard.errors import GuardError, VerificationError

_IDLE = "idle"
IDLE_STARTS = 10
"""Starts for which a tree is kept that no manifest lists any more: a roll-back finds it here."""
MOST_REMOVED = 8
"""Trees that one start removes: it is there to serve, and the next one goes on."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A subject whose verified bytes lie in the store: `tree` is what TorchServe is shown under `name`.

    `source` is how the archive beside it was known to be the listed one; the tree itself was hashed in any case.
    """

    name: str
    digest: str
    size: int
    tree: Path
    members: tuple[MemberEntry, ...]
    files: Files = Files.READ_ONLY
    source: Proof = field(default=Proof.HASHED, compare=False)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the files in the tree."""
        return tuple(member.path for member in self.members if not member.path.endswith("/"))


def model_of(staged: Staged) -> tuple[str, str]:
    """Return the name and the version of the model, as the staged archive's own manifest gives them."""
    where = str(staged.tree)
    with open_directory(staged.tree, where) as root, open_member(root, mar.MANIFEST, where) as file:
        return mar.identity(file.read(0, file.size), staged.name)


def code_of(staged: Staged) -> tuple[str | None, str | None]:
    """Return the modules of the handler and of the model, as the staged archive's own manifest gives them."""
    where = str(staged.tree)
    with open_directory(staged.tree, where) as root, open_member(root, mar.MANIFEST, where) as file:
        return mar.code(file.read(0, file.size), staged.name)


class Store:
    """The store beneath a private directory, which is made if it is not there.

    `believing` lets a start take an archive for what it was when it was last read whole, if nothing touched it since.
    `tell` is told, by any thread, when somebody else holds the store for long. `scratch` is a store in the temporary
    folder, to look and not to serve: it leaves nothing free.
    """

    def __init__(
        self,
        root: Path,
        *,
        believing: bool = True,
        clock: sighting.Clock = time.time_ns,
        file_system: sighting.Kind = sighting.file_system,
        tell: Tell | None = None,
        scratch: bool = False,
    ) -> None:
        self._root = root.absolute()
        self._tell = tell
        self._room = Room(str(self._root), "TMPDIR", 0) if scratch else Room(str(self._root))
        self._believing = believing
        self._clock = clock
        self._file_system = file_system
        self._root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._root, *(self._root / name for name in ("subjects", "staging", "aside", "leases"))):
            verify_private(directory)
        with locked(self._root, self._tell):
            self._lease = Lease(self._root / "leases")
        self._sweep()
        self._copies = Copies(self._root / "copies", room=self._room, tell=tell)

    def stage(
        self,
        source: Path,
        subject: SubjectEntry,
        *,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> Staged:
        """Return the subject's verified tree, unpacking it unless it is here; raise VerificationError.

        The tree is hashed every time, the source unless it is known again (see `sighting`). `progress` is told the
        bytes of the source, by one thread at a time.
        """
        expect(progress, size_of(source), "verifying")
        with Crew(progress) as crew:
            return self._staged(source, subject, limits, crew)

    def stage_all(
        self,
        subjects: Iterable[tuple[Path, SubjectEntry]],
        *,
        limits: Limits | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> list[Staged]:
        """Return the tree of each source, as `stage` does, several at once; raise one VerificationError for all.

        Once `stop` is set, nobody wants them any more: then it ends soon, with GuardError.
        """
        wanted = list(subjects)
        # One that is asked for twice is staged once: a model can be loaded under two names.
        distinct = {_key(source, subject): (source, subject) for source, subject in wanted}
        expect(progress, sum(size_of(source) for source, _ in distinct.values()), "verifying")
        with _wanted(), Crew(progress, stop) as crew:
            outcomes = crew.each(lambda one: self._outcome(*one, limits, crew), distinct.values(), READERS)
        errors = [outcome for outcome in outcomes if isinstance(outcome, VerificationError)]
        if len(errors) > 1:
            raise VerificationError(*(complaint for error in errors for complaint in error.complaints))
        for error in errors:
            raise error
        staged = {key: one for key, one in zip(distinct, outcomes, strict=True) if isinstance(one, Staged)}
        return [staged[_key(*one)] for one in wanted]

    def _outcome(
        self, source: Path, subject: SubjectEntry, limits: Limits | None, crew: Crew
    ) -> Staged | VerificationError:
        try:
            return self._staged(source, subject, limits, crew)
        except VerificationError as error:
            return error

    def _staged(self, source: Path, subject: SubjectEntry, limits: Limits | None, crew: Crew) -> Staged:
        try:
            return self._warm(source, subject, limits, crew) or self._cold(source, subject, limits, crew)
        except OSError as error:
            raise GuardError(f"{source}: cannot be staged in {self._root}: {error.strerror or error}") from error

    @property
    def root(self) -> Path:
        """The private directory of the store."""
        return self._root

    def held(
        self,
        subject: SubjectEntry,
        *,
        limits: Limits | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
    ) -> Staged | None:
        """Return the subject's tree if it is here and still what the manifest lists, member by member, else None.

        For a subject that lies elsewhere: its source is not asked for. Without listed members it is never said to be.
        """
        try:
            with _wanted(), Crew(progress, stop) as crew:
                return self._warm(None, subject, limits, crew)
        except OSError as error:
            raise GuardError(f"{self._root}: cannot be read: {error.strerror or error}") from error

    def collect(self, listed: Iterable[SubjectEntry], idle: int = IDLE_STARTS) -> list[str]:
        """Remove trees that are neither listed nor in use, and were not for the last starts; return their names.

        To be called once for each start. What any guard on this store staged is in use until that guard has ended.
        """
        kept = {self._home(subject).name for subject in listed}
        try:
            return self._collected(kept, idle)
        except OSError as error:
            raise GuardError(f"{self._root}: the store cannot be tidied: {error}") from error

    def _collected(self, kept: set[str], idle: int) -> list[str]:
        with locked(self._root, self._tell):
            kept |= claimed(self._root / "leases")
            homes = sorted((self._root / "subjects").iterdir())
            due = [home for home in homes if _starts_idle(home, used=home.name in kept) > idle][:MOST_REMOVED]
            for home in due:
                home.rename(self._root / "staging" / secrets.token_hex(16))
        self._sweep()
        return [home.name for home in due]

    def copy(self, staged: Staged, *, stop: threading.Event | None = None) -> Staged:
        """Return the subject with a private writable copy of its tree, compared again; raise VerificationError.

        It is there until it is discarded, or its guard ends.
        """
        try:
            with _wanted(), Crew(stop=stop) as crew:
                tree, files = self._copies.make(staged.tree, staged.members, crew, staged.name)
        except OSError as error:
            raise GuardError(f"{staged.name}: cannot be copied in {self._root}: {error.strerror or error}") from error
        return replace(staged, tree=tree, files=files)

    def discard(self, staged: Staged) -> None:
        """Remove a private copy; a tree of the store stays."""
        self._copies.remove(staged.tree)

    def discard_all(self) -> None:
        """Remove all private copies that were made here: whoever served from them has ended."""
        self._copies.clear()

    def clear(self) -> None:
        """Remove the whole store: for one that was made to look, not to serve."""
        self._lease.close()
        trees.remove(self._root)

    def _cold(self, source: Path, subject: SubjectEntry, limits: Limits | None, crew: Crew) -> Staged:
        """Read the source once, and give the tree that comes of it its name."""
        look = self._look()
        with self._workshop() as work:
            tree = work / "tree"
            tree.mkdir(mode=0o700)
            with (
                open_directory(tree, str(tree)) as root,
                self._room.claim(str(source), root, manifest.unpacked(subject.members)) as claim,
                closing(trees.TreeWriter(root, claim)) as writer,
            ):
                found = read_subject(source, subject, writer, limits, crew.tell, look=look)
            trees.seal(tree, found.members)
            (work / record.NAME).write_bytes(manifest.render_subject(found))
            home = self._standing(subject, found, crew) or self._place(work, subject)
        self._remember(home, subject, look)
        return _staged(subject, found, home)

    def _warm(self, source: Path | None, subject: SubjectEntry, limits: Limits | None, crew: Crew) -> Staged | None:
        """Return the tree that is here, compared again as a whole; None if there is none, or no longer."""
        home = self._home(subject)
        verify_listed(str(source or subject.name), subject, limits or Limits())
        # INVARIANT: it is claimed before it is looked at, so `collect` took it before, or leaves it alone.
        with locked(self._root, self._tell):
            self._lease.claim(home.name)
        # INVARIANT: the record is believed no further than the manifest. One without members (`SHA256SUMS`) cannot tell
        # a tree that was changed together with its record, so the archive is unpacked anew.
        if not subject.members or not home.exists():
            return None
        try:
            found = record.read(home, subject)
            noted, proof = self._compared(source, subject, found, limits, crew)
        except trees.Drift:
            self._set_aside(home)
            return None
        if noted != found:
            self._note(home, record.NAME, manifest.render_subject(noted))
        return _staged(subject, found, home, proof)

    def _compared(
        self, source: Path | None, subject: SubjectEntry, found: SubjectEntry, limits: Limits | None, crew: Crew
    ) -> tuple[SubjectEntry, Proof]:
        """Compare the tree with its record, and the source with the manifest at the same time, unless it is known.

        Return the record to keep, and what was done about the source; raise Drift, or VerificationError for the source.
        """
        home = self._home(subject)
        if source is None:
            trees.verify(home / "tree", found.members, crew)
            return found, Proof.NOT_ASKED
        if self._knows(home, subject, source):
            share = Share(crew.tell, manifest.unpacked(found.members), size_of(source))
            trees.verify(home / "tree", found.members, crew, share)
            return found, Proof.BELIEVED
        look = self._look()
        with Lane("tsguard-verify") as verifying:
            verifying.give(lambda: trees.verify(home / "tree", found.members, crew))
            noted = record.verify_source(source, subject, found, limits, crew, look=look)
        self._remember(home, subject, look)
        return noted, Proof.HASHED

    def _look(self) -> Look:
        return Look(self._clock if self._believing else None, self._file_system)

    def _knows(self, home: Path, subject: SubjectEntry, source: Path) -> bool:
        # A directory is many files, and is hashed each time.
        return (
            self._believing and subject.kind != "directory" and sighting.knows(home, subject, source, self._file_system)
        )

    def _remember(self, home: Path, subject: SubjectEntry, look: Look) -> None:
        """Note what the archive was when it was read, if that will tell whether it is touched."""
        if look.sighting is None:
            return
        # Where it cannot be written, the archive is read again at the next start: that is no reason not to serve.
        with suppress(OSError):
            self._note(home, sighting.NAME, sighting.with_one_more(home, subject, look.sighting))

    def _note(self, home: Path, name: str, data: bytes) -> None:
        """Write a record beside a tree that was just compared, at once or not at all."""
        draft = self._root / "staging" / secrets.token_hex(16)
        with locked(self._root, self._tell):
            if home.exists():
                draft.write_bytes(data)
                draft.replace(home / name)

    def _home(self, subject: SubjectEntry) -> Path:
        return self._root / "subjects" / f"{subject.kind}-{subject.sha256}"

    def _standing(self, subject: SubjectEntry, found: SubjectEntry, crew: Crew) -> Path | None:
        """Return the home of a tree that equals the one just made; None if there is none.

        Another guard may be serving from it, and would take one in its place for drift.
        """
        home = self._home(subject)
        if not home.exists():
            return None
        try:
            trees.verify(home / "tree", found.members, crew)
        except trees.Drift:
            return None
        return home

    def _place(self, work: Path, subject: SubjectEntry) -> Path:
        """Give a finished tree its name; one that somebody else finished meanwhile makes room."""
        home = self._home(subject)
        with locked(self._root, self._tell):
            if home.exists():
                home.rename(self._root / "staging" / secrets.token_hex(16))
            work.rename(home)
        return home

    def _set_aside(self, home: Path) -> None:
        """Keep a tree that was changed, for whoever wants to know how; only the last one."""
        aside = self._root / "aside" / home.name
        with locked(self._root, self._tell):
            if aside.exists():
                aside.rename(self._root / "staging" / secrets.token_hex(16))
            if home.exists():
                home.rename(aside)

    @contextmanager
    def _workshop(self) -> Iterator[Path]:
        """Lend a private directory, locked while it is in use; what is left of it at the end is removed."""
        work = self._root / "staging" / secrets.token_hex(16)
        with locked(self._root, self._tell):
            work.mkdir(mode=0o700)
            lock = os.open(work, DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield work
        finally:
            os.close(lock)
            self._sweep()

    def _sweep(self) -> None:
        """Remove what nobody is making any more: a lock ends with the process that held it."""
        with locked(self._root, self._tell):
            trees.sweep(self._root / "staging")


@contextmanager
def _wanted() -> Iterator[None]:
    try:
        yield
    except Stopped as error:
        raise GuardError("the staging was given up: nobody waits for it any more") from error


def _starts_idle(home: Path, *, used: bool) -> int:
    """Count one more start for which nobody used a tree, and return how many it were; none for one that is used."""
    counter = home / _IDLE
    if used:
        counter.unlink(missing_ok=True)
        return 0
    # What is no number begins anew: a tree is rather kept too long.
    told = counter.read_bytes()[:10] if counter.is_file() else b""
    count = int(told) + 1 if told.isdigit() else 1
    counter.write_bytes(b"%d" % count)
    return count


def _key(source: Path, subject: SubjectEntry) -> tuple[Path, str, str]:
    return source, subject.name, subject.sha256


def _staged(subject: SubjectEntry, found: SubjectEntry, home: Path, proof: Proof = Proof.HASHED) -> Staged:
    return Staged(subject.name, found.sha256, found.size or 0, home / "tree", found.members, source=proof)
