"""The store: staged trees, private, read-only, each under the digest of what it came from.

    ROOT/subjects/KIND-DIGEST/tree/...       what TorchServe is shown
    ROOT/subjects/KIND-DIGEST/record.json    what was staged, member by member
    ROOT/staging/...                         trees in the making; locked by whoever makes them
    ROOT/aside/KIND-DIGEST                   the last tree found changed, kept to be looked at

A tree gets its name by one rename, after its digest was compared: what has a name is whole. Nothing is
synced to the disk, on purpose: every stage compares the whole tree with its digests before it is used, so a
power cut costs time, never truth.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard.archives import manifest, mar, trees
from torchserve_guard.archives.lanes import Lane
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.manifest import MemberEntry, SubjectEntry
from torchserve_guard.archives.reading import digest_of, read_subject, verify_promise
from torchserve_guard.archives.sources import Progress, open_directory, open_file, open_member
from torchserve_guard.errors import ConfigError, GuardError, VerificationError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RECORD = "record.json"


@dataclass(frozen=True, slots=True)
class Staged:
    """A subject whose verified bytes lie in the store: `tree` is what TorchServe is shown under `name`."""

    name: str
    digest: str
    size: int
    tree: Path
    members: tuple[MemberEntry, ...]

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
    """The store beneath a private directory, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._root, *(self._root / name for name in ("subjects", "staging", "aside"))):
            _verify_private(directory)
        self._sweep()

    def stage(
        self,
        source: Path,
        subject: SubjectEntry,
        *,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> Staged:
        """Return the subject's verified tree, unpacking it unless it is here; raise VerificationError.

        The source is hashed every time, and so is the tree. `progress` is told the bytes of the source.
        """
        try:
            return self._warm(source, subject, limits, progress) or self._cold(source, subject, limits, progress)
        except OSError as error:
            raise GuardError(f"{source}: cannot be staged in {self._root}: {error.strerror or error}") from error

    def clear(self) -> None:
        """Remove the whole store: for one that was made to look, not to serve."""
        trees.remove(self._root)

    def _cold(self, source: Path, subject: SubjectEntry, limits: Limits | None, progress: Progress | None) -> Staged:
        """Read the source once, and give the tree that comes of it its name."""
        with self._workshop() as work:
            tree = work / "tree"
            tree.mkdir(mode=0o700)
            with open_directory(tree, str(tree)) as root, closing(trees.TreeWriter(root)) as writer:
                found = read_subject(source, subject, writer, limits, progress)
            trees.seal(tree, found.members)
            (work / _RECORD).write_bytes(manifest.render_subject(found))
            home = self._place(work, subject)
        return _staged(subject, found, home)

    def _warm(
        self, source: Path, subject: SubjectEntry, limits: Limits | None, progress: Progress | None
    ) -> Staged | None:
        """Return the tree that is here, compared again as a whole; None if there is none, or no longer."""
        home = self._home(subject)
        # INVARIANT: the record is believed no further than the manifest. One without members (`SHA256SUMS`) cannot tell
        # a tree that was changed together with its record, so the archive is unpacked anew.
        if not subject.members or not home.exists():
            return None
        try:
            with Lane("tsguard-verify") as verifying:
                found: list[SubjectEntry] = []
                verifying.give(lambda: found.append(_verified(home, subject)))
                _verify_source(source, subject, limits, progress)
        except trees.Drift:
            self._set_aside(home)
            return None
        return _staged(subject, found[0], home)

    def _home(self, subject: SubjectEntry) -> Path:
        return self._root / "subjects" / f"{subject.kind}-{subject.sha256}"

    def _place(self, work: Path, subject: SubjectEntry) -> Path:
        """Give a finished tree its name; one that somebody else finished meanwhile makes room."""
        home = self._home(subject)
        with _locked(self._root):
            if home.exists():
                home.rename(self._root / "staging" / secrets.token_hex(16))
            work.rename(home)
        return home

    def _set_aside(self, home: Path) -> None:
        """Keep a tree that was changed, for whoever wants to know how; only the last one."""
        aside = self._root / "aside" / home.name
        with _locked(self._root):
            if aside.exists():
                aside.rename(self._root / "staging" / secrets.token_hex(16))
            if home.exists():
                home.rename(aside)

    @contextmanager
    def _workshop(self) -> Iterator[Path]:
        """Lend a private directory, locked while it is in use; what is left of it at the end is removed."""
        work = self._root / "staging" / secrets.token_hex(16)
        with _locked(self._root):
            work.mkdir(mode=0o700)
            lock = os.open(work, _DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield work
        finally:
            os.close(lock)
            self._sweep()

    def _sweep(self) -> None:
        """Remove what nobody is making any more: a lock ends with the process that held it."""
        with _locked(self._root):
            for leftover in (self._root / "staging").iterdir():
                if leftover.is_symlink() or not leftover.is_dir():
                    leftover.unlink()
                    continue
                with _abandoned(leftover) as abandoned:
                    if abandoned:
                        trees.remove(leftover)


def _verified(home: Path, subject: SubjectEntry) -> SubjectEntry:
    """Return the record of a tree that still is what its record and the manifest say; raise Drift."""
    record = home / _RECORD
    try:
        with open_file(record, str(record)) as file:
            found = manifest.subject_entry(file.read(0, min(file.size, manifest.LARGEST)), str(record))
    except (ConfigError, VerificationError) as error:
        raise trees.Drift(str(error)) from error
    if (found.kind, found.sha256) != (subject.kind, subject.sha256):
        raise trees.Drift(f"{record}: is the record of something else")
    if found.members != subject.members:
        raise trees.Drift(f"{record}: does not list the members that the manifest lists")
    trees.verify(home / "tree", found.members)
    return found


def _verify_source(source: Path, subject: SubjectEntry, limits: Limits | None, progress: Progress | None) -> None:
    """Return if the source still is what the manifest lists."""
    if subject.kind == "directory":
        read_subject(source, subject, None, limits, progress)
        return
    with open_file(source, str(source)) as file:
        verify_promise(str(source), subject, digest_of(file, progress), file.size)


def _staged(subject: SubjectEntry, found: SubjectEntry, home: Path) -> Staged:
    return Staged(subject.name, found.sha256, found.size or 0, home / "tree", found.members)


def _verify_private(directory: Path) -> None:
    """Make a directory that only we can enter; one that is there must be such already."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"{directory}: the store cannot be made: {error.strerror}") from error
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{directory}: the store is not a directory; links are not followed here")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{directory}: the store belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{directory}: the store is open to others (mode {mode:04o}): `chmod 700 {directory}`")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the store for a moment, against other guards that share it."""
    descriptor = os.open(directory, _DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _abandoned(leftover: Path) -> Iterator[bool]:
    descriptor = os.open(leftover, _DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
