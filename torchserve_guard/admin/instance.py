"""The instance: one running guard for one configuration, and where its control socket is.

A lock on a file in the state directory (fcntl(2), open file description locks) makes it one; the kernel
lets go of the lock when the guard dies, however it dies. Asking whether it is held takes no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torchserve_guard.errors import ConfigError

LARGEST_RECORD = 65536
RUN_PREFIX = "tsguard-"
FLOCK = "hhqqi"  # struct flock of fcntl(2): type, whence, start, length, process


@dataclass(frozen=True, slots=True)
class Instance:
    """A running guard: its process, its configuration, its control socket, and its run directory.

    One that still verifies has no control socket yet: `control` is empty.
    """

    pid: int
    config: str
    control: str
    run_dir: str

    @property
    def verifying(self) -> bool:
        """Whether it still verifies, and cannot be asked."""
        return not self.control


def _record_path(state_dir: Path, config: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(config.resolve())).hexdigest()[:16]
    return state_dir / "instances" / f"{digest}.json"


@contextmanager
def claimed(state_dir: Path, config: Path) -> Iterator[Path]:
    """Hold the place of the one guard of this configuration; yield the path for its record.

    Raises `ConfigError` when another guard holds it.
    """
    path = _record_path(state_dir, config)
    try:
        for folder in (state_dir, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); set `guard.state_dir` to a folder of this user"
        ) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            pid = _pid_in(file.read(LARGEST_RECORD))
            raise ConfigError(
                f"{config}: a guard with this configuration is already running{pid}; "
                f"stop it with `tsguard stop --config {config}`"
            ) from error
        try:
            _clear_up_after(_parsed(file.read(LARGEST_RECORD)))
            # INVARIANT: while the place is held, what is on record is its holder: a signal is sent to that process.
            file.truncate(0)
            yield path
        finally:
            file.truncate(0)


def _clear_up_after(gone: Instance | None) -> None:
    """Remove the run directory of a guard that was killed and could not do it itself."""
    if gone is None:
        return
    run_dir = Path(gone.run_dir)
    with contextlib.suppress(OSError):
        status = run_dir.lstat()
        # INVARIANT: only what a guard made, under a name that it chose, for this user alone.
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if ours and run_dir.name.startswith(RUN_PREFIX):
            shutil.rmtree(run_dir)


def _pid_in(text: str) -> str:
    try:
        return f" as process {int(json.loads(text)['pid'])}"
    except (ValueError, KeyError, TypeError):
        return ""


def publish(path: Path, instance: Instance) -> None:
    """Write the record into the file that `claimed` holds."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(instance), file)


def running(state_dir: Path, config: Path) -> Instance | None:
    """Return the guard that runs this configuration, or None."""
    path = _record_path(state_dir, config)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor) as file:
        question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        held = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, question))[0] != fcntl.F_UNLCK
        return _parsed(file.read(LARGEST_RECORD)) if held else None


def _parsed(text: str) -> Instance | None:
    """Return the record; None while its guard has not yet written it."""
    try:
        return Instance(**json.loads(text))
    except (ValueError, TypeError):
        return None
