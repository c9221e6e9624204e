"""The access log: a line for each request, written behind its back.

A request leaves a note and goes on. Lines are made of some notes at a time, where the requests are served: another
thread would have to take the interpreter from them, which costs more (adr/0013). Another thread writes the lines. Where
the disk is too slow or full, lines are lost, never a request's time; how many is told in the log and in the status.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path

from torchserve_guard.audit.access_line import Form, Note, Writer
from torchserve_guard.audit.rotation import Rotating
from torchserve_guard.errors import AuditError

_LOG = logging.getLogger(__name__)

MIB = 1 << 20
MOST_NOTES = 4096
MOST_UNWRITTEN = 8 * MIB
WRITE_EVERY_S = 0.25
WRITE_AT = 256 << 10
_AT_ONCE = 32
_LAST_LINES_S = 2.0


class AccessLog:
    """The log of one process. Nothing is written before `start` or `flush`. Raises `AuditError`.

    `path` may be another process's too; it is kept to `size` bytes, and `count` older files.
    """

    def __init__(self, path: Path, form: Form = Form.JSON, *, size: int = 64 * MIB, count: int = 5) -> None:
        self.path = path
        self.lost = 0
        self.writer = Writer(form, _wall())
        self._file = Rotating(path, size, count)
        self._notes: deque[Note] = deque()
        self._made: list[tuple[int, bytes]] = []  # so many lines
        self._unwritten = 0
        self._told = 0
        self._failing = False
        self._making, self._writing = threading.Lock(), threading.Lock()
        self._stop, self._due = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)

    def note(self, note: Note) -> None:
        """Take note of a request that has ended. Never waits."""
        notes = self._notes
        notes.append(note)
        # Whoever writes holds it only for as long as it takes to take what is made; the disk is not waited for.
        if len(notes) >= _AT_ONCE and self._making.acquire(blocking=len(notes) >= MOST_NOTES):
            try:
                self._make()
            finally:
                self._making.release()

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what is left, unless the disk takes too long for it, and end."""
        self._stop.set()
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(_LAST_LINES_S)
        if not self._thread.is_alive():
            self.flush()
            self._file.close()

    def flush(self) -> None:
        """Write every note there is."""
        with self._writing:
            made = self._taken()
            if not made and self.lost == self._told:
                return
            try:
                self._file.follow()
                while made or self.lost != self._told:
                    self._write(made)
            except (OSError, AuditError) as error:
                with self._making:
                    self.lost += sum(count for count, _ in made)
                self._complain(error)
            else:
                self._failing = False

    def _run(self) -> None:
        while not self._stop.is_set():
            # A quarter of a second of a busy door is megabytes: on one processor, the requests would wait for those.
            self._due.wait(WRITE_EVERY_S)
            self._due.clear()
            self.flush()

    def _make(self) -> None:
        """Make lines of the notes there are; none of those that nobody can write."""
        notes = self._notes
        taken = [notes.popleft() for _ in range(len(notes))]
        if self._unwritten > MOST_UNWRITTEN:
            self.lost += len(taken)
        elif taken:
            lines = "".join(self.writer.lines(taken)).encode()
            self._made.append((len(taken), lines))
            self._unwritten += len(lines)
            if self._unwritten >= WRITE_AT and not self._due.is_set():
                self._due.set()

    def _taken(self) -> list[tuple[int, bytes]]:
        with self._making:
            self.writer.wall = _wall()  # the clock on the wall may be set
            self._make()
            made, self._made, self._unwritten = self._made, [], 0
        return made

    def _write(self, made: list[tuple[int, bytes]]) -> None:
        """Write what is made, and how much was lost before; what is written is taken off the list."""
        lost = self.lost
        told = self.writer.lost(lost - self._told, time.monotonic()) if lost != self._told else ""
        self._file.append(told.encode() + b"".join(lines for _, lines in made))
        made.clear()
        self._told = lost

    def _complain(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            _LOG.error("%s: the access log cannot be written, lines are lost: %s", self.path, error)


def _wall() -> float:
    return time.time() - time.monotonic()
