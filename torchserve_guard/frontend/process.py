"""The process: TorchServe's JVM as the guard's own child, from its launch to the last of its workers' end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend import rundirectory, warden
from torchserve_guard.frontend.configuration import Launch, command, log_configuration, render
from torchserve_guard.frontend.output import Output
from torchserve_guard.frontend.readiness import ExpectedModel, Inquirer, ModelState, Readiness, wait_ready
from torchserve_guard.frontend.rundirectory import RunDirectory, Sockets
from torchserve_guard.frontend.tokens import UpstreamKeys, take_keys

PR_SET_PDEATHSIG = 1
UMASK = 0o077
KEYS_EVERY = 0.01
GONE_WITHIN = 10.0
RESPAWN_AFTER = 0.05
RESPAWN_AT_MOST_AFTER = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


class Frontend:
    """One TorchServe. Leaving its context ends it, gently for `grace` seconds and then by force.

    Start it from the main thread: the kernel ties the JVM's life to the thread that started it (prctl(2),
    PR_SET_PDEATHSIG).
    """

    def __init__(self, launch: Launch, *, stdout: int = 1, stderr: int = 2, grace: float = 10.0) -> None:
        self._launch = launch
        self._sinks = (stdout, stderr)
        self._grace = grace
        self._sign = asyncio.Event()
        self._keys: UpstreamKeys | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._exit: asyncio.Future[int] | None = None
        self._warden: Warden | None = None
        self._output = Output(self._notice)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def sockets(self) -> Sockets:
        """The sockets of TorchServe's listeners."""
        return self._launch.run.sockets

    @property
    def keys(self) -> UpstreamKeys:
        """TorchServe's keys, once it is ready; a version without tokens has none to show."""
        if self._keys is None:
            raise FrontendError("torchserve: its keys are not known; it is not ready, or of a version without tokens")
        return self._keys

    @property
    def pid(self) -> int:
        """The JVM's process number, which is also its group's and its session's."""
        return self._running().pid

    @property
    def warden_pid(self) -> int:
        """The warden's process number; another one after a warden died."""
        if self._warden is None:
            raise FrontendError("torchserve: not started")
        return self._warden.pid

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that TorchServe printed."""
        return self._output.tail()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(self._grace)

    async def start(self) -> None:
        """Prepare the run directory and launch TorchServe; raise FrontendError if that cannot be done."""
        if threading.current_thread() is not threading.main_thread():
            raise FrontendError("torchserve: must be started from the main thread, whose life the kernel ties it to")
        self._loop = asyncio.get_running_loop()
        rundirectory.create(self._launch.run)
        _verify_launch(self._launch)
        _write_private(self._launch.run.configuration, render(self._launch))
        self._output = Output(self._notice)
        self._warden = Warden(mark_of(self._launch.run))
        try:
            self._process = _spawn(self._launch)
        except (OSError, subprocess.SubprocessError) as error:
            self._warden.dismiss()
            raise FrontendError(f"torchserve: `{self._launch.java}` cannot be started: {error}") from error
        self._warden.tell(self._process.pid)
        self._exit = _exit_of(self._process)
        for stream, sink in zip((self._process.stdout, self._process.stderr), self._sinks, strict=True):
            self._output.forward(_piped(stream), sink)

    async def ready(self, expected: tuple[ExpectedModel, ...], deadline: float) -> dict[str, tuple[ModelState, ...]]:
        """Return what TorchServe says of the expected models as soon as all their workers are ready.

        `deadline` is in seconds from now. Raises FrontendError, with the lines of TorchServe's log that explain
        it, when it dies, when a model will not load, or when time is up.
        """
        readiness = Readiness(expected, self._output)
        waiting = asyncio.ensure_future(self._until_ready(readiness, deadline))
        died = self._dying()
        either: set[asyncio.Future[Any]] = {waiting, died}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                raise await self._death(died.result())
            return waiting.result()
        finally:
            await _cancelled(waiting)

    async def died(self) -> int:
        """Return TorchServe's exit status when it ends, for whatever reason."""
        return await asyncio.shield(self._dying())

    async def stop(self, grace: float) -> int:
        """End TorchServe and return its exit status (143 after SIGTERM is the normal one).

        SIGTERM to the JVM, `grace` seconds to follow it, SIGKILL to whatever is left. Returns when no process of
        it is left; raises FrontendError if one cannot be ended. A second call hurries the first.
        """
        process, exit_status = self._process, self._exit
        if process is None or exit_status is None or self._warden is None:
            return 0
        if not exit_status.done():
            _signal(process, signal.SIGTERM)
            await _settled(exit_status, grace)
        status = await self._end(process, exit_status)
        self._warden.dismiss()
        return status

    async def _end(self, process: subprocess.Popen[bytes], exit_status: asyncio.Future[int]) -> int:
        mark = mark_of(self._launch.run)
        gone = await asyncio.to_thread(warden.end, process.pid, mark)
        await _settled(exit_status, GONE_WITHIN)
        if not gone or not exit_status.done():
            raise FrontendError(f"torchserve: processes of group {process.pid} do not end, even by SIGKILL")
        # INVARIANT: reaped last; until then the number of the process, and so of its group, cannot be another's.
        process.wait()
        await asyncio.to_thread(self._output.finished, 1.0)
        return exit_status.result()

    async def _until_ready(self, readiness: Readiness, deadline: float) -> dict[str, tuple[ModelState, ...]]:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        if self._launch.tokens:
            await self._until_keys(readiness, end, deadline)
        key = None if self._keys is None else self._keys.management
        inquirer = Inquirer(self.sockets.management, key)
        await wait_ready(readiness, inquirer, self._sign, max(0.0, end - loop.time()), loop.time)
        return readiness.states

    async def _until_keys(self, readiness: Readiness, end: float, deadline: float) -> None:
        while self._keys is None:
            self._keys = take_keys(self._launch.run.key_file)
            if asyncio.get_running_loop().time() >= end:
                raise readiness.late(deadline)
            if self._keys is None:
                await asyncio.sleep(KEYS_EVERY)

    def _notice(self) -> None:
        # Called by the output's threads, which may outlive the loop by a line.
        with suppress(RuntimeError):
            _known(self._loop).call_soon_threadsafe(self._sign.set)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise FrontendError("torchserve: not started")
        return self._process

    def _dying(self) -> asyncio.Future[int]:
        if self._exit is None:
            raise FrontendError("torchserve: not started")
        return self._exit

    async def _death(self, status: int) -> FrontendError:
        await asyncio.to_thread(self._output.finished, 1.0)
        lines = self._output.tail()[-24:] or ("(nothing)",)
        return FrontendError("\n  ".join((f"torchserve: ended with status {status} as it started; it said:", *lines)))


class Warden:
    """The guard's end of the warden: started before TorchServe, and again whenever it dies before it is done."""

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._group: int | None = None
        self._dismissed = False
        self._deaths = 0
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        """The process number of the present warden."""
        return self._process.pid

    def tell(self, group: int) -> None:
        """Say which process group is TorchServe's."""
        self._group = group
        self._say(b"group %d\n" % group)

    def dismiss(self) -> None:
        """Say that there is nothing left to end, and wait for the warden to leave."""
        if self._dismissed:
            return
        self._dismissed = True
        self._say(b"done\n")
        with suppress(OSError):
            _piped(self._process.stdin).close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GONE_WITHIN)

    def _say(self, line: bytes) -> None:
        # A warden that is gone does not listen: the next one is told when it is started.
        with suppress(BrokenPipeError):
            os.write(_piped(self._process.stdin).fileno(), line)

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            (sys.executable, "-I", "-S", str(Path(warden.__file__)), os.fsdecode(self._mark)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        _exit_of(process).add_done_callback(self._replace)
        return process

    def _replace(self, gone: asyncio.Future[int]) -> None:
        if self._dismissed or gone.cancelled():
            return
        self._deaths += 1
        # At once the first time: each moment without a warden is one in which the guard's death leaves TorchServe.
        pause = min(RESPAWN_AFTER * (self._deaths - 1), RESPAWN_AT_MOST_AFTER)
        gone.get_loop().call_later(pause, self._respawn)

    def _respawn(self) -> None:
        if self._dismissed:
            return
        with suppress(OSError):
            _piped(self._process.stdin).close()
        self._process.wait()
        self._process = self._spawn()
        if self._group is not None:
            self.tell(self._group)


def mark_of(run: RunDirectory) -> bytes:
    """Return the variable that every process of this TorchServe has in its environment (see `environment`)."""
    return b"TMPDIR=" + os.fsencode(run.temporary)


def _verify_launch(launch: Launch) -> None:
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


def _write_private(path: Path, text: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise FrontendError(f"torchserve: `{path}` cannot be written: {error.strerror}") from error


def _spawn(launch: Launch) -> subprocess.Popen[bytes]:
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
        preexec_fn=_tied_to(os.getpid()),  # noqa: PLW1509
    )


def _tied_to(parent: int) -> Callable[[], None]:
    def tie() -> None:
        # INVARIANT: asked before the parent is looked at; a parent that died in between would never be noticed.
        if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)

    return tie


def _exit_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Return a future for the exit status, which leaves the process to be reaped by whoever is done with it.

    A process descriptor is readable when its process has ended (pidfd_open(2)).
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    handle = os.pidfd_open(process.pid)

    def ended() -> None:
        loop.remove_reader(handle)
        result = os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT)
        os.close(handle)
        if result is not None and not future.done():
            # A shell's way of telling a signal, which is also what Java's own handler of SIGTERM gives.
            killed = result.si_code != os.CLD_EXITED
            future.set_result(128 + result.si_status if killed else result.si_status)

    loop.add_reader(handle, ended)
    return future


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


async def _settled(future: asyncio.Future[int], seconds: float) -> None:
    await asyncio.wait({future}, timeout=seconds)


async def _cancelled(task: asyncio.Future[dict[str, tuple[ModelState, ...]]]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _known(loop: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
    if loop is None:
        raise RuntimeError("not started")
    return loop


def _piped(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise FrontendError("torchserve: started without its pipes")
    return stream
