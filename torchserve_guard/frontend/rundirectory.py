"""The run directory: one private place for the sockets, the configuration and the scratch of one TorchServe."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard.errors import FrontendError

# sun_path holds 108 bytes with its NUL (unix(7)); netty cuts a longer name off and binds what is left.
LONGEST_SOCKET = 107
# Worker sockets are TMP/.ts.sock.PORT (util/Connector.java), five digits at most.
LONGEST_WORKER_SOCKET = ".ts.sock.65535"


@dataclass(frozen=True, slots=True)
class Sockets:
    """The paths of TorchServe's three HTTP listeners."""

    inference: Path
    management: Path
    metrics: Path


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The names in a run directory; what exists of them is the business of `create`."""

    root: Path

    @property
    def sockets(self) -> Sockets:
        """The sockets that TorchServe will listen on; it deletes whatever is at their paths first."""
        return Sockets(self.root / "inference.sock", self.root / "management.sock", self.root / "metrics.sock")

    @property
    def configuration(self) -> Path:
        """The generated configuration."""
        return self.root / "config.properties"

    @property
    def working(self) -> Path:
        """Where TorchServe stands: empty but for the key file that it writes."""
        return self.root / "cwd"

    @property
    def key_file(self) -> Path:
        """Where TorchServe writes its tokens (util/TokenAuthorization.java)."""
        return self.working / "key_file.json"

    @property
    def temporary(self) -> Path:
        """TorchServe's temporary directory: links to the models, worker sockets, netty's native library."""
        return self.root / "tmp"

    @property
    def workflows(self) -> Path:
        """The workflow store: empty, and nobody's to fill."""
        return self.root / "workflows"

    @property
    def parts(self) -> tuple[Path, ...]:
        """The directories in it, which are empty before TorchServe starts."""
        return (self.working, self.temporary, self.workflows)

    @property
    def mark(self) -> bytes:
        """The variable that every process of this TorchServe has in its environment, and no other."""
        return b"TMPDIR=" + os.fsencode(self.temporary)


def verify_names(run: RunDirectory) -> None:
    """Return if every socket's name fits and reads as one; raise FrontendError otherwise."""
    if not run.root.is_absolute() or not str(run.root).isprintable():
        raise FrontendError(
            f"run directory `{run.root!s}`: not an absolute path of printable characters; choose another"
        )
    sockets = run.sockets
    names = (sockets.inference, sockets.management, sockets.metrics, run.temporary / LONGEST_WORKER_SOCKET)
    longest = max(len(os.fsencode(name)) for name in names)
    if longest > LONGEST_SOCKET:
        raise FrontendError(
            f"run directory `{run.root}`: {longest - LONGEST_SOCKET} bytes too long, since the name of a unix socket"
            f" in it must fit into {LONGEST_SOCKET} bytes; set `guard.runtime_dir` to a shorter path"
        )


def create(run: RunDirectory) -> int:
    """Make the run directory and its parts, private and empty, and return a descriptor that locks it.

    What another run left is removed. Raises FrontendError if the directory cannot be made, is not ours alone, and
    BlockingIOError as long as another guard, or the warden of one that died, holds the lock.
    """
    verify_names(run)
    try:
        _make(run.root, parents=True)
        lock = os.open(run.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(run, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        clear(run)
        for part in run.parts:
            _make(part)
    except BaseException:
        os.close(lock)
        raise
    return lock


def clear(run: RunDirectory) -> None:
    """Remove what TorchServe and the guard made in the run directory; the directory itself stays.

    INVARIANT: TorchServe writes key_file.json through a link if there is one, and runs what lies in TMP/models.
    """
    sockets = run.sockets
    try:
        for part in run.parts:
            if os.path.lexists(part):
                _verify_private(part)
                shutil.rmtree(part)
        for file in (run.configuration, sockets.inference, sockets.management, sockets.metrics):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(run, error) from error


def release(run: RunDirectory, lock: int) -> None:
    """Clear it and let go of its lock. What cannot be removed is the next start's complaint."""
    with suppress(FrontendError):
        clear(run)
    os.close(lock)


def _make(path: Path, *, parents: bool = False) -> None:
    path.mkdir(mode=0o700, parents=parents, exist_ok=True)
    _verify_private(path)


def _unusable(run: RunDirectory, error: OSError) -> FrontendError:
    return FrontendError(f"run directory `{run.root}`: {error.strerror or error}; set `guard.runtime_dir` to another")


def _verify_private(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise FrontendError(
            f"run directory: `{path}` is not a directory that is ours alone (owner {status.st_uid}, mode"
            f" {stat.S_IMODE(status.st_mode):04o}); remove it, or set `guard.runtime_dir` to another"
        )


def write_private(path: Path, text: str) -> None:
    """Write a file that is ours alone; raise FrontendError if it cannot be."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise FrontendError(f"run directory: `{path}` cannot be written: {error.strerror}") from error


def close_gate(run: RunDirectory) -> None:
    """Put a named pipe where the configuration will be: whoever opens it waits (fifo(7))."""
    try:
        os.mkfifo(run.configuration, 0o600)
    except OSError as error:
        raise _unusable(run, error) from error


def open_gate(run: RunDirectory, text: str) -> int | None:
    """Put the configuration in the place of the gate if somebody waits there; None if nobody does yet.

    Returns the descriptor that it is to be written to as well, for who waits, and closed.
    """
    try:
        # INVARIANT: without a reader it is ENXIO; what is written before there is one would be lost.
        waiting = os.open(run.configuration, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise _unusable(run, error) from error
    os.set_blocking(waiting, True)
    written = run.configuration.with_suffix(".written")
    try:
        write_private(written, text)
        written.replace(run.configuration)
    except BaseException:
        os.close(waiting)
        raise
    return waiting


def allows_programs(path: Path) -> bool:
    """Whether files in this directory may be mapped as code: netty unpacks its native library there."""
    return not os.statvfs(path).f_flag & os.ST_NOEXEC


def trusted(directories: Iterable[Path]) -> tuple[Path, ...]:
    """Return those that exist and that only root or ourselves can write into, in order, each once."""
    return tuple(path for path in dict.fromkeys(directories) if _is_trusted(path))


def _is_trusted(path: Path) -> bool:
    try:
        real = path.resolve(strict=True)
        status, *above = [place.stat() for place in (real, *real.parents)]
    except OSError:
        return False
    # A sticky directory (/tmp) lets others add names, but not replace ours: good enough above, not for itself.
    return _is_ours(status) and all(_is_ours(place) or _is_sticky(place) for place in above)


def _is_ours(status: os.stat_result) -> bool:
    group = status.st_mode & stat.S_IWGRP and status.st_gid not in {0, os.getegid()}
    owned = status.st_uid in {0, os.geteuid()} and stat.S_ISDIR(status.st_mode)
    return owned and not group and not status.st_mode & stat.S_IWOTH


def _is_sticky(status: os.stat_result) -> bool:
    return status.st_uid in {0, os.geteuid()} and bool(status.st_mode & stat.S_ISVTX)
