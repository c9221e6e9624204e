"""A tap between the guard and TorchServe's gRPC: it passes every byte on, and writes down each call.

The frames are read here, by rules narrower than HTTP/2's, since the guard writes in one way only; the header blocks
are read by `hpack`, which is not the guard's. What does not keep to the rules is a complaint.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 0x20


@dataclass
class Seen:
    """One call that went upstream."""

    fields: tuple[tuple[bytes, bytes], ...]
    body: bytearray = field(default_factory=bytearray)
    said: bool = False
    answered: bool = False
    parted: bool = False

    @property
    def open(self) -> bool:
        return not (self.parted or (self.said and self.answered))


def frames(buffer: bytearray) -> list[tuple[int, int, int, bytes]]:
    """Take the whole frames: what each is, its flags, its stream and its payload."""
    found = []
    while len(buffer) >= 9 and len(buffer) >= 9 + int.from_bytes(buffer[:3]):
        end = 9 + int.from_bytes(buffer[:3])
        found.append((buffer[3], buffer[4], int.from_bytes(buffer[5:9]), bytes(buffer[9:end])))
        del buffer[:end]
    return found


def fields(block: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return what a header block says that refers to no other. Raises ValueError."""
    try:
        return tuple((bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True))
    except hpack.HPACKError as error:
        raise ValueError(f"no header block: {block!r}") from error


class Spoken:
    """What the guard and TorchServe say on one connection."""

    def __init__(self, seen: list[Seen]) -> None:
        self._all = seen
        self._streams: dict[int, Seen] = {}
        self._asked, self._answered = bytearray(), bytearray()
        self._greeted = False

    def ask(self, data: bytes) -> None:
        """Read what the guard says. Raises ValueError when it is not in its spelling."""
        self._asked += data
        if not self._greeted and len(self._asked) >= len(PREFACE):
            if not self._asked.startswith(PREFACE):
                raise ValueError(f"no preface: {bytes(self._asked[:30])!r}")
            del self._asked[: len(PREFACE)]
            self._greeted = True
        if self._greeted:
            for kind, flags, number, payload in frames(self._asked):
                self._frame(kind, flags, number, payload)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        match kind:
            case _ if kind == HEADERS and flags == END_HEADERS and number == 1 + 2 * len(self._streams):
                self._streams[number] = Seen(fields(payload))
                self._all.append(self._streams[number])
            case _ if kind == DATA and flags in {0, END} and number in self._streams and self._streams[number].open:
                self._streams[number].body += payload
                self._streams[number].said = flags == END
            case _ if kind == RESET and number in self._streams and len(payload) == 4:
                self._streams[number].parted = True
            case _ if kind == WINDOW and len(payload) == 4 and (not number or number in self._streams):
                pass
            case _ if kind in {SETTINGS, GOAWAY} and not number:
                pass
            case _ if (kind, flags, number, len(payload)) == (PING, ACK, 0, 8):
                pass
            case _:
                raise ValueError(f"no frame in the guard's spelling: {kind} {flags} {number} {payload[:200]!r}")

    def answer(self, data: bytes) -> None:
        """Read what TorchServe says, as far as where its answers end."""
        self._answered += data
        for kind, flags, number, _ in frames(self._answered):
            if kind == RESET or (kind in {DATA, HEADERS} and flags & END):
                self._streams[number].answered = True
                self._streams[number].parted |= kind == RESET

    def lost(self) -> None:
        """The connection is no more."""
        for one in self._streams.values():
            one.parted = True


@dataclass
class Tap:
    """A relay on `port` to the port that stands in a file at `place`; what it saw is in `seen` and `complaints`."""

    behind: Path
    place: int
    seen: list[Seen] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", json.loads(self.behind.read_text())[self.place])
        spoken = Spoken(self.seen)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, requests, spoken.ask))
                both.create_task(self._copy(answers, writer, spoken.answer))
        except asyncio.CancelledError:
            pass  # the tap is closed
        finally:
            spoken.lost()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read) -> None:
        try:
            while data := await reader.read(65536):
                try:
                    read(data)
                except (ValueError, KeyError) as error:
                    self.complaints.append(f"{type(error).__name__}: {error}")
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
