"""The outlet: what one end of a connection says; bytes out, and no more of any body than the other end has room for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torchserve_guard.http2 import frames
from torchserve_guard.http2.frames import Code, Setting
from torchserve_guard.http2.hpack import NO_TABLE
from torchserve_guard.http2.patience import LITTLE, Patience
from torchserve_guard.http2.stream import Owner, Said, Stream

_MOST_UNHEARD = 256


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


class Outlet(ABC):
    """What is said gathers in `out` until somebody takes it; `wake` is told of the first."""

    def __init__(self, rules: Rules, *, server: bool) -> None:
        self._rules = rules
        self._server = server
        self._latest = 0
        self._first_window = frames.FIRST_WINDOW
        # INVARIANT: the first block that is said gives up our table. Else a peer that allows less of it than at the
        # beginning must end the connection at the next block (RFC 9113 section 4.3.1); no size is less than none.
        self._foreword = NO_TABLE
        # What could be sent but for what all streams share: the connection's window, and the transport.
        self._waiting: dict[int, Stream] = {}
        # Streams that were given up before the peer had said its last: it may be on its way.
        self._unheard: dict[int, None] = {}
        self.patience = Patience(endless=not server)
        self.out: list[Said] = []
        self.streams: dict[int, Stream] = {}
        self.window = frames.FIRST_WINDOW
        self.most_streams = 2**31 - 1
        self.ended = 0
        """How many streams were ended here since `out` was taken, or what waits was read: the peer knew of none."""
        self.choked = False
        """Whether the transport takes no more for now."""
        self.moved = False
        """Whether a whole frame came, or a piece was sent, since somebody looked."""

    @abstractmethod
    def wake(self) -> None:
        """Hear that there is something in `out`."""

    def over(self) -> None:  # noqa: B027 - for who wants to know
        """Hear that a stream is over."""

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
        self._say_head(stream, block, end=False)
        return stream

    def accept(self, number: int, owner: Owner, ended: bool) -> Stream:  # noqa: FBT001 - hot
        """Take a stream that a client began."""
        stream = self._begun(number, owner)
        stream.heard = ended
        return stream

    def _begun(self, number: int, owner: Owner) -> Stream:
        self.patience.sent(0)
        stream = self.streams[number] = Stream(number, owner, self._first_window, self._rules.window)
        return stream

    def send_head(self, stream: Stream, block: bytes) -> None:
        """Say a header block that is not the last thing said."""
        self._say_head(stream, block, end=False)

    def send(self, stream: Stream, data: Said, ended: bool = False) -> None:  # noqa: FBT001, FBT002 - hot
        """Say a piece of a body, now or when there is room for it."""
        size = len(data)
        room = min(stream.window, self.window, frames.LARGEST)
        if size <= room and not self.choked and not stream.pending:
            self.patience.sent(size)
            self._send_piece(stream, data, size, ended)
            return
        if size:
            stream.pending.append(memoryview(data))
            stream.waiting += size
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
            if not stream.heard:
                self._expect_more(stream.number)
            self._say(frames.frame(frames.RESET, 0, stream.number, frames.NUMBER.pack(code)))

    def _expect_more(self, number: int) -> None:
        self._unheard[number] = None
        if len(self._unheard) > _MOST_UNHEARD:
            self._unheard.pop(next(iter(self._unheard)))

    def refuse(self, number: int) -> None:
        """Take no notice of a stream that a client began: it may begin it again elsewhere (section 8.7)."""
        self.patience.given_up()
        self._expect_more(number)
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

    def _say(self, said: bytes) -> None:
        if not self.out:
            self.wake()
        self.out.append(said)

    def _say_head(self, stream: Stream, block: bytes, *, end: bool) -> None:
        foreword, self._foreword = self._foreword, b""
        self._say(frames.head_frames(stream.number, foreword + block, end=end))

    def _pump_all(self) -> None:
        for stream in tuple(self._waiting.values()):
            if self.choked or self.window <= 0:
                return
            if self._waiting.pop(stream.number, None) is not None:
                self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        """Send of what waits what there is room for; who is sent least first waits longest."""
        pending, had = stream.pending, bool(stream.pending)
        while pending:
            if stream.window <= 0:
                # INVARIANT: who waits for its own window is not looked at for any other's: a peer may keep many so.
                self._waiting.pop(stream.number, None)
                return
            if self.choked or self.window <= 0:
                self._waiting[stream.number] = stream
                return
            room = min(stream.window, self.window, frames.LARGEST)
            piece = pending.popleft()
            if len(piece) <= room or room >= LITTLE:
                # What the peer has us cut to next to nothing is no reason to open a window again.
                self.patience.sent(min(len(piece), room))
            if len(piece) > room:
                pending.appendleft(piece[room:])
                piece = piece[:room]
            stream.waiting -= len(piece)
            self.moved = True
            ended = not pending and stream.last == b""
            self._send_piece(stream, piece, len(piece), ended)
            if ended:
                return
        self._waiting.pop(stream.number, None)
        if stream.last is not None and not stream.said:
            if stream.last:
                self._say_head(stream, stream.last, end=True)
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
        self.ended += 1
        if stream.heard:
            self._forget(stream)
        elif self._server:
            self.reset(stream, Code.NONE)

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.number, None)
        self._waiting.pop(stream.number, None)
        stream.pending.clear()
        stream.waiting = 0
        self.over()

    def forget_all(self) -> None:
        """Say nothing more on any stream."""
        self.streams.clear()
        self._waiting.clear()
