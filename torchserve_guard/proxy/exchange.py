"""The exchange: one request on its way to TorchServe, and the answer or the refusal on its way back.

What goes upstream is ours from the first byte to the last, what comes back is framed anew. An answer that could not
be completed is cut so that nobody takes it for whole.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from time import monotonic
from typing import cast

from torchserve_guard.access import INFERENCE, Operation
from torchserve_guard.errors import BadRequest, Refusal, UpstreamFailed
from torchserve_guard.identity import Certificate
from torchserve_guard.proxy import answer
from torchserve_guard.proxy.answer_head import ResponseHead
from torchserve_guard.proxy.chunked import LAST_CHUNK, ChunkDecoder, chunk
from torchserve_guard.proxy.enforcement import Asked, Granted, Understood
from torchserve_guard.proxy.head import NO_REQUEST, RequestHead
from torchserve_guard.proxy.passage import Passage, Way
from torchserve_guard.proxy.sources import Source
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.proxy.upstream import UpstreamConnection

# HEAD: between requests, or in a head. COLLECT: in a body that stays here. STREAM: in a body that goes upstream.
# BUSY: the request is whole, its answer is not. LINGER: answered, the rest is not listened to. CLOSING: flushing.
HEAD, COLLECT, STREAM, BUSY, LINGER, CLOSING = range(6)

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_RESET = struct.pack("ii", 1, 0)
_SHOWN = 512
CLIENT_GONE = 499
_TRACED = b"\r\ntraceparent: 00-"
_NOT_TRACED = b"\r\n", b"", b""
_REQUEST_LINE = re.compile(rb"[A-Za-z]{1,20} \S*")


class Exchange(asyncio.Protocol):
    """The way to TorchServe and back of one client connection, one request at a time."""

    __slots__ = (
        "_began", "_begun", "_buffer", "_certificate", "_chunks", "_collected", "_decoder", "_gone", "_granted",
        "_held_back", "_known", "_left", "_loop", "_outgoing", "_passage", "_peer", "_pending", "_prefix", "_principal",
        "_received", "_request", "_request_id", "_sent", "_served", "_since", "_source", "_span", "_state", "_status",
        "_taken", "_trace", "_transport", "_turn", "_understood", "_upstream", "_vouched", "_waiter", "_waits", "_way",
        "_write_paused",
    )  # fmt: skip

    def __init__(self, passage: Passage, loop: asyncio.AbstractEventLoop) -> None:
        self._passage = passage
        self._way = passage.ways[0]  # that of the request at hand
        self._loop = loop
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._peer = ""
        self._source: Source | None = None
        self._certificate: Certificate | None = None
        self._vouched: Certificate | None = None  # the same, when it stands for the request at hand
        self._prefix = b""
        self._served = 0
        self._state = HEAD
        self._since: float = passage.tick
        self._buffer = b""
        self._taken = 0  # bytes in the write buffer at the last sweep
        self._write_paused = False
        self._gone = False
        self._request = NO_REQUEST
        self._known: tuple[bytes, RequestHead, Understood, Way] | None = None
        self._request_id = b""
        self._trace = b""
        self._span = b""  # behind the id of a trace that begins here
        self._principal = ""
        self._began = 0.0  # when the request at hand did; 0 between requests
        self._sent = 0
        self._turn: str | None = None  # the model whose turn this is, or is waited for
        self._waits = False
        self._held_back = False  # by TorchServe, which takes no more
        self._understood: Understood | None = None
        self._decoder: ChunkDecoder | None = None
        self._left = 0
        self._received = 0
        self._collected = bytearray()
        self._outgoing = b""
        self._pending: list[bytes] | None = None  # a body's pieces, while the upstream connection is being made
        self._upstream: UpstreamConnection | None = None
        self._begun = False
        self._chunks = False
        self._status = 0
        self._granted: Granted | None = None
        self._waiter: asyncio.Future[int | None] | None = None

    # --- upstream -----------------------------------------------------------------------------------------------

    def _forward(self, line: bytes, rest: bytes, streams: bool) -> None:  # noqa: FBT001 - hot
        """Send the head of a request, which is ours from the first byte to the last, and what of its body there is."""
        way, request = self._way, self._request
        # A trace that begins here has an id of its own; one that the client named is among what passes.
        traced, trace, span = (_TRACED, self._trace, self._span) if request.trace is None else _NOT_TRACED
        outgoing = b"".join(
            (line, way.credentials, b"X-Request-Id: ", self._request_id, traced, trace, span, *request.passed, rest)
        )
        self._begun = False
        if self._waits:
            self._pending = [outgoing]
            if streams:
                self._transport.pause_reading()
            return
        upstream = way.upstream.take()
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
            upstream = await self._way.upstream.connect()
        except UpstreamFailed as failure:
            self._pending = None
            if self._state in (STREAM, BUSY):  # else it was refused meanwhile
                self._unanswered(failure)
            return
        pending, self._pending = self._pending, None
        changes = self._granted is not None and self._granted.operation.action.changes
        if pending is None or self._state not in (STREAM, BUSY) or (self._gone and not changes):
            self._settle(None)
            upstream.release(False)  # noqa: FBT003
            return
        self._ask(upstream, pending, streams=streams)

    def _ask(self, upstream: UpstreamConnection, pending: list[bytes], *, streams: bool) -> None:
        """Send what was kept until there was a connection, or a turn."""
        self._outgoing = b"".join(pending)
        self._upstream = upstream
        if streams:
            self._loop.call_soon(self._read_on)
        upstream.ask(self, self._outgoing, self._request.method == "HEAD", streams)

    # --- a turn -------------------------------------------------------------------------------------------------

    def _take_turn(self, turns: Turns, operation: Operation) -> None:
        """Have a turn, or wait for one. Raises `TooMany`."""
        model = operation.resource.name
        if operation.action in INFERENCE and model is not None:
            self._waits = not turns.take(model, self)
            self._turn = model

    def turn_comes(self) -> None:
        """Go on with a request that waited."""
        self._waits = False
        self._since = self._passage.tick
        pending = self._pending
        if pending is None:
            return  # its body is still to come
        streams = self._state == STREAM
        upstream = self._way.upstream.take()
        if upstream is None:
            self._passage.crowd.run(self._connect(streams=streams), self.cut)
            return
        self._pending = None
        self._ask(upstream, pending, streams=streams)

    def _leave_turn(self, model: str) -> None:
        turns, self._turn = self._passage.turns, None
        if turns is None:  # never: it was taken there
            return
        if self._waits:
            self._waits, self._pending = False, None
            turns.leave(model, self)
        else:
            turns.give(model)

    def upstream_full(self, *, full: bool) -> None:
        """Stop reading the body, or go on."""
        self._held_back, self._since = full, self._passage.tick
        if full:
            self._transport.pause_reading()
        else:
            self._loop.call_soon(self._read_on)

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

    def _settle(self, status: int | None) -> None:
        """Tell whoever waits how a management request ended."""
        waiter, self._waiter, self._granted = self._waiter, None, None
        if waiter is not None and not waiter.done():
            waiter.set_result(status)

    # --- an answer ----------------------------------------------------------------------------------------------

    def answer_whole(self, head: ResponseHead, body: bytes) -> None:
        """Send an answer on, in one write."""
        request = self._request
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release(self._state == BUSY)
        self._end(head.status, 0 if request.method == "HEAD" else len(body))
        if self._gone or self._transport.is_closing():
            self._answered(head.status)
            return
        closes = self._closes()
        line = b"" if request.minor and not closes else answer.connection_line(request.minor, closes)
        self._transport.write(answer.whole(head, self._request_id, line, body, request.method == "HEAD"))
        if closes or self._buffer or self._waiter is not None:
            self._answered(head.status)
            return
        self._passage.counts.served += 1
        self._state = HEAD
        self._since = self._passage.tick
        self._transport.resume_reading()

    def answer_begun(self, head: ResponseHead) -> None:
        """Send the head of an answer on, and get ready for its body."""
        self._begun = True
        self._sent = 0
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
        if self._gone or self._transport.is_closing():
            return
        self._sent += len(payload)
        if self._chunks:
            self._transport.writelines(chunk(payload))
        else:
            self._transport.write(payload)

    def answer_ended(self) -> None:
        """End the answer."""
        self._part(clean=self._state == BUSY)
        if self._chunks and not self._gone:
            self._write(LAST_CHUNK)
        self._end(self._status, self._sent)
        self._answered(self._status)

    def _end(self, status: int, sent: int, rule: str = "") -> None:
        """Tell the access log how the request at hand ended, if it has not yet, and give its turn on."""
        began, self._began = self._began, 0.0
        if not began:
            return
        if self._turn is not None:
            self._leave_turn(self._turn)
        note = self._passage.note
        if note is not None:
            note(
                (
                    monotonic(),
                    began,
                    self._way.reader.name,
                    self._peer,
                    self._request,
                    self._understood,
                    self._principal,
                    self._request_id,
                    self._trace,
                    status,
                    self._received,
                    sent,
                    rule,
                )
            )

    def _cut_short(self, why: str) -> None:
        """Tell of an answer that was not completed, or not even begun (499, as nginx says)."""
        self._end(self._status if self._begun else CLIENT_GONE, self._sent if self._begun else 0, why)

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
        if self._state == STREAM:
            self._linger()
        elif self._closes():
            self._close()
        else:
            self._state = HEAD
            self._since = self._passage.tick
            if self._buffer:
                self._transport.pause_reading()
                self._loop.call_soon(self._next)
            else:
                self._transport.resume_reading()

    def _closes(self) -> bool:
        """Whether this answer is the last on this connection."""
        return not self._request.keep_alive or self._state == STREAM or self._passage.closing

    def _connection_line(self) -> bytes:
        return answer.connection_line(self._request.minor, self._closes())

    def _close(self) -> None:
        """Close after what is written was taken."""
        self._state = CLOSING
        self._since = self._passage.tick
        self._transport.close()

    def _linger(self) -> None:
        """Close so that the client sees the answer: a close with bytes unread would be a reset (RFC 9112 9.6)."""
        self._state = LINGER
        self._since = self._passage.tick
        self._buffer = b""
        if not self._transport.is_closing():
            self._transport.resume_reading()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _next(self) -> None:
        """Go on with what was sent ahead."""
        raise NotImplementedError

    def _read_on(self) -> None:
        """Go on with a body."""
        raise NotImplementedError

    def cut(self) -> None:
        """End an answer that cannot be completed so that nobody takes it for whole: by a reset."""
        if self._upstream is not None:
            self._part(clean=False)
            self._settle(None)
        self._cut_short("proxy.cut")
        if not self._gone and (self._state in (LINGER, CLOSING) or not self._transport.is_closing()):
            _reset_on_close(self._transport)
            self._transport.abort()

    # --- a refusal ----------------------------------------------------------------------------------------------

    def _refuse(self, refusal: Refusal, *, close: bool = False, quiet: bool = False) -> None:
        """Record a refusal and answer with it; `quiet` when the same was recorded a moment ago."""
        asked = self._asked()
        if not quiet:
            refusal = self._passage.enforcer.turned_away(asked, refusal)
        self._passage.counts.refused += 1
        self._part(clean=False)
        if self._gone:
            self._end(refusal.status, 0, refusal.rule)
            return
        whole = self._skip_body()
        # Whoever says what cannot be understood may mean by the next bytes what it will (a tunnel, HTTP/2).
        close = close or not whole or refusal.status == BadRequest.status or self._closes()
        line = answer.connection_line(self._request.minor, close)
        told = answer.refused(refusal, self._request_id or self._prefix, line, head_only=asked.method == "HEAD")
        self._write(told)
        if not quiet:
            self._note_refusal(asked, refusal, len(told) - told.index(b"\r\n\r\n") - 4)
        if close:
            self._linger()
        else:
            self._over()

    def _note_refusal(self, asked: Asked, refusal: Refusal, sent: int) -> None:
        if not self._began:
            self._began = monotonic()
            self._request_id = self._trace = self._request_id or self._prefix
        self._principal = self._principal or self._passage.enforcer.name_of(asked)
        self._end(refusal.status, sent, refusal.rule)

    def _skip_body(self) -> bool:
        """Return whether the refused request is whole; then what is left in the buffer is the next one."""
        request = self._request
        if request is NO_REQUEST or self._state in (COLLECT, STREAM):
            return False
        if self._state == BUSY or not request.has_body:
            return True
        if request.length is None or len(self._buffer) < request.length:
            return False
        self._buffer = self._buffer[request.length :]
        return True

    def _asked(self) -> Asked:
        """Return the request as the record names it; of one that could not be read, its beginning."""
        request = self._request
        listener = self._way.listener
        if request is NO_REQUEST:
            # No more than looks like a method and a target: what else there is may be somebody's key.
            beginning = _REQUEST_LINE.match(self._buffer[:_SHOWN])
            shown = beginning[0] if beginning is not None else b""
            return Asked(listener, self._peer, "", shown, self._request_id or self._prefix, None)
        return Asked(
            listener,
            self._peer,
            request.method,
            request.target,
            self._request_id,
            request.authorization,
            certificate=self._vouched,
            host=None if self._peer == "unix" else request.host,
            from_page=request.from_page,
        )


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Have the kernel send a reset in place of an end (SO_LINGER with 0, socket(7)); a unix socket knows none."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return  # over TLS word of an end comes one turn of the loop after it
    descriptor = os.dup(connection.fileno())
    with socket.socket(fileno=descriptor) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
