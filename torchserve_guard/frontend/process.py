"""The process: TorchServe's JVM as the guard's own child, from its launch to the last of its workers' end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend import rundirectory, warden
from torchserve_guard.frontend.child import exit_of, piped, settled
from torchserve_guard.frontend.configuration import Launch, render
from torchserve_guard.frontend.headstart import HeadStart, tell
from torchserve_guard.frontend.output import Output, last_words
from torchserve_guard.frontend.readiness import Inquirer, Readiness, wait_ready
from torchserve_guard.frontend.rundirectory import Sockets
from torchserve_guard.frontend.states import ExpectedModel, ModelState
from torchserve_guard.frontend.tokens import UpstreamKeys, take_keys
from torchserve_guard.frontend.wardship import Wardship

KEYS_EVERY = 0.01
GATE_EVERY = 0.004
GONE_WITHIN = 10.0
UNLOCKED_WITHIN = 10.0
UNLOCKED_EVERY = 0.05


class Frontend:
    """One TorchServe. Leaving its context ends it, gently for `grace` seconds and then by force.

    Start it from the main thread, as a `HeadStart`, which is taken over if there is one. What it is to do it is told
    by `ready`.
    """

    def __init__(
        self, launch: Launch, ahead: HeadStart | None = None, *, stdout: int = 1, stderr: int = 2, grace: float = 10.0
    ) -> None:
        self._launch = launch
        self._ahead = ahead
        self._sinks = (stdout, stderr)
        self._grace = grace
        self._sign = asyncio.Event()
        self._keys: UpstreamKeys | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._exit: asyncio.Future[int] | None = None
        self._warden: Wardship | None = None
        self._output = Output(self._notice)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock: int | None = None

    @property
    def sockets(self) -> Sockets:
        """The sockets of TorchServe's listeners."""
        return self._launch.run.sockets

    @property
    def keys(self) -> UpstreamKeys | None:
        """TorchServe's keys, once it is ready; None for a version without tokens."""
        if self._keys is None and self._launch.tokens:
            raise FrontendError("torchserve: its keys are not known; it is not ready")
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
        self._loop = asyncio.get_running_loop()
        begun = self._ahead or await _begun(self._launch)
        self._lock, self._warden, self._process = begun.taken()
        try:
            self._watch(self._warden, self._process)
        except BaseException:
            await self._abandon()
            raise

    def _watch(self, warden: Wardship, process: subprocess.Popen[bytes]) -> None:
        warden.watch()
        self._exit = exit_of(process)
        for stream, sink in zip((process.stdout, process.stderr), self._sinks, strict=True):
            self._output.forward(piped(stream), sink)

    async def _abandon(self) -> None:
        if self._process is not None:
            warden.end(self._process.pid, self._launch.run.mark)
            self._process.wait()
        if self._warden is not None:
            await self._warden.dismiss()
        self._release()

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
            process.send_signal(signal.SIGTERM)
            await settled(exit_status, grace)
        status = await self._end(process, exit_status)
        await self._warden.dismiss()
        self._release()
        return status

    async def _end(self, process: subprocess.Popen[bytes], exit_status: asyncio.Future[int]) -> int:
        mark = self._launch.run.mark
        gone = await asyncio.to_thread(warden.end, process.pid, mark)
        await settled(exit_status, GONE_WITHIN)
        if not gone or not exit_status.done():
            raise FrontendError(f"torchserve: processes of group {process.pid} do not end, even by SIGKILL")
        # INVARIANT: reaped last; until then the number of the process, and so of its group, cannot be another's.
        process.wait()
        await asyncio.to_thread(self._output.finished, 1.0)
        return exit_status.result()

    async def _until_ready(self, readiness: Readiness, deadline: float) -> dict[str, tuple[ModelState, ...]]:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        await self._until_told(readiness, end, deadline)
        if self._launch.tokens:
            await self._until_keys(readiness, end, deadline)
        key = None if self._keys is None else self._keys.management
        inquirer = Inquirer(self.sockets.management, key)
        await wait_ready(readiness, inquirer, self._sign, max(0.0, end - loop.time()), loop.time)
        return readiness.states

    async def _until_told(self, readiness: Readiness, end: float, deadline: float) -> None:
        """Open the gate as soon as TorchServe waits at it."""
        text = render(self._launch)
        while (waiting := rundirectory.open_gate(self._launch.run, text)) is None:
            if asyncio.get_running_loop().time() >= end:
                raise readiness.late(deadline)
            await asyncio.sleep(GATE_EVERY)
        try:
            # Who opened it and reads no more than a pipe holds is waited for as long as any other.
            async with asyncio.timeout_at(end):
                await asyncio.to_thread(tell, waiting, text)
        except TimeoutError as error:
            raise readiness.late(deadline) from error

    async def _until_keys(self, readiness: Readiness, end: float, deadline: float) -> None:
        while self._keys is None:
            self._keys = take_keys(self._launch.run.key_file)
            if asyncio.get_running_loop().time() >= end:
                raise readiness.late(deadline)
            if self._keys is None:
                await asyncio.sleep(KEYS_EVERY)

    def _release(self) -> None:
        if self._lock is not None:
            rundirectory.release(self._launch.run, self._lock)
            self._lock = None

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
        lines = last_words(self._output.tail()) or ("(nothing)",)
        return FrontendError("\n  ".join((f"torchserve: ended with status {status} as it started; it said:", *lines)))


async def _begun(launch: Launch) -> HeadStart:
    """Begin it now; the warden of a guard that died may still be at work in its run directory."""
    loop = asyncio.get_running_loop()
    end = loop.time() + UNLOCKED_WITHIN
    while loop.time() < end:
        try:
            return HeadStart(launch)
        except BlockingIOError:
            await asyncio.sleep(UNLOCKED_EVERY)
    raise FrontendError(
        f"run directory `{launch.run.root}`: another guard runs there; stop it (`tsguard stop`), or set"
        " `guard.runtime_dir`"
    )


async def _cancelled(task: asyncio.Future[dict[str, tuple[ModelState, ...]]]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _known(loop: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
    if loop is None:
        raise RuntimeError("not started")
    return loop
