"""The rotation: one file that grows to a size, and a number of older ones behind it.

Several processes may write the same file: lines are appended whole, one of them rotates, and the others find out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from itertools import pairwise
from pathlib import Path

from torchserve_guard.audit import file

WHAT, KEY = "access log", "guard.access_log"


class Rotating:
    """A file of at most about `size` bytes, and `count` older ones: `NAME.1` is the youngest."""

    def __init__(self, path: Path, size: int, count: int) -> None:
        self.path = path
        self._size = size
        self._count = count
        self._descriptor = file.opened(path, WHAT, KEY)
        self._torn = file.ends_torn(self._descriptor)

    def append(self, lines: bytes) -> None:
        """Append whole lines. Raises `OSError` when not all of them are in the file."""
        # The end of a line that was torn is not the beginning of the next.
        whole = b"\n" * self._torn + lines
        written = os.write(self._descriptor, whole)
        self._torn = written != len(whole)
        if self._torn:
            raise OSError(f"{written} of {len(whole)} bytes were written")

    def follow(self) -> None:
        """Go on in the file that stands at the path, as somebody else may have rotated it, or in a new one.

        To be called now and then between lines. Raises `AuditError` or `OSError`.
        """
        if not file.stands(self.path, self._descriptor):
            self._reopen()
        if os.fstat(self._descriptor).st_size >= self._size:
            self._rotate()

    def _rotate(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        # INVARIANT: who has the lock on the file that stands at the path is the one who moves it.
        if file.stands(self.path, self._descriptor):
            names = [self.path, *(self.path.with_name(f"{self.path.name}.{n}") for n in range(1, self._count + 1))]
            for younger, older in reversed(list(pairwise(names))):
                with contextlib.suppress(FileNotFoundError):
                    younger.replace(older)
        self._reopen()

    def _reopen(self) -> None:
        # Not looked at for a torn line: another process may be in the middle of one.
        descriptor = file.opened(self.path, WHAT, KEY)
        os.close(self._descriptor)
        self._descriptor, self._torn = descriptor, False

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
