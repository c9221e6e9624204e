"""The client: one accepted connection, its requests read and answered one after the other.

Callbacks all the way; only a management request, which waits for the disk, is a task. Memory stays bounded: what
cannot be passed on is not read.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from time import monotonic
from typing import cast

from torchserve_guard.errors import BadRequest, Refusal, TooLarge
from torchserve_guard.identity import Certificate, read_certificate
from torchserve_guard.proxy import answer
from torchserve_guard.proxy.chunked import LAST_CHUNK, ChunkDecoder, chunk
from torchserve_guard.proxy.enforcement import Granted, Understood
from torchserve_guard.proxy.exchange import BUSY, CLOSING, COLLECT, HEAD, LINGER, STREAM, Exchange
from torchserve_guard.proxy.head import NO_REQUEST, RequestHead
from torchserve_guard.proxy.passage import Way
from torchserve_guard.proxy.sources import source_of
from torchserve_guard.proxy.turns import waited_too_long
from torchserve_guard.proxy.upstream import WRITE_BUFFER
from torchserve_guard.wire import is_json

_LONGEST_KNOWN = 2048
_MOST_STEPS = 1500
"""Lines and chunks of a body that are read in one turn of the loop, some two milliseconds: others wait meanwhile."""
PREFIX_BYTES, SPAN_DIGITS = 12, 16
_MOST_NUMBERED = 0xF000_0000  # eight digits number the requests of a connection


class ClientConnection(Exchange):
    """One connection from a client."""

    __slots__ = ()

    # --- the connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        name = transport.get_extra_info("peername")
        self._peer, self._source = peer_of(name), source_of(name)
        self._certificate = _certificate(transport.get_extra_info("ssl_object"))
        self._prefix = secrets.token_hex(PREFIX_BYTES).encode()
        self._span = b"-%b-00\r\n" % self._prefix[:SPAN_DIGITS]
        refusal = self._passage.refusal(self._source)
        self._passage.enter(self._source)
        self._passage.crowd.enter(self)
        if refusal is not None:
            self._refuse(refusal, quiet=not self._passage.first_this_tick())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Part from the upstream connection; a change that was forwarded is let end, so that its outcome is known."""
        self._gone = True
        self._passage.leave(self._source)
        self._passage.crowd.leave(self)
        self._buffer = b""
        self._collected.clear()
        self._cut_short("client-gone")
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
        self._since, self._taken = self._passage.tick, self._transport.get_write_buffer_size()
        if self._upstream is not None:
            self._upstream.pause()

    def resume_writing(self) -> None:
        """Read on."""
        self._write_paused = False
        if self._upstream is not None:
            self._upstream.resume()
        if self._state == HEAD:
            self._next()

    def sweep(self) -> None:
        """Look at the clock, once a second: end what takes too long."""
        limits, waited = self._passage.limits, self._passage.tick - self._since
        if self._state == HEAD and not self._write_paused:
            self._sweep_idle(waited)
        elif self._waits and waited > limits.queue_time:
            self._refuse(waited_too_long())
        elif self._state == LINGER and not self._transport.get_write_buffer_size():
            if waited > limits.linger_time:
                self._transport.abort()
        elif self._state in (COLLECT, STREAM) and not self._write_paused:
            if waited > limits.stall_time and not self._held_back and not self._waits:
                self._late()
        elif self._state == BUSY and not self._begun:
            if limits.answer_time is not None and waited > limits.answer_time and self._upstream is not None:
                self._part(clean=False)
                self.upstream_failed("it took too long", untouched=False)
        elif self._write_paused or self._state in (LINGER, CLOSING):
            self._sweep_writing(waited)

    def _sweep_idle(self, waited: float) -> None:
        fresh = bool(self._buffer) or not self._served
        if waited > (self._passage.head_time if fresh else self._passage.idle_time):
            self._late()
        elif self._served > _MOST_NUMBERED:
            self._prefix, self._served = secrets.token_hex(PREFIX_BYTES).encode(), 1

    def _sweep_writing(self, waited: float) -> None:
        taken = self._transport.get_write_buffer_size()
        if taken != self._taken:
            self._spend(abs(taken - self._taken))
            self._taken = taken
        elif self._state == CLOSING and not taken:
            self._transport.abort()  # over TLS: all is said, and the client's own close_notify is not waited for
        elif waited > self._passage.limits.stall_time:
            self.cut()

    def _spend(self, count: int) -> None:
        """Let a client have the time that so many bytes are worth."""
        self._since = min(self._since + count * self._passage.worth, self._passage.tick)

    def _late(self) -> None:
        if self._state == HEAD and not self._buffer:
            self._close()
        elif self._begun:
            self.cut()
        else:
            self._refuse(answer.RequestTimeout("The request did not arrive in time.", rule="proxy.time"), close=True)

    def drain(self) -> None:
        """End when the request in flight is answered, or at once when there is none."""
        if self._state == HEAD and not self._buffer:
            self._close()

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""
        return self._state in (COLLECT, STREAM, BUSY)

    # --- a request ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read a request, or a part of one."""
        state = self._state
        if state == HEAD and not self._write_paused:
            if self._buffer:
                data = self._buffer + data
            else:
                self._since = self._passage.tick
            self._read_head(data)
        elif state in (COLLECT, STREAM):
            self._read_body(data)
        elif state in (BUSY, HEAD):
            self._buffer += data
            self._transport.pause_reading()

    def _next(self) -> None:
        """Go on with what was sent ahead."""
        if self._state != HEAD or self._gone or self._write_paused or self._transport.is_closing():
            return
        data = self._buffer
        # INVARIANT: while a whole request waits here nothing more is read, or who asks without end fills the memory.
        if b"\r\n\r\n" not in data:
            self._transport.resume_reading()
        if data:
            self._buffer = b""
            self._since = self._passage.tick
            self._read_head(data)
            if self._state == BUSY and not self._buffer:
                self._transport.resume_reading()  # so that it is seen when the client goes

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
        head, request, understood, self._way = known
        self._buffer = data[len(head) :]
        self._identified(request)
        try:
            if self._certificate is not None:
                # INVARIANT: a browser shows its user's certificate to whatever page asks; only a page's request has an
                # Origin (Fetch, 3.1), and all that change something have it. A page can show no key unasked.
                self._vouched = None if b"\norigin:" in head.lower() else self._certificate
            self._understood = understood
            self._principal = self._passage.permit(understood, request.authorization, self._vouched).name
            if self._passage.turns is not None:
                self._take_turn(self._passage.turns, understood.operation)
            if request.length or request.chunked:
                self._begin_body(request, understood)
                return
        except Refusal as refusal:
            self._refuse(refusal)
            return
        self._state = BUSY
        if understood.managed:
            self._passage.crowd.run(self._manage(understood), self.cut)
        else:
            self._forward(understood.line, understood.bare, False)  # noqa: FBT003

    def _identified(self, request: RequestHead) -> None:
        self._request = request
        self._served += 1
        made = b"%b%08x" % (self._prefix, self._served)
        self._request_id = request.request_id or made
        self._trace = request.trace or made
        self._began = monotonic()
        self._principal = ""
        self._received = 0

    def _read_new_head(self, data: bytes) -> tuple[bytes, RequestHead, Understood, Way] | None:
        """Return the head at the beginning of `data`, read and understood, or None when there is no whole one yet."""
        passage = self._passage
        self._request, self._request_id, self._understood = NO_REQUEST, b"", None
        # Nothing of the request before is said of what cannot be read.
        self._principal, self._received, self._vouched = "", 0, None
        self._buffer = data
        end = data.find(b"\r\n\r\n", 0, passage.limits.head)
        if end < 0:
            passage.ways[0].reader.verify_beginning(data)
            return None
        way = self._way = passage.way_for(data[:end])
        request = way.reader.read(data[:end])
        self._buffer = data[end + 4 :]
        self._identified(request)
        understood = passage.enforcer.understand(way.listener, request.method, request.target)
        self._served -= 1
        known = data[: end + 4], request, understood, way
        self._known = known if end <= _LONGEST_KNOWN else None
        return known

    def _begin_body(self, request: RequestHead, understood: Understood) -> None:
        """Send a permitted request on its way, or begin to collect its body."""
        length = request.length
        limit = self._body_limit(understood)
        if limit is not None and length is not None and length > limit:
            raise TooLarge("The request body is too large.", rule="proxy.body-size")
        self._since = self._passage.tick
        self._left = length or 0
        self._held_back = False
        self._decoder = ChunkDecoder(most=_MOST_STEPS) if request.chunked else None
        body, self._buffer = self._buffer, b""
        if length is None or len(body) < length:
            self._transport.resume_reading()
        if request.expects and not body:
            self._transport.write(answer.CONTINUE)
        if not understood.takes_body:
            self._state = COLLECT
        elif length is not None and len(body) >= length:
            self._state = BUSY
            self._buffer = body[length:]
            self._received = length
            framing = b"Content-Length: %d\r\n\r\n%b" % (length, body[:length])
            self._forward(understood.line, framing, False)  # noqa: FBT003
            return
        else:
            self._state = STREAM
            framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
            self._forward(understood.line, b"%b\r\n\r\n" % framing, True)  # noqa: FBT003
        if body:
            self._read_body(body)

    def _body_limit(self, understood: Understood) -> int | None:
        limits = self._passage.limits
        return limits.body if understood.takes_body else limits.management_body

    def _read_body(self, data: bytes) -> None:
        """Read a part of the body; where it goes, the state says."""
        self._spend(len(data))
        try:
            payload, done = self._payload(data)
        except Refusal as refusal:
            self._abandon(refusal)
            return
        if self._state == COLLECT:
            if cast("Understood", self._understood).takes_json:
                self._collected += payload
            if done:
                self._state = BUSY
                self._proceed()
            return
        if done:
            self._state = BUSY
        if payload:
            self._send(chunk(payload) if self._decoder is not None else (payload,))
        if done and self._decoder is not None:
            self._send((LAST_CHUNK,))

    def _send(self, parts: tuple[bytes, ...]) -> None:
        """Send parts of a body upstream, or keep them until there is a connection."""
        if self._pending is not None:
            self._pending.extend(parts)
        elif self._upstream is not None:
            for part in parts:
                self._upstream.send(part)

    def _payload(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of `data` is payload of the body, and whether it was the last; keep what is behind it."""
        if self._decoder is None:
            payload = data if len(data) <= self._left else data[: self._left]
            self._left -= len(payload)
            self._received += len(payload)
            done, rest = not self._left, data[len(payload) :]
        else:
            try:
                payload = self._decoder.feed(data)
            except ValueError as error:
                raise BadRequest("The request body is malformed.", reason=str(error), rule="proxy.chunks") from error
            done, rest = self._decoder.done, self._decoder.rest
            if self._decoder.more:
                self._transport.pause_reading()
                self._loop.call_soon(self._read_on)
            self._received += len(payload)
            limit = self._body_limit(cast("Understood", self._understood))
            if limit is not None and self._received > limit:
                raise TooLarge("The request body is too large.", rule="proxy.body-size")
        if rest:
            self._buffer = rest
            self._transport.pause_reading()
        return payload, done

    def _read_on(self) -> None:
        """Go on with what was read of a body, or read more of it, unless something else holds it back."""
        if self._gone or self._held_back or self._pending is not None or self._transport.is_closing():
            return
        if self._state in (COLLECT, STREAM) and self._decoder is not None and self._decoder.more:
            self._read_body(b"")
            if self._decoder.more or self._held_back:
                return
        if not self._buffer:
            self._transport.resume_reading()

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
        body = bytes(self._collected)
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
            self._end(200, 0)
            self._over()
            return 200
        if self._gone:
            return None
        self._granted = granted
        self._waiter = self._loop.create_future()
        self._forward(granted.line, b"Content-Length: 0\r\n\r\n", False)  # noqa: FBT003
        try:
            # Nobody sweeps a connection whose client is gone, and a change is waited for all the same.
            async with asyncio.timeout(self._passage.limits.answer_time):
                return await self._waiter
        except TimeoutError:
            self._part(clean=False)
            self.upstream_failed("it took too long", untouched=False)
            return None


def _certificate(tls: ssl.SSLObject | None) -> Certificate | None:
    """Return the client certificate that the handshake verified, None when there is none."""
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return read_certificate(der) if der else None


def peer_of(name: object) -> str:
    """Return the peer's address and port; a unix socket's peer has none.

    Nor has one that hung up before it was let in (ENOTCONN): its bytes are there all the same, and it is no local one.
    """
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix" if name is not None else "gone"
