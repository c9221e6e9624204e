"""A caller: it says a conversation on a connection of its own, and keeps what comes back, whatever that is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fuzz.grpc_tap import ACK, DATA, END, GOAWAY, HEADERS, PING, RESET, WINDOW, fields, frames
from fuzz.raw_calls import LAST_PING, Conversation, frame

PATIENCE, QUIET = 30.0, 0.25
_PAUSE = 0.002


@dataclass
class Answer:
    """What came back on one stream."""

    blocks: list[dict[bytes, bytes]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str:
        """The code of the call, or what stands in its place."""
        if not self.ended:
            return "reset" if self.reset is not None else "open"
        status = self.blocks[0][b":status"].decode()
        return self.blocks[-1].get(b"grpc-status", b"none").decode() if status == "200" else f"http {status}"


@dataclass
class Heard:
    """What came back on one connection: answers, its code if it was ended, what about it is no HTTP/2."""

    answers: dict[int, Answer] = field(default_factory=dict)
    parted: int | None = None
    ended: bool = False
    pinged: bool = False
    late: bool = False
    complaints: list[str] = field(default_factory=list)
    windows: bytearray = field(default_factory=bytearray)
    done: bool = False

    def take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Read a frame."""
        if kind == GOAWAY:
            self.parted = int.from_bytes(payload[4:8])
        elif kind == PING and flags & ACK:
            self.pinged = self.pinged or payload == LAST_PING
        elif kind in {DATA, HEADERS, RESET}:
            self._of_a_stream(kind, flags, number, payload)

    def _of_a_stream(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        answer = self.answers.setdefault(number, Answer())
        if answer.reset is not None or (answer.ended and kind != RESET):
            self.complaints.append(f"stream {number} goes on: {kind} {payload[:60]!r}")
        if kind == RESET:
            answer.reset = int.from_bytes(payload)
            return
        if kind == HEADERS:
            answer.blocks.append(dict(fields(payload)))
        elif not answer.blocks:
            self.complaints.append(f"stream {number} has no head")
        answer.ended = bool(flags & END)
        if kind == DATA and payload:
            answer.data += payload
            more = len(payload).to_bytes(4)
            self.windows += frame(WINDOW, 0, 0, more) + (b"" if answer.ended else frame(WINDOW, 0, number, more))


async def converse(port: int, conversation: Conversation) -> Heard:
    """Say it, and listen until all is answered that must be, or the connection ends, or nothing comes for long."""
    heard = Heard()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        heard.complaints.append(f"no connection: {error}")
        return heard
    listening = asyncio.ensure_future(_listen(reader, writer, heard, conversation))
    try:
        for at, piece in enumerate(conversation.pieces):
            if at:
                await asyncio.sleep(_PAUSE)
            writer.write(piece)
        heard.done = True
        _widen(writer, heard)
        await listening
    except OSError:
        heard.ended = True
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        writer.transport.abort()
    return heard


def _widen(writer: asyncio.StreamWriter, heard: Heard) -> None:
    """Open the windows again, when nothing is said any more: it would come between the pieces of a frame."""
    if heard.done and heard.windows:
        writer.write(bytes(heard.windows))
        heard.windows.clear()


async def _listen(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard, conversation: Conversation
) -> None:
    buffer, due = bytearray(), set(conversation.due) if conversation.sound else set()
    try:
        while not heard.pinged or due:
            data = await asyncio.wait_for(reader.read(65536), PATIENCE if conversation.whole else QUIET)
            if not data:
                heard.ended = True
                return
            buffer += data
            for one in frames(buffer):
                heard.take(*one)
            _widen(writer, heard)
            due -= {number for number, one in heard.answers.items() if one.ended or one.reset is not None}
    except TimeoutError:
        heard.late = True
