"""The connection behind the door: one to TorchServe's own gRPC server, and who asks on it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from torchserve_guard.http2 import Broken, Code, Fields, Owner, Rules, Stream
from torchserve_guard.proxy.grpc.end import Told, status_block
from torchserve_guard.proxy.grpc.link import Link
from torchserve_guard.wire.grpc.metadata import parse_answer_head
from torchserve_guard.wire.grpc.status import CODES

if TYPE_CHECKING:
    from torchserve_guard.proxy.grpc.upstream import GrpcUpstream

_LAST_STREAM = 2**31 - 3
# What waits for a client who takes it slowly waits in TorchServe.
_RULES = Rules(window=1 << 16)


class Asker(Owner, Protocol):
    """Who asks TorchServe something."""

    def begun(self, link: Behind, stream: Stream) -> None:
        """Send the message: there is a stream."""

    def told(self, told: Told, ended: bool) -> None:  # noqa: FBT001 - hot
        """Hear a head, or, at the end, trailers."""

    def gone(self, reason: str) -> None:
        """Hear that there will be no answer."""


class Behind(Link[Told]):
    """One connection to TorchServe."""

    def __init__(self, upstream: GrpcUpstream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(_RULES, loop, server=False)
        self._upstream = upstream

    def understood(self, fields: Fields) -> Told:
        """Return what TorchServe says, and how it is passed on."""
        head = parse_answer_head(fields)
        code = CODES["UNKNOWN"] if head.code is None else head.code
        return Told(head, status_block(code, head.details, head.trailing))

    def headed(self, stream: Stream | None, number: int, head: Told, ended: bool) -> None:  # noqa: ARG002, FBT001
        """Pass a head or trailers on."""
        asker = _asker(stream)
        if head.head.is_grpc:
            asker.told(head, ended)
        else:
            self._lose(stream, "it did not answer in gRPC")

    def _lose(self, stream: Stream | None, reason: str) -> None:
        if stream is not None:
            self.reset(stream, Code.CANCEL)
            _asker(stream).gone(reason)

    def left_by_peer(self, last: int) -> None:
        """Ask nothing more here; what TorchServe has not looked at is lost."""
        self._upstream.parted(self)
        for stream in [stream for number, stream in self.streams.items() if number > last]:
            self._lose(stream, "it closed the connection")
        self.over()

    def broken(self, error: Broken) -> None:
        """Lose all that is in flight."""
        self._lose_all(f"it broke the protocol: {error.reason}")
        self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lose all that is in flight, but for what was read of it."""
        with suppress(Broken):
            self.feed(b"")
        self._lose_all(f"the connection was lost{f' ({exc})' if exc is not None else ''}")

    def _lose_all(self, reason: str) -> None:
        self._upstream.parted(self)
        for stream in tuple(self.streams.values()):
            self._lose(stream, reason)

    def over(self) -> None:
        """Close a connection that is asked nothing more."""
        if not self.streams and not self._upstream.has(self) and not self._transport.is_closing():
            self._transport.close()

    @property
    def full(self) -> bool:
        """Whether TorchServe takes no more streams on it for now."""
        return len(self.streams) >= self.most_streams

    @property
    def spent(self) -> bool:
        """Whether all numbers of streams are used."""
        return self._latest >= _LAST_STREAM


def _asker(stream: Stream | None) -> Asker:
    assert stream is not None  # noqa: S101 - a client has begun every stream
    return stream.owner  # type: ignore[return-value]
