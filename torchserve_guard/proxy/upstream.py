"""The upstream: kept-alive connections to one address of TorchServe, each with one request at a time.

# INVARIANT: a connection goes back to the pool only after a whole answer to a whole request, framed by length or
# chunks, below 400, and with nothing behind it. TorchServe resets after 400 and above (hazard H58).
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Protocol, cast

from torchserve_guard.errors import UpstreamFailed
from torchserve_guard.proxy.address import Address
from torchserve_guard.proxy.answer_head import ResponseHead, ResponseReader
from torchserve_guard.proxy.chunked import ChunkDecoder
from torchserve_guard.proxy.limits import Limits

_LONGEST_HEAD = 64 * 1024
_MOST_INTERIM = 8
_SALVAGED = 256 * 1024
WRITE_BUFFER = 256 * 1024
# What a handler sends as one piece arrives as one chunk: TorchServe's own streaming clients read one object from each.
_WHOLE_CHUNK = 64 * 1024

_IDLE, _HEAD, _LENGTH, _CHUNKED, _TO_THE_END = range(5)


class Asker(Protocol):
    """Whoever sent a request upstream, and is told what comes back."""

    def answer_whole(self, head: ResponseHead, body: bytes) -> None:
        """Take a whole answer at once."""

    def answer_begun(self, head: ResponseHead) -> None:
        """Take the head of an answer whose body follows in pieces."""

    def answer_piece(self, payload: bytes) -> None:
        """Take a piece of the body."""

    def answer_ended(self) -> None:
        """Take note that the body is whole."""

    def upstream_failed(self, why: str, *, untouched: bool) -> None:
        """Take note that no more comes; `untouched` when a kept connection was dead before its first byte."""

    def upstream_full(self, *, full: bool) -> None:
        """Stop sending the body, or go on."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to TorchServe."""

    __slots__ = (
        "_asker", "_body_from", "_decoder", "_head_only", "_held", "_interim", "_keep_alive", "_left", "_pool",
        "_spare", "_state", "_transport", "reused", "since",
    )  # fmt: skip

    def __init__(self, pool: Upstream) -> None:
        self._pool = pool
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._asker: Asker | None = None
        self._state = _IDLE
        self._held = b""
        self._left = 0
        self._interim = 0
        self._decoder: ChunkDecoder | None = None
        self._head_only = False
        self._keep_alive = False
        self._spare = -1
        self.reused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        self._pool.opened.add(self)

    def ask(self, asker: Asker, request: bytes, head_only: bool, streams: bool) -> None:  # noqa: FBT001 - hot
        """Send a request, whole or (`streams`) as far as it has come; `head_only` when it is a HEAD."""
        self._asker = asker
        self._state = _HEAD
        self._head_only = head_only
        self._transport.write(request)
        if streams:
            # A peer may answer early and close; the failing write would then discard its answer unread.
            self._spare = os.dup(self._transport.get_extra_info("socket").fileno())
            _widen(self._spare)

    def send(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def cut(self) -> None:
        """Close at once; the asker is told."""
        self._transport.abort()

    def release(self, clean: bool) -> None:  # noqa: FBT001 - hot
        """Part from the asker: back to the pool when `clean` and the answer permits it, else closed at once."""
        self._asker = None
        self._state = _IDLE
        if self._spare >= 0:
            self._drop_spare()
            clean = clean and not self._transport.get_write_buffer_size()
        if clean and self._keep_alive and not self._held and not self._transport.is_closing():
            self._transport.resume_reading()
            self._pool.keep(self)
        else:
            self._transport.abort()

    def pause(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Tell the asker that the buffer is full."""
        if self._asker is not None:
            self._asker.upstream_full(full=True)

    def resume_writing(self) -> None:
        """Tell the asker that the buffer has room."""
        if self._asker is not None:
            self._asker.upstream_full(full=False)

    def data_received(self, data: bytes) -> None:
        """Read an answer, or a part of one."""
        asker = self._asker
        if asker is None:
            self._transport.abort()
            return
        try:
            if self._state == _HEAD:
                self._read_head(asker, data)
            else:
                self._read_body(asker, data)
        except ValueError as error:
            self._fail(f"the answer cannot be read: {error}")

    def _read_head(self, asker: Asker, data: bytes) -> None:
        if self._held:
            data = self._held + data
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD)
        if end < 0:
            if len(data) >= _LONGEST_HEAD:
                raise ValueError("its head is too long")
            self._held = data
            return
        self._held = b""
        head = self._pool.reader.read(data[:end])
        status, length = head.status, head.length
        if status < 200:  # noqa: PLR2004 - RFC 9110 section 15.2
            self._read_interim(asker, head, data[end + 4 :])
            return
        self._interim = 0
        end += 4
        self._keep_alive = head.keep_alive and status < 400  # noqa: PLR2004
        if self._head_only or status in (204, 304) or length == 0:
            self._held = data[end:]
            asker.answer_whole(head, b"")
        elif length is not None and len(data) - end >= length:
            self._held = data[end + length :]
            asker.answer_whole(head, data[end : end + length])
        else:
            self._begin(asker, head, data[end:])

    def _read_interim(self, asker: Asker, head: ResponseHead, rest: bytes) -> None:
        """Pass over an interim answer; nothing was sent that asks for one, and 101 would change the protocol."""
        self._interim += 1
        if head.status == 101 or self._interim > _MOST_INTERIM:  # noqa: PLR2004
            raise ValueError("it is an interim answer that was not asked for")
        if rest:
            self._read_head(asker, rest)

    def _begin(self, asker: Asker, head: ResponseHead, rest: bytes) -> None:
        if head.chunked:
            self._state, self._decoder = _CHUNKED, ChunkDecoder(_WHOLE_CHUNK)
        elif head.length is not None:
            self._state, self._left = _LENGTH, head.length
        else:
            self._state, self._keep_alive = _TO_THE_END, False
        asker.answer_begun(head)
        if rest and self._asker is asker:
            self._read_body(asker, rest)

    def _read_body(self, asker: Asker, data: bytes) -> None:
        if self._state == _LENGTH:
            left = self._left = self._left - len(data)
            if left < 0:
                self._held = data[left:]
                data = data[:left]
            asker.answer_piece(data)
            ended = left <= 0
        elif self._decoder is not None:
            decoder = self._decoder
            for piece in decoder.pieces(data):
                asker.answer_piece(piece)
            ended = decoder.done
            if ended:
                self._held, self._decoder = decoder.rest, None
        else:
            asker.answer_piece(data)
            ended = False
        if ended and self._asker is asker:
            asker.answer_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool; tell the asker when it waits for more."""
        self._pool.lost(self)
        if self._asker is not None and self._spare >= 0 and exc is not None:
            self._salvage()
        self._drop_spare()
        asker = self._asker
        if asker is None:
            return
        if self._state == _TO_THE_END and exc is None:
            asker.answer_ended()
        else:
            self._fail("it hung up" if exc is None else f"it hung up: {exc}")

    def _salvage(self) -> None:
        """Read what had come before the write failed."""
        with socket.socket(fileno=self._spare) as spare:
            self._spare = -1
            spare.settimeout(0)
            try:
                data = spare.recv(_SALVAGED)
            except OSError:
                return
        if data:
            self.data_received(data)

    def _drop_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _fail(self, why: str) -> None:
        asker, self._asker = self._asker, None
        untouched = self.reused and self._state == _HEAD and not self._held and not self._interim
        self._transport.abort()
        if asker is not None:
            asker.upstream_failed(why, untouched=untouched)


def _widen(descriptor: int) -> None:
    """Have the kernel take what is read at once in one piece too; a unix socket's own buffer is a little smaller."""
    peer = socket.socket(fileno=descriptor)
    try:
        if peer.family == socket.AF_UNIX:  # TCP finds its size itself, unless told one
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WRITE_BUFFER)
    finally:
        peer.detach()


class Upstream:
    """The pool of connections to one address: `unix:PATH` or `http://HOST:PORT`."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.reader = ResponseReader()
        self.opened: set[UpstreamConnection] = set()
        self._most_idle = limits.idle_upstream
        self._connect_time = limits.connect_time
        self._idle: dict[UpstreamConnection, None] = {}

    def take(self) -> UpstreamConnection | None:
        """Return a kept connection, the one used last, or None when there is none."""
        if not self._idle:
            return None
        connection, _ = self._idle.popitem()
        connection.reused = True
        return connection

    async def connect(self) -> UpstreamConnection:
        """Return a new connection. Raises `UpstreamFailed`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_time):
                _, connection = await self.address.connect(loop, lambda: UpstreamConnection(self))
        except OSError as error:  # a TimeoutError is one
            raise UpstreamFailed("TorchServe cannot be reached.", reason=f"{self.address}: {error}") from error
        return connection

    def keep(self, connection: UpstreamConnection) -> None:
        """Take a connection back, to be used again."""
        if len(self._idle) < self._most_idle:
            self._idle[connection] = None
        else:
            connection.release(False)  # noqa: FBT003

    def lost(self, connection: UpstreamConnection) -> None:
        """Forget a connection that is no more: an idle one that TorchServe closed is not taken again."""
        self._idle.pop(connection, None)
        self.opened.discard(connection)

    def cut(self) -> None:
        """Close every connection at once; whoever waits on one is told."""
        self._most_idle = 0
        for connection in tuple(self.opened):
            connection.cut()
