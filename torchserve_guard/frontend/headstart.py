"""The head start: a JVM that is launched while archives are verified, and is told nothing until they are.

Java loads its classes and sets up its log before it opens its configuration, which is most of its own start. That
configuration is a named pipe until the gate is opened: until then TorchServe knows no model, no address and no key,
and listens nowhere. See docs/adr/0021.
"""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend import rundirectory, warden
from torchserve_guard.frontend.child import piped, tied_to
from torchserve_guard.frontend.configuration import Launch, command, log_configuration, render
from torchserve_guard.frontend.wardship import Wardship

UMASK = 0o077


class Begun(NamedTuple):
    """What there is of a TorchServe under way: the lock of its run directory, its warden, and its JVM."""

    lock: int
    warden: Wardship
    process: subprocess.Popen[bytes]


class HeadStart:
    """One TorchServe at its gate. Leaving its context ends it, unless it was taken over.

    Begin it in the main thread: the kernel ties the JVM's life to the thread that started it (prctl(2),
    PR_SET_PDEATHSIG). Raises `FrontendError`, `ConfigError`, and BlockingIOError as long as another guard, or the
    warden of one that died, holds the run directory.
    """

    def __init__(self, launch: Launch) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise FrontendError("torchserve: must be started from the main thread, whose life the kernel ties it to")
        self._launch = launch
        self._lock: int | None = rundirectory.create(launch.run)
        self._warden: Wardship | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._begin(self._lock)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.end()

    def taken(self) -> Begun:
        """Hand over what is under way; whoever takes it ends it. Only once."""
        if self._lock is None or self._warden is None or self._process is None:
            raise FrontendError("torchserve: not started")
        begun = Begun(self._lock, self._warden, self._process)
        self._lock = self._warden = self._process = None
        return begun

    def end(self) -> None:
        """End a JVM that was told nothing, and whatever watches it; nothing once it was taken over."""
        if self._process is not None:
            # With all of its own: `java` may be a script, and the JVM its child.
            warden.end(self._process.pid, self._launch.run.mark)
            for stream in (self._process.stdout, self._process.stderr):
                piped(stream).close()
            self._process.wait()
            self._process = None
        if self._warden is not None:
            self._warden.release()
            self._warden = None
        if self._lock is not None:
            rundirectory.release(self._launch.run, self._lock)
            self._lock = None

    def _begin(self, lock: int) -> None:
        _verify(self._launch)
        rundirectory.close_gate(self._launch.run)
        try:
            # The warden comes first: there is no moment in which TorchServe runs and nobody watches the guard.
            self._warden = Wardship(self._launch.run.mark, lock)
            self._process = _spawned(self._launch)
        except (OSError, subprocess.SubprocessError) as error:
            raise FrontendError(f"torchserve: `{self._launch.java}` cannot be started: {error}") from error
        self._warden.tell(self._process.pid)


def tell(waiting: int, text: str) -> None:
    """Write the configuration to the JVM that waits for it; one that is gone does not read."""
    with suppress(BrokenPipeError), os.fdopen(waiting, "wb") as pipe:
        pipe.write(text.encode("ascii"))


def _verify(launch: Launch) -> None:
    render(launch)  # what cannot be said is complained of before anything runs
    log = log_configuration(launch.frontend_log)
    if log is not None and not (log.is_absolute() and log.is_file()):
        raise FrontendError(f"guard.frontend_log: `{log}` is not `lean`, `stock` or the absolute path of a log4j2 file")
    if launch.environment.get("TMPDIR") != str(launch.run.temporary):
        # INVARIANT: the warden knows TorchServe's processes by this variable.
        raise FrontendError(f"torchserve: its environment must hold TMPDIR=`{launch.run.temporary}`")
    native = launch.native or launch.run.temporary
    if not rundirectory.allows_programs(native):
        raise FrontendError(
            f"run directory: `{native}` is mounted noexec, and TorchServe loads its native library from there;"
            " set `guard.runtime_dir` to another place"
        )


def _spawned(launch: Launch) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(launch),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(launch.environment),
        cwd=launch.run.working,
        umask=UMASK,
        start_new_session=True,
        # It runs between fork and exec; it takes no lock and calls the kernel twice.
        preexec_fn=tied_to(os.getpid()),  # noqa: PLW1509
    )
