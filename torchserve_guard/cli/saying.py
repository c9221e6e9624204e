"""What a guard that serves says: handed to a thread, so that whoever reads it can neither hold it up nor end it."""

from __future__ import annotations

import contextlib
import os
import threading
from queue import SimpleQueue
from typing import Self, TextIO

MOST = 1000
"""How many lines may wait for a reader; what comes after them is not said. The audit log is the record."""
FLUSH = 1.0
"""Seconds that the end waits for a reader who is slow."""


class Saying:
    """Writes lines to a stream, in order. A reader who is gone or does not read is done without.

    Written to the descriptor: the lock of a Python stream, held by a thread that cannot go on, would keep the
    interpreter from ending.
    """

    def __init__(self, stream: TextIO) -> None:
        self._sink = stream.fileno()
        self._encoding = stream.encoding
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin; the thread is started with the first line."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is said, though not for long."""
        if self._thread is not None:
            self._lines.put(None)
            self._thread.join(FLUSH)

    def __call__(self, text: str) -> None:
        """Say a line, soon."""
        if self._lines.qsize() >= MOST:
            return
        self._lines.put(f"{text}\n".encode(self._encoding, errors="backslashreplace"))
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="saying", daemon=True)
            self._thread.start()

    def _write(self) -> None:
        # A stream that cannot be written to now may be later, as a disk that is full; each line is tried.
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError):
                while line:
                    line = line[os.write(self._sink, line) :]
