"""The client of the gRPC door: one accepted connection, and the calls on it."""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import cast

from torchserve_guard.errors import Refusal
from torchserve_guard.http2 import Broken, Code, Fields, Rules, Stream
from torchserve_guard.identity import Certificate, read_certificate
from torchserve_guard.proxy.answer import RequestTimeout
from torchserve_guard.proxy.client import peer_of
from torchserve_guard.proxy.enforcement import Asked
from torchserve_guard.proxy.grpc.call import Call
from torchserve_guard.proxy.grpc.link import Link
from torchserve_guard.proxy.grpc.passage import DOOR, GrpcPassage
from torchserve_guard.proxy.sources import Source, source_of
from torchserve_guard.wire.grpc.metadata import CallHead, parse_call_head

MOST_STREAMS = 128
_MS = 1000


class Client(Link[CallHead]):
    """One connection from a client; it may last `age` milliseconds, and its calls `grace` more."""

    def __init__(
        self, passage: GrpcPassage, loop: asyncio.AbstractEventLoop, age: int | None = None, grace: int | None = None
    ) -> None:
        # Blocks a little longer than may be are read, so that their call can be told why it is refused.
        super().__init__(Rules(MOST_STREAMS, fields=4 * passage.limits.head), loop, server=True)
        self.loop = loop
        self.peer = ""
        self.certificate: Certificate | None = None
        self._passage = passage
        self._age = age
        self._grace = grace
        self._born = self._called = self._since = passage.tick
        self._draining = False
        self._lingers = False
        self._unwritten = 0
        self._source: Source | None = None

    # --- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless there are too many."""
        name, passage = transport.get_extra_info("peername"), self._passage
        self.peer, self._source = peer_of(name), source_of(name)
        self.certificate = _certificate(transport.get_extra_info("ssl_object"))
        refusal = passage.refusal(self._source)
        passage.enter(self._source)
        passage.crowd.enter(self)
        super().connection_made(transport)
        if refusal is not None:
            self._turned_away(refusal)
            self.close(Code.CALM)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Leave off what is in flight, but for changes."""
        self._passage.leave(self._source)
        self._give_up()
        self._passage.crowd.leave(self)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless nothing is understood any more."""
        if not self._lingers:
            super().data_received(data)

    def pause_writing(self) -> None:
        """Hear no more of who does not take what is said: each thing heard may have to be answered (CVE-2019-9517)."""
        super().pause_writing()
        self.be_deaf(True)  # noqa: FBT003

    def resume_writing(self) -> None:
        """Go on."""
        self.be_deaf(False)  # noqa: FBT003
        super().resume_writing()

    def broken(self, error: Broken) -> None:
        """Record a breach of the protocol, say so, and hear nothing more until the client has heard it."""
        self._turned_away(error)
        self._give_up()
        self._linger()
        self.leave(error.code)
        self._flush()
        self._transport.write_eof()

    def wronged(self, error: Broken) -> None:
        """Record a breach of the protocol that ends one call."""
        self._turned_away(error)

    def close(self, code: Code) -> None:
        """End when the client has taken what was said."""
        self._linger()
        super().close(code)

    def _linger(self) -> None:
        if not self._lingers:
            self._lingers, self._since = True, self._passage.tick

    def _give_up(self) -> None:
        for stream in tuple(self.streams.values()):
            stream.owner.reset(Code.CANCEL)
        self.forget_all()

    def _turned_away(self, refusal: Refusal) -> None:
        """Count a connection that got nowhere, and record it; of a flood, one each second."""
        passage = self._passage
        passage.counts.refused += 1
        if passage.first_this_tick():
            passage.enforcer.turned_away(Asked(passage.listener, self.peer, "", b"", b"", None, DOOR), refusal)

    # --- calls ------------------------------------------------------------------------------------------------------

    def understood(self, fields: Fields) -> CallHead:
        """Return what a header block says of a call."""
        return parse_call_head(fields, self._passage.limits.head)

    def headed(self, stream: Stream | None, number: int, head: CallHead, ended: bool) -> None:  # noqa: ARG002, FBT001
        """Begin a call."""
        # Who begins more than there may be before it can have heard that others ended is over the limit, too.
        if self._draining or len(self.streams) + self.ended >= MOST_STREAMS:
            self.refuse(number)
        else:
            Call(self._passage, self, head, number, whole=ended).begin()

    def over(self) -> None:
        """End after the last call of a connection that is to end."""
        if self._draining and not self.streams:
            self.loop.call_soon(self.close, Code.NONE)

    # --- as a member of the crowd -----------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Look at the clock, once a second: end what takes too long."""
        self.patience.calm()
        passage = self._passage
        if self.streams:
            self._called = passage.tick
        if self.moved:
            self.moved, self._since = False, passage.tick
        waited = passage.tick - self._since
        if self._lingers:
            self._sweep_lingering(waited)
        elif waited > self._patience():
            self._late()
        elif passage.tick - self._called > passage.idle_time:
            self.close(Code.NONE)
        self._sweep_age((passage.tick - self._born) * _MS)
        for stream in tuple(self.streams.values()):
            cast("Call", stream.owner).sweep()

    def _sweep_lingering(self, waited: int) -> None:
        limits, unwritten = self._passage.limits, self._transport.get_write_buffer_size()
        if unwritten != self._unwritten:
            self._unwritten, self._since = unwritten, self._passage.tick
        elif waited > (limits.stall_time if unwritten else limits.linger_time):
            self.cut()

    def _patience(self) -> float:
        """Return how long nothing whole may come, or be taken."""
        if not self.introduced or self.in_block:
            return self._passage.head_time
        return self._passage.limits.stall_time if self.choked or self.partial else math.inf

    def _sweep_age(self, age: int) -> None:
        if self._age is None or age < self._age:
            return
        if not self._draining:
            self.drain()
        elif self._grace is not None and age > self._age + self._grace:
            self.cut()

    def _late(self) -> None:
        self._turned_away(RequestTimeout("The request did not arrive in time.", rule="proxy.time"))
        self.cut()

    def drain(self) -> None:
        """Take no further call; end when those in flight have ended, or at once when there are none."""
        if not self._draining and not self._lingers:
            self._draining = True
            self.leave(Code.NONE)
            if not self.streams:
                self.close(Code.NONE)

    @property
    def busy(self) -> bool:
        """Whether a call is in flight."""
        return bool(self.streams)


def _certificate(tls: ssl.SSLObject | None) -> Certificate | None:
    """Return the client certificate that the handshake verified, None when there is none."""
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return read_certificate(der) if der else None
