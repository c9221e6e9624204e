"""A child process: tied to our life when it is started, and its end as something to wait for."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from typing import IO

from torchserve_guard.errors import FrontendError

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def tied_to(parent: int) -> Callable[[], None]:
    """Return what makes a child die with us, to be run between its fork and its exec (prctl(2))."""

    def tie() -> None:
        # INVARIANT: asked before the parent is looked at; a parent that died in between would never be noticed.
        if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)

    return tie


def exit_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
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


async def settled(future: asyncio.Future[int], seconds: float) -> None:
    """Wait for a future without taking its result, nor more than `seconds`."""
    await asyncio.wait({future}, timeout=seconds)


def piped(stream: IO[bytes] | None) -> IO[bytes]:
    """Return a stream that Popen was told to open."""
    if stream is None:
        raise FrontendError("torchserve: started without its pipes")
    return stream
