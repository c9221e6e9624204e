"""The client: one accepted connection, its requests answered one after the other.

Callbacks all the way; only a management request, which waits for the disk, is a task. Memory stays bounded: what
cannot be passed on is not read.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from typing import cast

from torchserve_guard.errors import BadRequest, Refusal, TooLarge, Unavailable, UpstreamFailed
from torchserve_guard.proxy import answer
from torchserve_guard.proxy.chunked import LAST_CHUNK, ChunkDecoder, chunk
from torchserve_guard.proxy.enforcement import Asked, Granted, Understood
from torchserve_guard.proxy.head import NO_REQUEST, RequestHead, ResponseHead
from torchserve_guard.proxy.passage import Passage
from torchserve_guard.proxy.upstream import WRITE_BUFFER, UpstreamConnection
from torchserve_guard.wire import is_json

# HEAD: between requests, or in a head. COLLECT: in a body that stays here. STREAM: in a body that goes upstream.
# BUSY: the request is whole, its answer is not. LINGER: answered, the rest is not listened to. CLOSING: flushing.
_HEAD, _COLLECT, _STREAM, _BUSY, _LINGER, _CLOSING = range(6)

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_RESET = struct.pack("ii", 1, 0)
_SHOWN = 512


class ClientConnection(asyncio.Protocol):
    """One connection from a client."""

    __slots__ = (
        "_begun", "_buffer", "_chunks", "_collected", "_decoder", "_gone", "_granted", "_known", "_left", "_loop",
        "_outgoing", "_passage", "_peer", "_pending", "_prefix", "_received", "_request", "_request_id", "_served",
        "_since", "_state", "_status", "_taken", "_transport", "_understood", "_upstream", "_waiter", "_write_paused",
    )  # fmt: skip

    def __init__(self, passage: Passage, loop: asyncio.AbstractEventLoop) -> None:
        self._passage = passage
        self._loop = loop
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._peer = ""
        self._prefix = b""
        self._served = 0
        self._state = _HEAD
        self._since = passage.tick
        self._buffer = b""
        self._taken = 0  # bytes in the write buffer at the last sweep
        self._write_paused = False
        self._gone = False
        self._request = NO_REQUEST
        self._known: tuple[bytes, RequestHead, Understood] | None = None
        self._request_id = b""
        self._understood: Understood | None = None
        self._decoder: ChunkDecoder | None = None
        self._left = 0
        self._received = 0
        self._collected: list[bytes] = []
        self._outgoing = b""
        self._pending: list[bytes] | None = None  # a body's pieces, while the upstream connection is being made
        self._upstream: UpstreamConnection | None = None
        self._begun = False
        self._chunks = False
        self._status = 0
        self._granted: Granted | None = None
        self._waiter: asyncio.Future[int | None] | None = None

    # --- the connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        self._peer = _peer(transport.get_extra_info("peername"))
        self._prefix = secrets.token_hex(12).encode()
        full = self._passage.is_full()
        self._passage.crowd.enter(self)
        if full:
            refusal = Unavailable("Too many connections.", rule="proxy.connections")
            self._refuse(refusal, quiet=not self._passage.first_this_tick())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Part from the upstream connection; a change that was forwarded is let end, so that its outcome is known."""
        self._gone = True
        self._passage.crowd.leave(self)
        self._buffer = b""
        self._collected.clear()
        if self._upstream is None:
            return
        if self._granted is not None and self._granted.operation.action.changes:
            self._upstream.resume()
            return
        self._part(clean=False)
        self._settle(None)

    def pause_writing(self) -> None:
        """Read no more of an answer than the client takes."""
        self._write_paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume_writing(self) -> None:
        """Read on."""
        self._write_paused = False
        if self._upstream is not None:
            self._upstream.resume()
        if self._state == _HEAD:
            self._next()

    def sweep(self) -> None:
        """Look at the clock, once a second: end what takes too long."""
        limits, waited = self._passage.limits, self._passage.tick - self._since
        if self._state == _HEAD and not self._write_paused:
            fresh = bool(self._buffer) or not self._served
            if waited > (limits.head_time if fresh else limits.idle_time):
                self._late()
        elif self._state == _LINGER and not self._transport.get_write_buffer_size():
            if waited > limits.linger_time:
                self._transport.abort()
        elif self._state in (_COLLECT, _STREAM) and not self._write_paused:
            if waited > limits.stall_time:
                self._late()
        elif self._state == _BUSY and not self._begun:
            if limits.answer_time is not None and waited > limits.answer_time and self._upstream is not None:
                self._part(clean=False)
                self.upstream_failed("it took too long", untouched=False)
        elif self._write_paused or self._state in (_LINGER, _CLOSING):
            self._sweep_writing(waited)

    def _sweep_writing(self, waited: int) -> None:
        taken = self._transport.get_write_buffer_size()
        if taken != self._taken:
            self._taken, self._since = taken, self._passage.tick
        elif waited > self._passage.limits.stall_time:
            self.cut()

    def _late(self) -> None:
        if self._state == _HEAD and not self._buffer:
            self._close()
        elif self._begun:
            self.cut()
        else:
            self._refuse(answer.RequestTimeout("The request did not arrive in time.", rule="proxy.time"), close=True)

    def drain(self) -> None:
        """End when the request in flight is answered, or at once when there is none."""
        if self._state == _HEAD and not self._buffer:
            self._close()

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._state in (_COLLECT, _STREAM, _BUSY)

    def cut(self) -> None:
        """End an answer that cannot be completed so that nobody takes it for whole: by a reset."""
        if self._upstream is not None:
            self._part(clean=False)
            self._settle(None)
        if not self._gone and (self._state in (_LINGER, _CLOSING) or not self._transport.is_closing()):
            _reset_on_close(self._transport)
            self._transport.abort()

    # --- a request ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read a request, or a part of one."""
        state = self._state
        if state == _HEAD and not self._write_paused:
            if self._buffer:
                data = self._buffer + data
            else:
                self._since = self._passage.tick
            self._read_head(data)
        elif state in (_COLLECT, _STREAM):
            self._read_body(data)
        elif state in (_BUSY, _HEAD):
            self._buffer += data
            self._transport.pause_reading()

    def _next(self) -> None:
        """Go on with what was sent ahead."""
        if self._state != _HEAD or self._gone or self._write_paused or self._transport.is_closing():
            return
        self._transport.resume_reading()
        data = self._buffer
        if data:
            self._buffer = b""
            self._since = self._passage.tick
            self._read_head(data)

    def _read_head(self, data: bytes) -> None:
        # INVARIANT: a head ends at its first empty line, so what begins with the bytes of the last head, its empty
        # line included, has that head; clients say the same again and again.
        known = self._known
        if known is None or not data.startswith(known[0]):
            try:
                known = self._read_new_head(data)
            except Refusal as refusal:
                self._refuse(refusal, close=self._request is NO_REQUEST)
                return
            if known is None:
                return
        head, request, understood = known
        self._buffer = data[len(head) :]
        self._identified(request)
        try:
            self._passage.permit(understood, request.authorization)
            if request.length or request.chunked:
                self._begin_body(request, understood)
                return
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._state = _BUSY
        if understood.managed:
            self._passage.crowd.run(self._manage(understood), self.cut)
        else:
            self._forward(understood.line, understood.bare, False)  # noqa: FBT003

    def _identified(self, request: RequestHead) -> None:
        self._request = request
        self._served += 1
        self._request_id = request.request_id or b"%b%08x" % (self._prefix, self._served)

    def _read_new_head(self, data: bytes) -> tuple[bytes, RequestHead, Understood] | None:
        """Return the head at the beginning of `data`, read and understood, or None when there is no whole one yet."""
        passage = self._passage
        self._request, self._request_id = NO_REQUEST, b""
        self._buffer = data
        end = data.find(b"\r\n\r\n", 0, passage.limits.head)
        if end < 0:
            passage.reader.verify_beginning(data)
            return None
        request = passage.reader.read(data[:end])
        self._buffer = data[end + 4 :]
        self._identified(request)
        understood = passage.enforcer.understand(passage.listener, request.method, request.target)
        self._known = data[: end + 4], request, understood
        self._served -= 1
        return self._known

    def _begin_body(self, request: RequestHead, understood: Understood) -> None:
        """Send a permitted request on its way, or begin to collect its body."""
        length = request.length
        limit = self._body_limit(understood)
        if limit is not None and length is not None and length > limit:
            raise TooLarge("The request body is too large.", rule="proxy.body-size")
        self._understood = understood
        self._received = 0
        self._left = length or 0
        self._decoder = ChunkDecoder() if request.chunked else None
        body, self._buffer = self._buffer, b""
        if request.expects and not body:
            self._transport.write(answer.CONTINUE)
        if not understood.takes_body:
            self._state = _COLLECT
        elif length is not None and len(body) >= length:
            self._state = _BUSY
            self._buffer = body[length:]
            framing = b"Content-Length: %d\r\n\r\n%b" % (length, body[:length])
            self._forward(understood.line, framing, False)  # noqa: FBT003
            return
        else:
            self._state = _STREAM
            framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
            self._forward(understood.line, b"%b\r\n\r\n" % framing, True)  # noqa: FBT003
        if body:
            self._read_body(body)

    def _body_limit(self, understood: Understood) -> int | None:
        limits = self._passage.limits
        return limits.body if understood.takes_body else limits.management_body

    def _read_body(self, data: bytes) -> None:
        """Read a part of the body; where it goes, the state says."""
        self._since = self._passage.tick
        try:
            payload, done = self._payload(data)
        except Refusal as refusal:
            self._abandon(refusal)
            return
        if self._state == _COLLECT:
            self._collected.append(payload)
            if done:
                self._state = _BUSY
                self._proceed()
            return
        if self._decoder is not None:
            payload = (chunk(payload) if payload else b"") + (LAST_CHUNK if done else b"")
        if done:
            self._state = _BUSY
        if self._pending is not None:
            self._pending.append(payload)
        elif self._upstream is not None and payload:
            self._upstream.send(payload)

    def _payload(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of `data` is payload of the body, and whether it was the last; keep what is behind it."""
        if self._decoder is None:
            payload = data if len(data) <= self._left else data[: self._left]
            self._left -= len(payload)
            done, rest = not self._left, data[len(payload) :]
        else:
            try:
                payload = self._decoder.feed(data)
            except ValueError as error:
                raise BadRequest("The request body is malformed.", reason=str(error), rule="proxy.chunks") from error
            done, rest = self._decoder.done, self._decoder.rest
            self._received += len(payload)
            limit = self._body_limit(cast("Understood", self._understood))
            if limit is not None and self._received > limit:
                raise TooLarge("The request body is too large.", rule="proxy.body-size")
        if rest:
            self._buffer = rest
            self._transport.pause_reading()
        return payload, done

    def _abandon(self, refusal: Refusal) -> None:
        """End a request in the middle of its body."""
        if self._begun:
            self.cut()
        else:
            self._refuse(refusal, close=True)

    def _proceed(self) -> None:
        """Go on with a request whose body, if it has one, stays here."""
        understood = cast("Understood", self._understood)
        if understood.managed:
            self._passage.crowd.run(self._manage(understood), self.cut)
        else:
            self._collected.clear()
            self._forward(understood.line, understood.bare, False)  # noqa: FBT003

    # --- a management request -----------------------------------------------------------------------------------

    async def _manage(self, understood: Understood) -> None:
        """Have a management request decided and recorded, then done, then its outcome recorded."""
        enforcer = self._passage.enforcer
        body = b"".join(self._collected)
        self._collected.clear()
        json_body = body if body and understood.takes_json and is_json(self._request.content_type) else None
        asked = self._asked()
        try:
            granted = await enforcer.manage(asked, understood, json_body)
        except Refusal as refusal:
            self._refuse(refusal)
            return
        status = await self._done(granted)
        await enforcer.outcome(granted, status)

    async def _done(self, granted: Granted) -> int | None:
        """Forward a granted request, or answer what the guard did itself; return the status when it is over."""
        if granted.line is None:
            self._passage.counts.served += 1
            self._write(answer.own(200, self._request_id, self._connection_line(), head_only=False))
            self._over()
            return 200
        if self._gone:
            return None
        self._granted = granted
        self._waiter = self._loop.create_future()
        self._forward(granted.line, b"Content-Length: 0\r\n\r\n", False)  # noqa: FBT003
        return await self._waiter

    def _settle(self, status: int | None) -> None:
        """Tell whoever waits how a management request ended."""
        waiter, self._waiter, self._granted = self._waiter, None, None
        if waiter is not None and not waiter.done():
            waiter.set_result(status)

    # --- upstream -----------------------------------------------------------------------------------------------

    def _forward(self, line: bytes, rest: bytes, streams: bool) -> None:  # noqa: FBT001 - hot
        """Send the head of a request, which is ours from the first byte to the last, and what of its body there is."""
        passage, request = self._passage, self._request
        outgoing = b"".join(
            (line, passage.credentials, b"X-Request-Id: ", self._request_id, b"\r\n", *request.passed, rest)
        )
        self._begun = False
        upstream = passage.upstream.take()
        if upstream is None:
            self._open(outgoing, streams=streams)
            return
        self._outgoing = outgoing
        self._upstream = upstream
        upstream.ask(self, outgoing, request.method == "HEAD", streams)

    def _open(self, outgoing: bytes, *, streams: bool) -> None:
        """Make a connection, then send; meanwhile nothing more of a body is read."""
        self._pending = [outgoing]
        if streams:
            self._transport.pause_reading()
        self._passage.crowd.run(self._connect(streams=streams), self.cut)

    async def _connect(self, *, streams: bool) -> None:
        try:
            upstream = await self._passage.upstream.connect()
        except UpstreamFailed as failure:
            self._pending = None
            self._unanswered(failure)
            return
        pending, self._pending = self._pending, None
        changes = self._granted is not None and self._granted.operation.action.changes
        if pending is None or self._state not in (_STREAM, _BUSY) or (self._gone and not changes):
            self._settle(None)
            upstream.release(False)  # noqa: FBT003
            return
        self._outgoing = b"".join(pending)
        self._upstream = upstream
        if streams and not self._buffer:
            self._transport.resume_reading()
        upstream.ask(self, self._outgoing, self._request.method == "HEAD", streams)

    def upstream_full(self, *, full: bool) -> None:
        """Stop reading the body, or go on."""
        if full:
            self._transport.pause_reading()
        elif not self._buffer:
            self._transport.resume_reading()

    def upstream_failed(self, why: str, *, untouched: bool) -> None:
        """Answer with 502 when nothing was said yet, else cut the connection; send once more what may be."""
        self._upstream = None
        request = self._request
        if untouched and not self._gone and request.method in _SAFE and not request.has_body:
            self._open(self._outgoing, streams=False)
        else:
            self._unanswered(UpstreamFailed("TorchServe did not answer.", reason=why, rule="proxy.upstream"))

    def _unanswered(self, failure: UpstreamFailed) -> None:
        self._passage.counts.upstream_failures += 1
        self._settle(None)
        if self._gone:
            return
        if self._begun:
            self.cut()
        else:
            self._refuse(failure)

    def _part(self, *, clean: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release(clean)

    # --- an answer ----------------------------------------------------------------------------------------------

    def answer_whole(self, head: ResponseHead, body: bytes) -> None:
        """Send an answer on, in one write."""
        request = self._request
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release(self._state == _BUSY)
        if not self._gone and not self._transport.is_closing():
            line = self._connection_line()
            self._transport.write(answer.whole(head, self._request_id, line, body, request.method == "HEAD"))
        self._answered(head.status)

    def answer_begun(self, head: ResponseHead) -> None:
        """Send the head of an answer on, and get ready for its body."""
        self._begun = True
        self._status = head.status
        request = self._request
        self._chunks = head.length is None and request.minor == 1
        if self._closes() or (head.length is None and not self._chunks):
            self._request = request._replace(keep_alive=False)
        if head.length is not None:
            framing = b"Content-Length: %d\r\n" % head.length
        else:
            framing = b"Transfer-Encoding: chunked\r\n" if self._chunks else b""
        if not self._gone:
            self._write(answer.begun(head, self._request_id, framing, self._connection_line()))

    def answer_piece(self, payload: bytes) -> None:
        """Send a piece of the body on."""
        if not self._gone:
            self._write(chunk(payload) if self._chunks else payload)

    def answer_ended(self) -> None:
        """End the answer."""
        self._part(clean=self._state == _BUSY)
        if self._chunks and not self._gone:
            self._write(LAST_CHUNK)
        self._answered(self._status)

    def _answered(self, status: int) -> None:
        self._passage.counts.served += 1
        if self._waiter is not None:
            self._settle(status)
        self._over()

    def _over(self) -> None:
        """Get ready for the next request, or close."""
        if self._gone:
            return
        self._begun = False
        if self._state == _STREAM:
            self._linger()
        elif self._closes():
            self._close()
        else:
            self._state = _HEAD
            self._since = self._passage.tick
            if self._buffer:
                self._loop.call_soon(self._next)
            else:
                self._transport.resume_reading()

    def _closes(self) -> bool:
        """Whether this answer is the last on this connection."""
        return not self._request.keep_alive or self._state == _STREAM or self._passage.closing

    def _connection_line(self) -> bytes:
        return answer.connection_line(self._request.minor, self._closes())

    def _close(self) -> None:
        """Close after what is written was taken."""
        self._state = _CLOSING
        self._since = self._passage.tick
        self._transport.close()

    def _linger(self) -> None:
        """Close so that the client sees the answer: a close with bytes unread would be a reset (RFC 9112 9.6)."""
        self._state = _LINGER
        self._since = self._passage.tick
        self._buffer = b""
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._transport.write_eof()

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    # --- a refusal ----------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal, *, close: bool = False, quiet: bool = False) -> None:
        """Record a refusal and answer with it; `quiet` when the same was recorded a moment ago."""
        asked = self._asked()
        if not quiet:
            refusal = self._passage.enforcer.turned_away(asked, refusal)
        self._passage.counts.refused += 1
        self._part(clean=False)
        if self._gone:
            return
        whole = self._skip_body()
        # Whoever says what cannot be understood may mean by the next bytes what it will (a tunnel, HTTP/2).
        close = close or not whole or refusal.status == BadRequest.status or self._closes()
        line = answer.connection_line(self._request.minor, close)
        self._write(answer.refused(refusal, self._request_id or self._prefix, line, head_only=asked.method == "HEAD"))
        if close:
            self._linger()
        else:
            self._over()

    def _skip_body(self) -> bool:
        """Return whether the refused request is whole; then what is left in the buffer is the next one."""
        request = self._request
        if request is NO_REQUEST or self._state in (_COLLECT, _STREAM):
            return False
        if self._state == _BUSY or not request.has_body:
            return True
        if request.length is None or len(self._buffer) < request.length:
            return False
        self._buffer = self._buffer[request.length :]
        return True

    def _asked(self) -> Asked:
        """Return the request as the record names it; of one that could not be read, its beginning."""
        request = self._request
        listener = self._passage.listener
        if request is NO_REQUEST:
            beginning = self._buffer[:_SHOWN].split(b"\r\n", 1)[0]
            return Asked(listener, self._peer, "", beginning, self._request_id or self._prefix, None)
        return Asked(listener, self._peer, request.method, request.target, self._request_id, request.authorization)


def _peer(name: object) -> str:
    """Return the peer's address and port; a unix socket's peer has none."""
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix"


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Have the kernel send a reset in place of an end (SO_LINGER with 0, socket(7)); a unix socket knows none."""
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=descriptor) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
