"""The progress of long work: a bar on a terminal, nothing in a pipe, nothing for work that is short."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE = 0.5
EVERY = 0.1


class Progress:
    """Counts bytes; shows a bar with rate and time left on `stream`, a terminal, when it takes longer than a moment.

    To be called by one thread at a time.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._shown = stream.isatty()
        self._started = self._last = clock()
        self._done = self._total = 0
        self._what = "working"
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        """Begin to count."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the line."""
        self.finish()

    def __call__(self, count: int) -> None:
        """Count `count` bytes more."""
        self._done += count
        now = self._clock()
        if self._shown and now - self._started > PATIENCE and now - self._last > EVERY:
            self._last = now
            self._draw()

    def expect(self, count: int, what: str) -> None:
        """Take note of what will come."""
        self._total += count
        self._what = what

    def finish(self) -> None:
        """Wipe the line, and count anew; nothing is drawn after this until more work is done."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._started = self._last = self._clock()
        self._done = self._total = 0

    def _draw(self) -> None:
        # Without a total the bar moves to and fro. More may come than was said: a file that grew is refused at its end.
        total = max(self._total, self._done) if self._total else None
        if self._bar is None:
            self._bar = _bar(self._stream, self._clock)
            self._bar.add_task(self._what, total=total, completed=self._done)
            self._bar.start()
        else:
            task = self._bar.tasks[0].id
            self._bar.update(task, completed=self._done, total=total, description=self._what)
            self._bar.refresh()


def _bar(stream: TextIO, clock: Callable[[], float]) -> Bar:
    """Return a bar that draws when it is told to, and leaves nothing behind; rich looks at NO_COLOR and TERM."""
    from rich import progress  # noqa: PLC0415 - heavy, and most work is short
    from rich.console import Console  # noqa: PLC0415

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(compact=True),
    )
    console = Console(file=stream)
    return progress.Progress(*columns, console=console, transient=True, auto_refresh=False, get_time=clock)
