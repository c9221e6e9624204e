"""The background: a guard that goes on when the command that started it has ended.

As with stock, whose JVM keeps them, standard output and error stay those of the command; standard input does not.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

READY = b"+"
Opened = Callable[[], None]


def detached(serve: Callable[[Opened], int]) -> int | None:
    """Run `serve` in a process and session of its own; return None when it says that it is ready, else its exit code.

    `serve` is given what to call when it is ready. It runs in the child, which never returns from here.
    """
    told, tell = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    child = os.fork()
    if child == 0:
        os.close(told)
        _serve(serve, tell)
    os.close(tell)
    try:
        ready = os.read(told, 1) == READY
    finally:
        os.close(told)
    return None if ready else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _serve(serve: Callable[[Opened], int], tell: int) -> None:
    """Be the child: end with the exit code of `serve`, whatever happens."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        code = serve(lambda: _told(tell))
    except Exception:  # noqa: BLE001 - nothing above this process would show it
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _told(tell: int) -> None:
    """Say it once; a parent that is gone, because it was interrupted, is not waited for."""
    with suppress(OSError):
        os.write(tell, READY)
        os.close(tell)
