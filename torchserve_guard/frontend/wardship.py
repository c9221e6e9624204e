"""The wardship: the guard's end of the warden, which is replaced whenever it dies before its work is done."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from torchserve_guard.frontend import warden
from torchserve_guard.frontend.child import exit_of, piped, settled

LEAVES_WITHIN = 10.0
RESPAWN_AFTER = 0.05
RESPAWN_AT_MOST_AFTER = 5.0


class Wardship:
    """The guard's end of the warden: started before TorchServe, and again whenever it dies before it is done."""

    def __init__(self, mark: bytes, lock: int) -> None:
        self._mark = mark
        self._lock = lock
        self._group: int | None = None
        self._dismissed = False
        self._deaths = 0
        self._process = self._spawn()
        self._exit: asyncio.Future[int] | None = None

    def watch(self) -> None:
        """Replace it from now on whenever it dies; the running loop does."""
        self._exit = exit_of(self._process)
        self._exit.add_done_callback(self._replace)

    @property
    def pid(self) -> int:
        """The process number of the present warden."""
        return self._process.pid

    def tell(self, group: int) -> None:
        """Say which process group is TorchServe's."""
        self._group = group
        self._say(b"group %d\n" % group)

    async def dismiss(self) -> None:
        """Say that there is nothing left to end, and wait for the warden to leave."""
        if self._dismissed:
            return
        self._excuse()
        if self._exit is not None:
            await settled(self._exit, LEAVES_WITHIN)
            if self._exit.done():
                self._process.wait()

    def release(self) -> None:
        """Do the same without a loop, for a warden that is not watched."""
        self._excuse()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVES_WITHIN)

    def _excuse(self) -> None:
        self._dismissed = True
        self._say(b"done\n")
        with suppress(OSError):
            piped(self._process.stdin).close()

    def _say(self, line: bytes) -> None:
        # A warden that is gone does not listen: the next one is told when it is started.
        with suppress(BrokenPipeError):
            os.write(piped(self._process.stdin).fileno(), line)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (sys.executable, "-I", "-S", str(Path(warden.__file__)), os.fsdecode(self._mark)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
            # INVARIANT: it holds the run directory's lock too, until it is done: the next guard's TorchServe there
            # would carry the same mark.
            pass_fds=(self._lock,),
        )

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
            piped(self._process.stdin).close()
        self._process.wait()
        self._process = self._spawn()
        self.watch()
        if self._group is not None:
            self.tell(self._group)
