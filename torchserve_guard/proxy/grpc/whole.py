"""The whole answer: a unary call to TorchServe that is awaited, and no longer in bytes or seconds than it may be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from torchserve_guard.http2 import Code, Stream
from torchserve_guard.proxy.grpc.end import End, Told, ended, reset_end, told_end, too_long
from torchserve_guard.wire.grpc.message import framed
from torchserve_guard.wire.grpc.status import CODES

if TYPE_CHECKING:
    from torchserve_guard.proxy.grpc.behind import Behind
    from torchserve_guard.proxy.grpc.upstream import GrpcUpstream


class Whole:
    """A unary call whose answer is taken whole."""

    def __init__(self, upstream: GrpcUpstream, message: bytes, within: float | None) -> None:
        self._upstream = upstream
        self._message = message
        self._within = within
        self._at: tuple[Behind, Stream] | None = None
        self._collected = bytearray()
        self._future: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def ended(self) -> tuple[End, bytes]:
        """Return how it ended, and the answer as it stands in a stream."""
        try:
            async with asyncio.timeout(self._within):
                return await self._future, bytes(self._collected)
        except TimeoutError:
            return ended("DEADLINE_EXCEEDED", "TorchServe did not answer in time."), b""
        finally:
            self._withdraw()

    def cancel(self) -> None:
        """Give it up."""
        self._settle(ended("CANCELLED"))

    def _withdraw(self) -> None:
        self._upstream.withdraw(self)
        if self._at is not None:
            link, stream = self._at
            link.reset(stream, Code.CANCEL)

    def _settle(self, end: End) -> None:
        if not self._future.done():
            self._future.set_result(end)

    # --- as an asker ------------------------------------------------------------------------------------------------

    def begun(self, link: Behind, stream: Stream) -> None:
        """Say the message."""
        self._at = link, stream
        link.send(stream, framed(self._message), True)  # noqa: FBT003

    def told(self, told: Told, ended: bool) -> None:  # noqa: FBT001
        """Hear how it ended."""
        if ended:
            self._settle(told_end(told))

    def data(self, payload: bytes, ended: bool) -> None:  # noqa: FBT001
        """Take a piece of the answer."""
        self._collected += payload
        if len(self._collected) > self._upstream.answer:
            self._settle(too_long())
        elif ended:
            self.gone("it did not end the call as gRPC does")
        elif self._at is not None:
            link, stream = self._at
            link.grant(stream)

    def drained(self) -> None:
        """Go on: there is nothing more to say."""

    def reset(self, code: int) -> None:
        """End as TorchServe did."""
        self._settle(reset_end(code))

    def gone(self, reason: str) -> None:
        """End: there is no answer."""
        self._settle(End(CODES["UNAVAILABLE"], b"", reason))
