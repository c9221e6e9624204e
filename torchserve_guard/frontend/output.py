"""What TorchServe prints: forwarded as it comes, its end kept, and the signs in it counted."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import IO

KEPT = 1000
CHUNK = 1 << 16
LONGEST_LINE = 1 << 14

# WorkerThread.java: `W-9000-noop_1.0 ... - Retry worker: 9000 in 1 seconds.` follows every death of a worker.
_RETRY = re.compile(rb"(W-\d+-\S+) \S+WorkerThread - Retry worker: \d")
# ModelServer.java says this once for each entry of load_models that it goes without.
_FAILED = re.compile(rb"ModelServer - Failed to load model: (\S+)")
_LOADED = b"-> WORKER_MODEL_LOADED"
# ModelServer.java prints it when its own listeners are open. The door opens later, and the guard says so itself.
_GREETING = b"Model server started."


class Output:
    """The lines of both streams. Threads write, the guard reads: appending is atomic, and nothing waits.

    A thread forwards each stream, so that a reader of ours who is slow holds up TorchServe, as it would without
    a guard, and not the guard.
    """

    def __init__(self, on_sign: Callable[[], None]) -> None:
        self._lines: deque[bytes] = deque(maxlen=KEPT)
        self._on_sign = on_sign
        self._threads: list[threading.Thread] = []
        self.deaths: Counter[str] = Counter()
        self.failed: deque[str] = deque(maxlen=KEPT)

    def forward(self, source: IO[bytes], sink: int) -> None:
        """Start to copy a stream to a file descriptor; a sink that is gone is done without."""
        thread = threading.Thread(target=self._pump, args=(source, sink), name="torchserve-output", daemon=True)
        self._threads.append(thread)
        thread.start()

    def tail(self) -> tuple[str, ...]:
        """Return the last lines, without what a terminal would act upon."""
        return tuple(_printable(line) for line in tuple(self._lines))

    def finished(self, timeout: float) -> bool:
        """Wait for the streams to end, and return whether they did."""
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def _pump(self, source: IO[bytes], sink: int) -> None:
        rest = b""
        open_sink = True
        passage = _WithoutGreeting()
        with source:
            while chunk := os.read(source.fileno(), CHUNK):
                open_sink = open_sink and _written(sink, passage.passed(chunk))
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._keep(line)
                if len(rest) > LONGEST_LINE:
                    self._keep(rest)
                    rest = b""
        if rest:
            self._keep(rest)
        if open_sink:
            _written(sink, passage.held)

    def _keep(self, line: bytes) -> None:
        self._lines.append(line[:LONGEST_LINE])
        if b" MODEL_LOG - " not in line and (_LOADED in line or b"model" in line or b"Retry" in line):
            self._count(line)

    def _count(self, line: bytes) -> None:
        retry, failed = _RETRY.search(line), _FAILED.search(line)
        if retry:
            self.deaths[_printable(retry[1])] += 1
        if failed:
            self.failed.append(_printable(failed[1]))
        if retry or failed or _LOADED in line:
            self._on_sign()


class _WithoutGreeting:
    """A stream without the line that says that TorchServe has started; the rest is passed as it comes."""

    def __init__(self) -> None:
        self.held = b""
        self._inside = False
        self._seen = False

    def passed(self, chunk: bytes) -> bytes:
        """Return what of a chunk is passed on, with what was held back until now."""
        if self._seen:
            return chunk
        *lines, rest = (self.held + chunk).split(b"\n")
        inside = [self._inside, *([False] * len(lines))]
        kept = [line + b"\n" for line, within in zip(lines, inside, strict=False) if within or line != _GREETING]
        self._seen = len(kept) < len(lines)
        beginning = not inside[-1] and not self._seen and _GREETING.startswith(rest)
        self.held = rest if beginning else b""
        self._inside = inside[-1] or bool(rest and not beginning)
        return b"".join(kept) + (b"" if beginning else rest)


def _written(sink: int, chunk: bytes) -> bool:
    view = memoryview(chunk)
    try:
        while view:
            view = view[os.write(sink, view) :]
    except OSError:
        return False
    return True


def _printable(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace").replace("\t", "    ")
    return "".join(character if character.isprintable() else "�" for character in text)


# What an explanation leaves out: what every worker says, and the frames of Python and of TorchServe itself.
_PRINTED = re.compile(r" MODEL_LOG - (.*)$")
_CHATTER = re.compile(
    r"s_name_part0=|Listening on |\[PID\]|Python runtime: |Connection accepted: |model_name: .*, batchSize: "
    r"|Torch worker started\.|Successfully loaded .*\.yaml\.|Backend worker process died\."
)
_DATED = re.compile(r"\d{4}-\d\d-\d\d")
_FRAME = re.compile(r'\s+File "(.*?)"')
_FOREIGN = re.compile(r"<frozen |/lib/python3[^/]*/|/site-packages/|/dist-packages/")
_JAVA_FRAME = re.compile(r"\s+at |\s*\.\.\. \d+ more")


def explain(lines: Iterable[str], about: str, most: int = 16) -> tuple[str, ...]:
    """Return the lines that say why a model did not load.

    `about` marks them: `-NAME_VERSION` in the name of a worker's thread, or `Failed to load model: FILE`. What the
    model printed comes before what TorchServe thought of it.
    """
    mine = _about(lines, about)
    printed = [found[1] for line in mine if (found := _PRINTED.search(line)) and not _CHATTER.match(found[1])]
    told = _own_frames(printed) or mine
    return tuple(dict.fromkeys(line for line in told if line.strip()))[-most:]


def last_words(lines: Iterable[str], most: int = 12) -> tuple[str, ...]:
    """Return the last lines that are more than places in TorchServe's code."""
    return tuple(line for line in lines if line.strip() and not _JAVA_FRAME.match(line))[-most:]


def _about(lines: Iterable[str], about: str) -> list[str]:
    chosen, inside = [], False
    for line in lines:
        # A line without a date continues the one before: an exception under its message.
        inside = about in line if _DATED.match(line) else inside and not _JAVA_FRAME.match(line)
        if inside:
            chosen.append(line)
    return chosen


def _own_frames(lines: Iterable[str]) -> list[str]:
    kept, foreign = [], False
    for line in lines:
        frame = _FRAME.match(line)
        foreign = bool(_FOREIGN.search(frame[1])) if frame else foreign and line.startswith("    ")
        if not foreign:
            kept.append(line)
    return kept
