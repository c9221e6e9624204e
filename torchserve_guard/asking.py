"""The asking: a signal to stop that comes while a start is still a straight line of code, before the loop listens."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Self

TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGAIN_AFTER = 0.005  # seconds
PATIENCE = 2.0
"""Seconds for which what was raised has time to unwind; who asks again after that is heard again."""

# Python runs a handler between any two instructions of the main thread. Raised inside of these, the interrupt is
# swallowed (a callback of importlib's), or leaves a lock behind that every later import waits for, or a process that
# nobody knows of.
_NOT_IN = ("<frozen importlib", "/subprocess.py")


class Asking:
    """Who asks is heard as KeyboardInterrupt, once `listen` is called, and by `obey` where that was lost.

    Leaving its context holds all back: what unwinds is bounded, and is not to be broken off. Signals that this process
    ignores (nohup(1), a job in the background) stay ignored.
    """

    def __init__(self) -> None:
        self._asked = False
        self._raised: float | None = None

    def __enter__(self) -> Self:
        for number in TO_STOP:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._heard)
        signal.signal(signal.SIGALRM, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hear nothing more."""
        hold()

    def obey(self) -> None:
        """Hold back what comes from now on; raise KeyboardInterrupt if something came."""
        hold()
        if self._asked:
            raise KeyboardInterrupt

    def _heard(self, _number: int, frame: FrameType | None) -> None:
        self._asked = True
        if _is_delicate(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_AFTER)
            return
        now = time.monotonic()
        if self._raised is None or now - self._raised > PATIENCE:
            self._raised = now
            raise KeyboardInterrupt


def hold() -> None:
    """Hold back who asks, until `listen`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TO_STOP)
    signal.setitimer(signal.ITIMER_REAL, 0)


def listen() -> None:
    """Hear who asked meanwhile, and who asks from now on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_STOP)


def _is_delicate(frame: FrameType | None) -> bool:
    while frame is not None:
        place = frame.f_code.co_filename
        if place.startswith(_NOT_IN[0]) or place.endswith(_NOT_IN[1]):
            return True
        frame = frame.f_back
    return False
