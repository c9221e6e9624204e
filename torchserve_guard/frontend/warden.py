"""The warden: a process of its own that ends TorchServe, workers included, when the guard is gone.

Run as `python -I -S warden.py MARK`, with the read end of a pipe as its standard input. The guard says
`group NUMBER` when TorchServe runs and `done` when it has ended it; the pipe's end without `done` means that
the guard died, in whatever way. The file imports the standard library only, and stands alone.

MARK is `NAME=VALUE`, a variable that only this TorchServe and its descendants have in their environment: a
worker that leaves the process group (torchrun gives its children sessions of their own) still carries it.
"""

# ruff: noqa: PTH123, PTH208 - pathlib would take longer to import than all the rest

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

# Sweeps follow each other while something is left, since a process may fork between being seen and killed.
SWEEP_EVERY = 0.02
SWEEP_FOR = 30.0


def members(group: int | None, mark: bytes) -> Iterator[int]:
    """Yield the living processes of the group or session, and those that carry the mark; never ourselves."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid() and _belongs(name, group, mark):
            yield int(name)


def _belongs(name: str, group: int | None, mark: bytes) -> bool:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            # proc(5): the name, in parentheses, may hold anything; state, parent, group, session follow it.
            state, _, of_group, session = file.read().rpartition(b")")[2].split()[:4]
        if state in {b"Z", b"X"}:
            return False
        return group in {int(of_group), int(session)} or _carries(name, mark)
    except (OSError, ValueError):
        return False


def _carries(name: str, mark: bytes) -> bool:
    try:
        with open(f"/proc/{name}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def sweep(group: int | None, mark: bytes) -> int:
    """Kill every member once and return how many there were."""
    found = 0
    for number in members(group, mark):
        found += 1
        _kill(number, group, mark)
    return found


def _kill(number: int, group: int | None, mark: bytes) -> None:
    try:
        handle = os.pidfd_open(number)
    except OSError:
        return
    try:
        # The number may have passed to another process meanwhile; the handle cannot.
        if _belongs(str(number), group, mark):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return
    finally:
        os.close(handle)


def end(group: int | None, mark: bytes) -> bool:
    """Sweep until nothing is left, and return whether that came about in time."""
    until = time.monotonic() + SWEEP_FOR
    while sweep(group, mark):
        if time.monotonic() > until:
            return False
        time.sleep(SWEEP_EVERY)
    return True


def watch(mark: bytes) -> None:
    """Read what the guard says; end TorchServe if it stops saying anything."""
    group = None
    for line in sys.stdin.buffer:
        word, _, rest = line.strip().partition(b" ")
        if word == b"done":
            return
        if word == b"group":
            group = int(rest)
    end(group, mark)


if __name__ == "__main__":
    # A signal to everything of the service (systemd's KillMode=control-group) must not come before the work.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    watch(os.fsencode(sys.argv[1]))
