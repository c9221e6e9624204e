"""The connection: either end of HTTP/2; bytes in, events and bytes out, and never more in memory than was granted."""

from __future__ import annotations

import math
from abc import abstractmethod
from time import monotonic
from typing import Generic, TypeVar

from torchserve_guard.http2 import frames
from torchserve_guard.http2.frames import Broken, Code, Setting
from torchserve_guard.http2.hpack import Decoder, Fields
from torchserve_guard.http2.outlet import Outlet, Rules
from torchserve_guard.http2.patience import LITTLE
from torchserve_guard.http2.stream import Stream

Head = TypeVar("Head")

_MOST_BLOCKS = 64
_LONGEST_BLOCK_KEPT = 1024
# A header block that is larger, as it came or unpacked: grpc-java, and so stock, takes no more metadata by default.
_LARGE_BLOCK = 8192
# Pieces of a body that carry little: so many in a row belong to any message.
_MOST_CRUMBS = 16


class Connection(Outlet, Generic[Head]):
    """One end of a connection: what it hears, and, as an outlet, what it says."""

    def __init__(self, rules: Rules, *, server: bool) -> None:
        super().__init__(rules, server=server)
        self._buffer = b""
        self._position = 0
        self._preface_due = server
        self._block: tuple[int, int, bytearray] | None = None
        self._decoder = Decoder(rules.fields)
        self._blocks: dict[bytes, Head] = {}
        self._left = rules.whole
        self._taken = 0
        self.introduced = False
        """Whether the peer's preface, and its first SETTINGS, have come."""

    # --- what whoever has the connection gives ---------------------------------------------------------------------

    @abstractmethod
    def understood(self, fields: Fields) -> Head:
        """Return what the fields of a header block say; asked once for bytes that come again."""

    @abstractmethod
    def headed(self, stream: Stream | None, number: int, head: Head, ended: bool) -> None:  # noqa: FBT001 - hot
        """Take a header block: of a stream that is there, or one that a client begins."""

    def left_by_peer(self, last: int) -> None:
        """Hear that the peer looks at no stream after `last`."""

    def wronged(self, error: Broken) -> None:
        """Hear that the peer broke the protocol on one stream, which is given up."""

    # --- frames ----------------------------------------------------------------------------------------------------

    def feed(self, data: bytes, until: float = math.inf) -> bool:
        """Take bytes, and hear what whole frames say: one, and more until that time (monotonic). Raises `Broken`.

        Returns whether something is left that may be whole; the next call, which may bring nothing, goes on with it.
        """
        buffer, position, left = self._buffer, self._position, False
        if data:
            buffer, position = (buffer[position:] + data if buffer else data), 0
        self._buffer, self._position = b"", 0
        if self._preface_due:
            position = self._greeted(buffer)
        end = len(buffer)
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
            if position < end and monotonic() >= until:
                left = True
                break
        if left:
            # As it is: to cut off what was heard, each time, would copy the rest each time.
            self._buffer, self._position = buffer, position
        else:
            self._buffer = buffer[position:]
        return left

    def _greeted(self, buffer: bytes) -> int:
        """Return where the frames begin, once the preface has come."""
        if not buffer.startswith(frames.PREFACE[: len(buffer)]):
            raise Broken(Code.PROTOCOL, "this is not HTTP/2")
        if len(buffer) < len(frames.PREFACE):
            return 0
        self._preface_due = False
        return len(frames.PREFACE)

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
            self.patience.talk()
            return
        stream.left -= length
        stream.taken += length
        if stream.left < 0:
            raise Broken(Code.FLOW_CONTROL, "a stream has more in it than was granted")
        if stream.heard:
            self._part_with(stream, _past_its_end())
            return
        ended = bool(flags & frames.END_STREAM)
        if not payload and not ended:
            self.patience.talk()
            return
        if not ended:
            self._weigh(stream, len(payload))
        self._ended(stream, ended)
        stream.owner.data(payload, ended)

    def _weigh(self, stream: Stream, size: int) -> None:
        """Count a piece that carries little, unless others of its message, or the end of one, make up for it."""
        if size >= LITTLE:
            if stream.crumbs:
                stream.crumbs = max(0, stream.crumbs - 1 - (size >> 10))
            return
        stream.crumbs += 1
        if stream.crumbs > _MOST_CRUMBS:
            self.patience.talk()

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

    def _part_with(self, stream: Stream, error: Broken) -> None:
        """Give up a stream on which the peer broke the protocol; others on the connection may be another's.

        Counted as if the peer had reset it: what it can make us reset, it could do for ever (CVE-2025-8671).
        """
        self.patience.given_up()
        self.wronged(error)
        self.reset(stream, error.code)
        self._expect_more(stream.number)
        stream.owner.reset(error.code)

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
        if self._server and stream is not None:
            # A second head, or trailers, which no client of gRPC's has; a proxy before us may pass on anybody's.
            second = Broken(Code.PROTOCOL, "a call has a second head, or trailers")
            self._part_with(stream, _past_its_end() if stream.heard else second)
        elif self._server:
            if number in self._unheard:
                # It was on its way when the stream ended here.
                self.patience.talk()
                return
            if number <= self._latest or not number & 1:
                raise Broken(Code.PROTOCOL, "a stream begins where none can begin")
            self.patience.verify()
            self._latest = number
            self.headed(None, number, head, ended)
        elif stream is None:
            self._verify_past(number)
        else:
            if stream.heard:
                raise _past_its_end()
            self._ended(stream, ended)
            self.headed(stream, number, head, ended)

    def _read(self, block: bytes) -> Head:
        # INVARIANT: while the table does not change, the same bytes are the same fields.
        head = self.understood(self._decoder.decode(block))
        large = max(len(block), self._decoder.unpacked) > _LARGE_BLOCK
        if large:
            # To unpack it costs us more than it costs a client to say it again.
            self.patience.given_up()
        if self._decoder.changed or len(self._blocks) >= _MOST_BLOCKS:
            self._blocks.clear()
        if not self._decoder.changed and not large and len(block) <= _LONGEST_BLOCK_KEPT:
            self._blocks[block] = head
        return head

    def _heard_window(self, number: int, payload: bytes) -> None:
        more = _number(payload) & 0x7FFFFFFF
        self.patience.opened()
        if not number:
            if not more:
                raise _grown_by_nothing()
            exhausted = self.window <= 0
            self.window = _grown(self.window, more)
            if exhausted:
                self._pump_all()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._verify_past(number)
            return
        try:
            if not more:
                raise _grown_by_nothing()
            stream.window = _grown(stream.window, more)
        except Broken as error:
            self._part_with(stream, error)
            return
        if stream.pending:
            self._pump(stream)

    def _heard_reset(self, number: int, payload: bytes) -> None:
        code = _number(payload)
        stream = self.streams.get(number)
        if stream is None:
            self._verify_past(number)
            self.patience.talk()
            return
        self.patience.given_up()
        self._forget(stream)
        stream.owner.reset(code)

    def _heard_talk(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Hear what is not about one request."""
        self.patience.talk()
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
            self._heard_priority(number, payload)
        elif kind == frames.PUSH:
            raise Broken(Code.PROTOCOL, "nothing may be pushed")

    def _heard_priority(self, number: int, payload: bytes) -> None:
        """Take no notice, but of what is wrong with it (section 6.3)."""
        if not number:
            raise Broken(Code.PROTOCOL, "what concerns a stream is said on none")
        if len(payload) == frames.PRIORITY_SIZE:
            return
        error, stream = _of_another_size(), self.streams.get(number)
        if stream is not None:
            self._part_with(stream, error)
        elif number not in self._unheard:
            # There is no stream to end; section 5.4.1 lets the connection end in its place.
            raise error

    def _heard_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            _verify_size(payload, 0)
            return
        self.patience.talk(len(payload) // frames.SETTING_SIZE)
        # Each is taken once, the last that is given: one frame may give the same thousands of times.
        told = dict(frames.parse_settings(payload))
        self.most_streams = told.get(Setting.STREAMS, self.most_streams)
        # Some peers count by the new windows only when this has come.
        self._say(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if Setting.WINDOW in told:
            self._resize_windows(told[Setting.WINDOW])

    def _resize_windows(self, size: int) -> None:
        """Give each stream more room, or less: a window may be below nothing (section 6.9.2)."""
        more, self._first_window = size - self._first_window, size
        for stream in self.streams.values():
            stream.window = _grown(stream.window, more)
        for stream in tuple(self.streams.values()):
            if stream.pending:
                self._pump(stream)

    def _verify_past(self, number: int) -> None:
        """Return when the stream was there: what was sent before the end was heard is not wrong (section 5.1)."""
        if not 0 < number <= self._latest or not number & 1:
            raise Broken(Code.PROTOCOL, "a stream is spoken of that was not begun")


def _past_its_end() -> Broken:
    return Broken(Code.STREAM_CLOSED, "a stream goes on after its end")


def _grown_by_nothing() -> Broken:
    return Broken(Code.PROTOCOL, "a window grows by nothing")


def _of_another_size() -> Broken:
    return Broken(Code.FRAME_SIZE, "a frame has another size than it may have")


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
        raise _of_another_size()
