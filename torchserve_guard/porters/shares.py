"""The shares: how many connections each porter has, in memory that all of them see.

It serves fairness only: what is wrong in it makes some porter wait a moment before it takes a connection.
"""

from __future__ import annotations

import fcntl
import mmap
import os

AWAY = 2**32 - 1
_CELL = 4
# INVARIANT: nobody makes the memory shorter than it is mapped: who then looks at it would be killed (SIGBUS).
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Shares:
    """The shares of all porters; `descriptor` is for them to inherit."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("shares", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size * _CELL)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._memory = mmap.mmap(self.descriptor, size * _CELL)
        self._cells = memoryview(self._memory).cast("I")
        for place in range(size):
            self.leave(place)

    def leave(self, place: int) -> None:
        """Take note that nobody stands there: nobody waits for him."""
        self._cells[place] = AWAY

    def close(self) -> None:
        """Give the memory back."""
        if self._memory.closed:
            return
        self._cells.release()
        self._memory.close()
        os.close(self.descriptor)


class OwnShare:
    """The share of one porter, at its `place` among the others; it takes the descriptor over."""

    def __init__(self, descriptor: int, place: int) -> None:
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        os.close(descriptor)
        self._cells = memoryview(self._memory).cast("I")
        self._place = place
        self.tell(0)

    def tell(self, connections: int) -> None:
        """Say how many connections there are here."""
        self._cells[self._place] = min(connections, AWAY - 1)

    def is_ahead(self) -> bool:
        """Whether a porter that stands has fewer connections."""
        return self._cells[self._place] > min(self._cells)
