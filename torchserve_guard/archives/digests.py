"""The digests of files: whole or in chunks, by a crew of as many threads as there are cores.

hashlib lets go of the interpreter while it hashes, so threads are enough. Each reads into one buffer of its own:
memory is a mebibyte for each thread, whatever the files' sizes. Files are read and not mapped: one that becomes shorter
is then a refusal, and not a SIGBUS.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from torchserve_guard.archives.lanes import Lane
from torchserve_guard.archives.manifest import CHUNK, Chunks
from torchserve_guard.archives.progress import Progress
from torchserve_guard.archives.sources import Source

MOST_HANDS = 16
"""Threads that hash at once: more would wait for the memory, not for SHA-256."""
READERS = 2
"""Subjects that are read from the front at once: each keeps several threads busy, and some 25 MB in their queues."""

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")


class Stopped(Exception):
    """The work is not wanted any more."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def digest_of(source: Source, progress: Progress | None = None, span: tuple[int, int] | None = None) -> str:
    """Return the SHA-256 of a file, or of the bytes from the first offset to before the second."""
    digest = hashlib.sha256()
    for piece in source.pieces(span or (0, source.size)):
        digest.update(piece)
        if progress is not None:
            progress(len(piece))
    return digest.hexdigest()


def gathered(futures: Sequence[Future[T]]) -> list[T]:
    """Return all results, or raise the first error, but only when all have ended: then what they read can be closed."""
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error
    return [future.result() for future in futures]


class Chopper:
    """The digests of the chunks of what passes by, each of `size` bytes but the last."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = size
        self._digest = hashlib.sha256()
        self._done: list[str] = []

    def update(self, data: bytes | memoryview) -> None:
        """Take the bytes that come next."""
        view = memoryview(data)
        while view:
            piece = view[: self._left]
            self._digest.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
            if not self._left:
                self._cut()

    def digests(self) -> tuple[str, ...]:
        """Return the digests of all chunks; what passed by ends here."""
        if self._left < self._size:
            self._cut()
        return tuple(self._done)

    def _cut(self) -> None:
        self._done.append(self._digest.hexdigest())
        self._digest, self._left = hashlib.sha256(), self._size


class Reckoning:
    """What a file amounts to, read once from its front: the digest of the whole, and its chunks if asked for."""

    def __init__(self, chunk: int | None) -> None:
        self._chunk = chunk
        self._whole = hashlib.sha256()
        self._chopper = Chopper(chunk or CHUNK)

    def take(self, source: Source, progress: Progress | None, also: Callable[[bytes], object] | None = None) -> None:
        """Read the file, and hand every piece to another too."""
        with Lane("tsguard-chunks") as chopping:
            for piece in source.chunks(progress):
                if also is not None:
                    also(piece)
                if self._chunk is not None:
                    chopping.give(partial(self._chopper.update, piece))
                self._whole.update(piece)

    def digest(self) -> str:
        """Return the SHA-256 of the whole."""
        return self._whole.hexdigest()

    def chunks(self) -> Chunks | None:
        """Return the chunks, if they were asked for."""
        return Chunks(size=self._chunk, sha256=self._chopper.digests()) if self._chunk is not None else None


class Crew:
    """Threads that hash, and threads that lead them; a context: left by an error, it ends the work at the next piece.

    `progress` is told the bytes that were hashed, by one thread at a time. Leaders hold `reading` while they read a
    subject from the front. `stop` is set by whoever does not want the work any more.
    """

    def __init__(self, progress: Progress | None = None, stop: threading.Event | None = None) -> None:
        self._progress = progress
        self._stop = stop if stop is not None else threading.Event()
        self.reading = threading.BoundedSemaphore(READERS)
        self._lock = threading.Lock()
        self._stopped = False
        # INVARIANT: hands never wait for hands; only leaders do, who are not of that pool. So nobody waits for ever.
        self._hands = ThreadPoolExecutor(min(cores(), MOST_HANDS), "tsguard-hash")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = kind is not None
        self._hands.shutdown(cancel_futures=self._stopped)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a hand run a function, which must not wait for another."""
        return self._hands.submit(function, *args, **kwargs)

    def each(self, function: Callable[[Item], T], items: Iterable[Item], leaders: int) -> list[T]:
        """Return what the function makes of each item, a number of them at once; it may wait for hands."""
        pool = ThreadPoolExecutor(leaders, "tsguard-lead")
        try:
            return [future.result() for future in [pool.submit(function, item) for item in items]]
        except BaseException:
            self._stopped = True
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def digest(self, source: Source) -> str:
        """Return the SHA-256 of a whole file."""
        return self.submit(digest_of, source, self.tell).result()

    def chunks(self, source: Source, size: int) -> tuple[str, ...]:
        """Return the SHA-256 of each chunk of a file."""
        spans = [(begin, min(begin + size, source.size)) for begin in range(0, source.size, size)]
        return tuple(gathered([self.submit(digest_of, source, self.tell, span) for span in spans]))

    def tell(self, count: int) -> None:
        """Count bytes as done."""
        with self._lock:
            self.heed(count)
            if self._progress is not None:
                self._progress(count)

    def heed(self, _count: int) -> None:
        """Raise `Stopped` once the work is not wanted any more; count nothing."""
        if self._stopped or self._stop.is_set():
            raise Stopped
