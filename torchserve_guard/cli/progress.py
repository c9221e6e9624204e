"""The progress of long work: a bar on a terminal, nothing in a pipe, nothing for work that is short."""

from __future__ import annotations

import time
from typing import Self, TextIO

PATIENCE = 0.5
EVERY = 0.1
MEGABYTE = 1_000_000


class Progress:
    """Counts bytes; shows count and rate on `stream` when it is a terminal and the work takes longer than a moment."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._started = self._last = time.monotonic()
        self._done = 0
        self._drawn = False

    def __enter__(self) -> Self:
        """Begin to count."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the line."""
        self.finish()

    def finish(self) -> None:
        """Wipe the line; nothing is drawn after this until more work is done."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def advance(self, count: int) -> None:
        """Count `count` bytes more."""
        self._done += count
        now = time.monotonic()
        if self._shown and now - self._started > PATIENCE and now - self._last > EVERY:
            self._last = now
            rate = self._done / (now - self._started) / MEGABYTE
            self._stream.write(f"\rverifying {self._done / MEGABYTE:,.0f} MB, {rate:,.0f} MB/s\x1b[K")
            self._stream.flush()
            self._drawn = True
