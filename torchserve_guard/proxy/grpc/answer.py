"""The answer: TorchServe's side of a call that is passed on, piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchserve_guard.http2 import Code, Stream
from torchserve_guard.proxy.grpc.behind import Behind
from torchserve_guard.proxy.grpc.end import Told, reset_end, told_end
from torchserve_guard.proxy.grpc.upstream import GrpcUpstream

if TYPE_CHECKING:
    from torchserve_guard.proxy.grpc.call import Call

_PIECE = 256
"""About what Python needs for a piece beside its bytes."""


class Answer:
    """What TorchServe says to one call; nothing is asked before `start`."""

    __slots__ = ("_call", "_keeping", "_kept", "_link", "_path", "_stream", "_upstream")

    def __init__(self, call: Call, upstream: GrpcUpstream, path: str) -> None:
        self._call = call
        self._upstream = upstream
        self._path = path
        self._kept: list[tuple[bytes, bool]] = []
        self._keeping = 0
        self._link: Behind | None = None
        self._stream: Stream | None = None

    def start(self, timeout: float | None) -> None:
        """Ask TorchServe, which has so many seconds."""
        self._upstream.begin(self, self._path, timeout)

    def send(self, data: bytes, *, whole: bool) -> None:
        """Say a piece, now or when there is a connection."""
        if self._link is None or self._stream is None:
            self._kept.append((data, whole))
            self._keeping += len(data)
        else:
            self._link.send(self._stream, data, whole)

    @property
    def full(self) -> bool:
        """Whether TorchServe has yet to take what was said."""
        return self._stream is None or bool(self._stream.pending)

    @property
    def waiting(self) -> int:
        """How many bytes of memory hold what TorchServe has yet to take."""
        stream = self._stream
        if stream is None:
            return self._keeping + len(self._kept) * _PIECE
        return stream.waiting + len(stream.pending) * _PIECE

    def cancel(self) -> None:
        """Give the call up, unless it is over."""
        if self._link is None or self._stream is None:
            self._upstream.withdraw(self)
        else:
            self._link.reset(self._stream, Code.CANCEL)

    def go_on(self) -> None:
        """Let more come: the client has taken what came."""
        if self._link is not None and self._stream is not None:
            self._link.grant(self._stream)

    # --- as an asker ------------------------------------------------------------------------------------------------

    def begun(self, link: Behind, stream: Stream) -> None:
        """Say what was kept."""
        self._link, self._stream = link, stream
        for data, whole in self._kept:
            link.send(stream, data, whole)
        self._kept.clear()
        self._keeping = 0

    def told(self, told: Told, ended: bool) -> None:  # noqa: FBT001 - hot
        """Pass on how it begins, or how it ended."""
        if ended:
            self._call.finish(told_end(told))
        else:
            self._call.answered()

    def data(self, payload: bytes, ended: bool) -> None:  # noqa: FBT001 - hot
        """Pass a piece on."""
        self._call.pass_back(payload)
        if ended:
            self._call.unanswered("it did not end the call as gRPC does")
        elif not self._call.slow:
            self.go_on()

    def drained(self) -> None:
        """Let more of the request come."""
        self._call.go_on()

    def reset(self, code: int) -> None:
        """End as TorchServe did."""
        self._call.finish(reset_end(code))

    def gone(self, reason: str) -> None:
        """End: there is no answer."""
        self._call.unanswered(reason)
