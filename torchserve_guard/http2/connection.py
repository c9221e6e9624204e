"""The connection: either end of HTTP/2; bytes in, events and bytes out, and never more in memory than was granted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torchserve_guard.http2 import frames
from torchserve_guard.http2.frames import Broken, Code, Setting
from torchserve_guard.http2.hpack import Decoder, Fields

Head = TypeVar("Head")
Said = bytes | memoryview

_MOST_BLOCKS = 64
_LONGEST_BLOCK_KEPT = 1024
# What a peer may do that asks for an answer and carries nothing: at once, and each second (CVE-2019-9512, 9515, 9518).
_MOST_IDLE_TALK, _IDLE_TALK_A_SECOND = 10_000, 1000
# Streams that are begun to be reset: the numbers nghttp2 took against CVE-2023-44487.
_MOST_RESETS, _RESETS_A_SECOND = 1000, 33


@dataclass(frozen=True, slots=True)
class Rules:
    """What this end allows the other: streams at a time, and sizes in bytes.

    `window` is what may come on a stream before it is asked for, `whole` on all of them; `block` is the longest header
    block, `fields` the largest that its fields may be.
    """

    streams: int = 128
    window: int = 1 << 18
    whole: int = 1 << 20
    block: int = 1 << 16
    fields: int = 1 << 16


class Owner(Protocol):
    """Who hears of a stream."""

    def data(self, payload: bytes, ended: bool) -> None:  # noqa: FBT001 - hot
        """Take a piece of the body. The stream gets no more than its window until it is granted more."""

    def drained(self) -> None:
        """Go on: all that was said is sent."""

    def reset(self, code: int) -> None:
        """Hear that the peer gave the stream up."""


class Stream:
    """One stream: who owns it, what may be sent and received on it, and what waits to be sent.

    `heard` says that the peer said its last, `said` that we did. `last` is what follows `pending`: trailers, or nothing
    but the end.
    """

    __slots__ = ("heard", "last", "left", "number", "owner", "pending", "said", "taken", "window")

    def __init__(self, number: int, owner: Owner, window: int, left: int) -> None:
        self.number = number
        self.owner = owner
        self.window = window
        self.left = left
        self.taken = 0
        self.pending: deque[Said] = deque()
        self.last: bytes | None = None
        self.heard = False
        self.said = False


class Connection(ABC, Generic[Head]):
    """One end of a connection. What it says gathers in `out` until `flushed` takes it; `wake` is told of the first."""

    def __init__(self, rules: Rules, *, server: bool) -> None:
        self._rules = rules
        self._server = server
        self._buffer = b""
        self._preface_due = server
        self._block: tuple[int, int, bytearray] | None = None
        self._decoder = Decoder(rules.fields)
        self._blocks: dict[bytes, Head] = {}
        self._left = rules.whole
        self._taken = 0
        self._idle_talk = 0
        self._resets = 0
        self._latest = 0
        self._first_window = frames.FIRST_WINDOW
        self._waiting: dict[int, Stream] = {}
        self.out: list[Said] = []
        self.streams: dict[int, Stream] = {}
        self.window = frames.FIRST_WINDOW
        self.most_streams = 2**31 - 1
        self.choked = False
        """Whether the transport takes no more for now."""
        self.introduced = False
        """Whether the peer's preface, and its first SETTINGS, have come."""
        self.moved = False
        """Whether a whole frame came, or a piece was sent, since somebody looked."""

    # --- what whoever has the connection gives ---------------------------------------------------------------------

    @abstractmethod
    def understood(self, fields: Fields) -> Head:
        """Return what the fields of a header block say; asked once for bytes that come again."""

    @abstractmethod
    def headed(self, stream: Stream | None, number: int, head: Head, ended: bool) -> None:  # noqa: FBT001 - hot
        """Take a header block: of a stream that is there, or one that a client begins."""

    @abstractmethod
    def wake(self) -> None:
        """Hear that there is something in `out`."""

    def over(self) -> None:
        """Hear that a stream is over."""

    def left_by_peer(self, last: int) -> None:
        """Hear that the peer looks at no stream after `last`."""

    # --- saying ----------------------------------------------------------------------------------------------------

    def introduce(self) -> None:
        """Say what a connection begins with."""
        rules = self._rules
        told = {Setting.WINDOW: rules.window, Setting.HEAD: rules.fields}
        if self._server:
            told[Setting.STREAMS] = rules.streams
        else:
            # Without a table the same head is the same bytes each time, whatever was said before.
            told |= {Setting.TABLE: 0, Setting.PUSH: 0}
            self._say(frames.PREFACE)
        self._say(frames.settings_frame(told) + frames.window_frame(0, rules.whole - frames.FIRST_WINDOW))

    def begin(self, owner: Owner, block: bytes) -> Stream:
        """Begin a stream, as a client."""
        self._latest += 2 if self._latest else 1
        stream = self._begun(self._latest, owner)
        self._say(frames.head_frames(stream.number, block, end=False))
        return stream

    def accept(self, number: int, owner: Owner, ended: bool) -> Stream:  # noqa: FBT001 - hot
        """Take a stream that a client began."""
        stream = self._begun(number, owner)
        stream.heard = ended
        return stream

    def _begun(self, number: int, owner: Owner) -> Stream:
        stream = self.streams[number] = Stream(number, owner, self._first_window, self._rules.window)
        return stream

    def send_head(self, stream: Stream, block: bytes) -> None:
        """Say a header block that is not the last thing said."""
        self._say(frames.head_frames(stream.number, block, end=False))

    def send(self, stream: Stream, data: Said, ended: bool = False) -> None:  # noqa: FBT001, FBT002 - hot
        """Say a piece of a body, now or when there is room for it."""
        size = len(data)
        room = min(stream.window, self.window, frames.LARGEST)
        if size <= room and not self.choked and not stream.pending:
            self._send_piece(stream, data, size, ended)
            return
        if size:
            stream.pending.append(memoryview(data))
        if ended:
            stream.last = b""
        self._pump(stream)

    def finish(self, stream: Stream, block: bytes) -> None:
        """Say trailers behind what waits, or, with no block, nothing but the end."""
        stream.last = block
        if not stream.pending:
            self._pump(stream)

    def reset(self, stream: Stream, code: Code) -> None:
        """Give a stream up; its owner hears no more of it."""
        if self.streams.get(stream.number) is stream:
            self._forget(stream)
            self._say(frames.frame(frames.RESET, 0, stream.number, frames.NUMBER.pack(code)))

    def refuse(self, number: int) -> None:
        """Take no notice of a stream that a client began: it may begin it again elsewhere (section 8.7)."""
        self._count_reset()
        self._say(frames.frame(frames.RESET, 0, number, frames.NUMBER.pack(Code.REFUSED)))

    def leave(self, code: Code, last: int | None = None) -> None:
        """Say that no further stream is looked at."""
        self._say(frames.goaway_frame(self._latest if last is None else last, code))

    def grant(self, stream: Stream) -> None:
        """Let as much more come on a stream as was taken of it, when it is worth a frame."""
        if stream.taken >= self._rules.window >> 1 and not stream.heard:
            self._say(frames.window_frame(stream.number, stream.taken))
            stream.left += stream.taken
            stream.taken = 0

    def taking(self) -> None:
        """Go on: the transport takes more."""
        self.choked = False
        self._pump_all()

    def calm(self) -> None:
        """Forgive, once a second, a second's worth of what was counted against the peer."""
        self._idle_talk = max(0, self._idle_talk - _IDLE_TALK_A_SECOND)
        self._resets = max(0, self._resets - _RESETS_A_SECOND)

    def _say(self, said: bytes) -> None:
        if not self.out:
            self.wake()
        self.out.append(said)

    def _pump_all(self) -> None:
        for stream in tuple(self._waiting.values()):
            self._waiting.pop(stream.number, None)
            self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        """Send of what waits what there is room for; who is sent least first waits longest."""
        pending, had = stream.pending, bool(stream.pending)
        while pending:
            room = min(stream.window, self.window, frames.LARGEST)
            if room <= 0 or self.choked:
                self._waiting[stream.number] = stream
                return
            piece = pending.popleft()
            if len(piece) > room:
                pending.appendleft(piece[room:])
                piece = piece[:room]
            self.moved = True
            ended = not pending and stream.last == b""
            self._send_piece(stream, piece, len(piece), ended)
            if ended:
                return
        self._waiting.pop(stream.number, None)
        if stream.last is not None and not stream.said:
            if stream.last:
                self._say(frames.head_frames(stream.number, stream.last, end=True))
            else:
                self._say(frames.frame(frames.DATA, frames.END_STREAM, stream.number))
            self._end(stream)
        elif had:
            stream.owner.drained()

    def _send_piece(self, stream: Stream, piece: Said, size: int, ended: bool) -> None:  # noqa: FBT001 - hot
        stream.window -= size
        self.window -= size
        self._say(frames.HEAD.pack(size >> 8, size & 0xFF, frames.DATA, ended, stream.number))
        self.out.append(piece)
        if ended:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        """Have said the last of a stream. A server has no use for the rest of the request (section 8.1)."""
        stream.said = True
        if stream.heard:
            self._forget(stream)
        elif self._server:
            self.reset(stream, Code.NONE)

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.number, None)
        self._waiting.pop(stream.number, None)
        stream.pending.clear()
        self.over()

    # --- hearing ---------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes. Raises `Broken`."""
        buffer = self._buffer + data if self._buffer else data
        position, end = 0, len(buffer)
        if self._preface_due:
            if not buffer.startswith(frames.PREFACE[:end]):
                raise Broken(Code.PROTOCOL, "this is not HTTP/2")
            if end >= len(frames.PREFACE):
                self._preface_due = False
                position = len(frames.PREFACE)
        while end - position >= frames.HEADER and not self._preface_due:
            high, low, kind, flags, number = frames.HEAD.unpack_from(buffer, position)
            length = high << 8 | low
            if length > frames.LARGEST:
                raise Broken(Code.FRAME_SIZE, "a frame is too long")
            start = position + frames.HEADER
            if end - start < length:
                break
            position = start + length
            self.moved = True
            self._heard(kind, flags, number & 0x7FFFFFFF, buffer[start:position])
        self._buffer = buffer[position:]

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    @property
    def in_block(self) -> bool:
        """Whether a header block has begun and not ended."""
        return self._block is not None

    def _heard(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise Broken(Code.PROTOCOL, "a header block is interrupted")
        if not self.introduced:
            if kind != frames.SETTINGS or flags & frames.ACK:
                raise Broken(Code.PROTOCOL, "the first frame is not SETTINGS")
            self.introduced = True
        if kind == frames.DATA:
            self._heard_data(flags, number, payload)
        elif kind == frames.HEADERS:
            self._heard_head(flags, number, payload)
        elif kind == frames.WINDOW:
            self._heard_window(number, payload)
        elif kind == frames.CONTINUATION:
            self._heard_more(flags, number, payload)
        elif kind == frames.RESET:
            self._heard_reset(number, payload)
        else:
            self._heard_talk(kind, flags, number, payload)

    def _heard_data(self, flags: int, number: int, payload: bytes) -> None:
        length = len(payload)
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, payload)
        self._take(length)
        stream = self.streams.get(number)
        if stream is None:
            self._verify_past(number)
            self._talk()
            return
        stream.left -= length
        stream.taken += length
        if stream.left < 0:
            raise Broken(Code.FLOW_CONTROL, "a stream has more in it than was granted")
        if stream.heard:
            raise Broken(Code.STREAM_CLOSED, "a stream goes on after its end")
        ended = bool(flags & frames.END_STREAM)
        if not payload and not ended:
            self._talk()
            return
        self._ended(stream, ended)
        stream.owner.data(payload, ended)

    def _take(self, length: int) -> None:
        """Count what came, on whatever stream; it is granted again at once, since each stream is held to its own."""
        self._left -= length
        self._taken += length
        if self._left < 0:
            raise Broken(Code.FLOW_CONTROL, "the connection has more in it than was granted")
        if self._taken >= self._rules.whole >> 1:
            self._say(frames.window_frame(0, self._taken))
            self._left += self._taken
            self._taken = 0

    def _ended(self, stream: Stream, ended: bool) -> None:  # noqa: FBT001 - hot
        """Note that the peer has said its last."""
        if not ended:
            return
        stream.heard = True
        if stream.said:
            self._forget(stream)
        elif not self._server:
            # TorchServe has answered: what it did not wait for is of no use any more.
            self.reset(stream, Code.CANCEL)

    def _heard_head(self, flags: int, number: int, payload: bytes) -> None:
        payload = frames.unpadded(flags, payload)
        if flags & frames.PRIORITIZED:
            _verify_size(payload[: frames.PRIORITY_SIZE], frames.PRIORITY_SIZE)
            payload = payload[frames.PRIORITY_SIZE :]
        if flags & frames.END_HEADERS:
            self._whole(flags, number, payload)
        else:
            self._block = number, flags, bytearray(payload)

    def _heard_more(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise Broken(Code.PROTOCOL, "there is no header block to continue")
        _, first, block = self._block
        block += payload
        # A piece that carries nothing is a way to go on for ever (CVE-2024-27316 and its kin).
        if not payload or len(block) > self._rules.block:
            raise Broken(Code.CALM, "a header block is too long, or does not end")
        if flags & frames.END_HEADERS:
            self._block = None
            self._whole(first, number, bytes(block))

    def _whole(self, flags: int, number: int, block: bytes) -> None:
        head = self._blocks.get(block)
        if head is None:
            head = self._read(block)
        ended = bool(flags & frames.END_STREAM)
        stream = self.streams.get(number)
        if self._server:
            if stream is not None or number <= self._latest or not number & 1:
                raise Broken(Code.PROTOCOL, "a stream begins where none can begin")
            self._latest = number
            self.headed(None, number, head, ended)
        elif stream is None:
            self._verify_past(number)
        else:
            if stream.heard:
                raise Broken(Code.STREAM_CLOSED, "a stream goes on after its end")
            self._ended(stream, ended)
            self.headed(stream, number, head, ended)

    def _read(self, block: bytes) -> Head:
        # INVARIANT: while the table does not change, the same bytes are the same fields.
        head = self.understood(self._decoder.decode(block))
        if self._decoder.changed or len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        if not self._decoder.changed and len(block) <= _LONGEST_BLOCK_KEPT:
            self._blocks[block] = head
        return head

    def _heard_window(self, number: int, payload: bytes) -> None:
        more = _number(payload) & 0x7FFFFFFF
        if not more:
            raise Broken(Code.PROTOCOL, "a window grows by nothing")
        if not number:
            self.window = _grown(self.window, more)
            if self._waiting:
                self._pump_all()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._verify_past(number)
            return
        stream.window = _grown(stream.window, more)
        if stream.pending:
            self._pump(stream)

    def _heard_reset(self, number: int, payload: bytes) -> None:
        code = _number(payload)
        self._count_reset()
        stream = self.streams.get(number)
        if stream is None:
            self._verify_past(number)
            return
        self._forget(stream)
        stream.owner.reset(code)

    def _heard_talk(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Hear what is not about one request."""
        self._talk()
        if number and kind in {frames.SETTINGS, frames.PING, frames.GOAWAY}:
            raise Broken(Code.PROTOCOL, "what concerns the connection is said on a stream")
        if kind == frames.SETTINGS:
            self._heard_settings(flags, payload)
        elif kind == frames.PING:
            _verify_size(payload, frames.PING_SIZE)
            if not flags & frames.ACK:
                self._say(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.GOAWAY:
            _verify_size(payload[: frames.GOAWAY_SIZE], frames.GOAWAY_SIZE)
            self.left_by_peer(_number(payload[:4]) & 0x7FFFFFFF)
        elif kind == frames.PRIORITY:
            _verify_size(payload, frames.PRIORITY_SIZE)
        elif kind == frames.PUSH:
            raise Broken(Code.PROTOCOL, "nothing may be pushed")

    def _heard_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            _verify_size(payload, 0)
            return
        for name, value in frames.parse_settings(payload):
            if name == Setting.WINDOW:
                more, self._first_window = value - self._first_window, value
                for stream in self.streams.values():
                    stream.window = _grown(stream.window, more)
            elif name == Setting.STREAMS:
                self.most_streams = value
        self._say(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._pump_all()

    def _verify_past(self, number: int) -> None:
        """Return when the stream was there: what was sent before the end was heard is not wrong (section 5.1)."""
        if not 0 < number <= self._latest or not number & 1:
            raise Broken(Code.PROTOCOL, "a stream is spoken of that was not begun")

    def _talk(self) -> None:
        self._idle_talk += 1
        if self._idle_talk > _MOST_IDLE_TALK:
            raise Broken(Code.CALM, "too much is said that carries nothing")

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > _MOST_RESETS:
            raise Broken(Code.CALM, "too many streams are begun to be given up")


def _number(payload: bytes) -> int:
    _verify_size(payload, frames.NUMBER.size)
    (number,) = frames.NUMBER.unpack(payload)
    return int(number)


def _grown(window: int, more: int) -> int:
    if window + more > frames.LARGEST_WINDOW:
        raise Broken(Code.FLOW_CONTROL, "a window is too large")
    return window + more


def _verify_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise Broken(Code.FRAME_SIZE, "a frame has another size than it may have")
