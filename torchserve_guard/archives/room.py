"""The room: what a disk has left, less what was promised of it to others of this process, and a reserve.

An archive is refused before it is unpacked, not when the disk is full: a guard that cannot write its record serves
nobody.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torchserve_guard.errors import GuardError

LEFT = 64 << 20
"""Bytes that are to stay free, of staging and of fetching."""
OFTEN = 8 << 20
"""Bytes after which the disk is looked at again: others write to it too."""


class Claim:
    """What one archive was promised of the room, and has not written yet."""

    def __init__(self, room: Room, what: str, folder: int) -> None:
        self._room = room
        self._what = what
        self._folder = folder
        self._promised = 0
        self._unseen = 0

    def ask(self, size: int) -> None:
        """Have the promise of so many bytes, all told, that are still to be written; raise GuardError."""
        with self._room.lock:
            if size > self._promised:
                self._verify(size, self._room.promised - self._promised, self._room.left)
                self._take(size - self._promised)

    def spend(self, size: int) -> None:
        """Be about to write so many bytes; raise GuardError when somebody else has taken the room meanwhile."""
        with self._room.lock:
            self._take(-min(size, self._promised))
            self._unseen += size
            if self._unseen >= OFTEN:
                self._unseen = 0
                # Half of it in any case: folders, and what members take besides their bytes, were not counted before.
                self._verify(size, 0, self._room.left // 2)

    def end(self) -> None:
        """Give back what was not written."""
        with self._room.lock:
            self._take(-self._promised)

    def _take(self, size: int) -> None:
        self._promised += size
        self._room.promised += size

    def _verify(self, size: int, others: int, left: int) -> None:
        disk = os.fstatvfs(self._folder)
        free, needed = disk.f_bavail * disk.f_frsize, size + others + left
        if needed > free:
            beside = f", {others} for what is written there at the same time" if others else ""
            beside += f", and {left} that stay free" if left else ""
            raise GuardError(
                f"{self._what}: the disk of {self._room.folder} has {free} bytes left, and {needed} are needed: {size} "
                f"for this archive{beside}; make room, or name a folder on another disk with {self._room.remedy}"
            )


class Room:
    """The room on the disk of a folder, of which `left` bytes stay free; with `remedy` another folder is named."""

    def __init__(self, folder: str, remedy: str = "`guard.state_dir`", left: int = LEFT) -> None:
        self.folder = folder
        self.remedy = remedy
        self.left = left
        self.lock = threading.Lock()
        self.promised = 0

    @contextmanager
    def claim(self, what: str, folder: int, size: int = 0) -> Iterator[Claim]:
        """Lend a claim to so many bytes of the disk that an open folder is on; raise GuardError where there is no room.

        `what` is what they are for, to be named where there is none.
        """
        claim = Claim(self, what, folder)
        try:
            claim.ask(size)
            yield claim
        finally:
            claim.end()
