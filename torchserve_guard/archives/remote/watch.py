"""The watch over one fetch: its connection is cut when it stalls, takes too long, or is no longer wanted.

A time limit on each reading would not do: who sends a byte now and then stalls without ever being late.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Self, TypeVar

from torchserve_guard.archives.remote.failure import unfetched
from torchserve_guard.origin import Origin
from torchserve_guard.terms import Terms

SLOWEST = 1024
"""Bytes per second; what comes more slowly over `guard.fetch_stall_timeout` stalls."""
TICK = 0.25

T = TypeVar("T")


class Watch:
    """One watch; `stop` is set by whoever no longer wants what is fetched."""

    def __init__(self, origin: Origin, terms: Terms, stop: threading.Event) -> None:
        self._origin = origin
        self._terms = terms
        self._stop = stop
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._done = self._before = 0
        self._began = self._since = time.monotonic()
        self._why: str | None = None
        self._thread = threading.Thread(target=self._look, name="tsguard-watch", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.end()

    def end(self) -> None:
        """Watch no longer: all has come."""
        self._over.set()
        self._thread.join()

    def take(self, connection: socket.socket) -> None:
        """Watch this connection from now on."""
        with self._lock:
            self._socket, self._since, self._before = connection, time.monotonic(), self._done
        self.verify()

    def passed(self, count: int) -> None:
        """Take note that so many bytes more have come."""
        self._done += count
        self.verify()

    def verify(self) -> None:
        """Return while the fetch may go on; raise `Unfetched`."""
        if self._why is not None:
            unfetched(self._origin, self._why)

    def pause(self, seconds: float) -> None:
        """Wait for somebody else, as long as the fetch may go on."""
        self._stop.wait(seconds)
        self.verify()

    def attend(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Return what work returns that no socket of ours can be cut for, or raise what it raises.

        It is let go of, in a thread that keeps nobody from ending, when the fetch may not go on (`Unfetched`), or after
        so many seconds (`TimeoutError`).
        """
        done: Future[T] = Future()
        threading.Thread(target=_do, args=(work, done), name="tsguard-attended", daemon=True).start()
        until = time.monotonic() + seconds if seconds is not None else None
        while not wait((done,), TICK).done:
            self.verify()
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"no answer in {seconds:.0f} s")
        return done.result()

    def _look(self) -> None:
        while not self._over.wait(TICK):
            with self._lock:
                self._why = self._fault(time.monotonic())
                if self._why is not None:
                    self._cut()
                    return

    def _fault(self, now: float) -> str | None:
        if self._stop.is_set():
            return "the fetch was given up, since the guard stops"
        if now - self._began >= self._terms.timeout:
            return f"was not fetched in {self._terms.timeout:.0f} s (`guard.fetch_timeout`); what came is kept"
        waited = now - self._since
        if self._socket is None or waited < self._terms.stall:
            return None
        came, self._since, self._before = self._done - self._before, now, self._done
        slow = came < SLOWEST * self._terms.stall
        return f"the host sent {came} bytes in {waited:.0f} s (`guard.fetch_stall_timeout`)" if slow else None

    def _cut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which takes TLS off: what is still read then would be cipher text.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _do(work: Callable[[], T], done: Future[T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
        done.set_exception(error)
