"""The errands: long work that is done while the guard serves, a little at a time, and given up when it stops.

It has threads of its own: an archive that comes slowly keeps neither the door waiting nor what is put on record.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from torchserve_guard.errors import Unavailable

T = TypeVar("T")
AT_ONCE = 2
MOST = 8


class Errands:
    """What is under way; work is told by an event when it is no longer wanted."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, "tsguard-errand")
        self._stop = threading.Event()
        self._count = 0

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """Return what the work returns, or raise what it raises; raise `Unavailable` when too much waits already."""
        self._verify_going()
        if self._count >= MOST:
            raise Unavailable("Too many archives are being fetched.", reason=f"{MOST} are", rule="register-fetching")
        self._count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._unless_stopped, work)
        finally:
            self._count -= 1

    def close(self) -> None:
        """Give up what is under way, and take no more."""
        self._stop.set()
        self._threads.shutdown(wait=False)

    def _unless_stopped(self, work: Callable[[threading.Event], T]) -> T:
        self._verify_going()
        return work(self._stop)

    def _verify_going(self) -> None:
        if self._stop.is_set():
            raise Unavailable("The server is stopping.", reason="the guard stops", rule="register-stopping")
