"""The progress of long work: who wants to know is told how many bytes will come, and each time some are done.

Whoever only counts is any function that takes a number. Both are called by one thread at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, runtime_checkable

Progress = Callable[[int], object]
"""Called with the number of bytes done since the last call."""


@runtime_checkable
class Foretold(Protocol):
    """A progress that wants to know beforehand how much will come."""

    def __call__(self, count: int) -> object:
        """Count bytes as done."""

    def expect(self, count: int, what: str) -> object:
        """Learn that so many bytes more will come, and what is done with them: `verifying`."""


def expect(progress: Progress | None, count: int, what: str) -> None:
    """Tell how many bytes will come, if anybody wants to know."""
    if isinstance(progress, Foretold):
        progress.expect(count, what)


class Share:
    """Counts some bytes, and tells others in proportion: of an archive that is not read, while its tree is."""

    def __init__(self, tell: Progress, counted: int, told: int) -> None:
        self._tell = tell
        self._counted = counted
        self._told = told
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        """Count `count` bytes more; whatever thread does."""
        with self._lock:
            before, self._done = self._done, self._done + count
            self._tell(self._done * self._told // self._counted - before * self._told // self._counted)
