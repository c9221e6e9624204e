"""A lane: one thread that runs calls in their order, a bounded number behind whoever gives them.

hashlib, zlib and write(2) let go of the interpreter for large buffers, so lanes are how one archive uses
all cores. A lane that fails takes no further call, but never blocks its giver; leaving it raises.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

_AHEAD = 5
"""Calls (of about one MiB each) that may wait: the bound of memory."""

Call = Callable[[], object]


class Lane:
    """A thread that runs calls; a context, whose end waits for the last one and raises what went wrong."""

    def __init__(self, name: str) -> None:
        self._calls: queue.Queue[Call | None] = queue.Queue(_AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._error = self._error or error
        self._calls.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def give(self, call: Call) -> None:
        """Have a call run after those before it."""
        self._calls.put(call)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._error is None:
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 - raised again by __exit__, in the thread that waits
                    self._error = error


class Belt:
    """Chunks on their way from the thread that reads them to the thread that needs them."""

    def __init__(self) -> None:
        self._chunks: queue.Queue[bytes] = queue.Queue(_AHEAD)

    def put(self, chunk: bytes) -> None:
        """Add a chunk; the empty one is the end."""
        self._chunks.put(chunk)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks until the end."""
        while chunk := self._chunks.get():
            yield chunk
