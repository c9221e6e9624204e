"""The upstream of one gRPC listener: TorchServe's own server on loopback, asked with the key that it wants to see.

One connection carries all calls; it is made when there is something to ask, and tries nothing twice.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from torchserve_guard.errors import FrontendError
from torchserve_guard.http2 import Broken, Code, Fields, Owner, Rules, Stream, encoded
from torchserve_guard.proxy.grpc_link import Link
from torchserve_guard.wire.grpc_message import framed
from torchserve_guard.wire.grpc_metadata import AnswerHead, parse_answer_head, rendered_timeout
from torchserve_guard.wire.grpc_status import CODES, printed

HOST = "127.0.0.1"
_PROBE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping"
_PROBE_AGAIN_S = 0.1
_LARGEST_PROBE = 1 << 16
_LAST_STREAM = 2**31 - 3
# What waits for a client who takes it slowly waits in TorchServe.
_RULES = Rules(window=1 << 16)
# What a stream's end without a word means (gRPC over HTTP2, Errors).
_RESETS = {
    Code.REFUSED: "UNAVAILABLE",
    Code.CANCEL: "CANCELLED",
    Code.CALM: "RESOURCE_EXHAUSTED",
}


class Told(NamedTuple):
    """What TorchServe said at the beginning or the end of an answer, and that in a client's header block."""

    head: AnswerHead
    block: bytes


class End(NamedTuple):
    """How a call ended: a code of gRPC's, and the block that tells the client; `gone` says why TorchServe told none."""

    code: int
    block: bytes
    gone: str = ""


class Asker(Owner, Protocol):
    """Who asks TorchServe something."""

    def begun(self, link: Behind, stream: Stream) -> None:
        """Send the message: there is a stream."""

    def told(self, told: Told, ended: bool) -> None:  # noqa: FBT001 - hot
        """Hear a head, or, at the end, trailers."""

    def gone(self, reason: str) -> None:
        """Hear that there will be no answer."""


def ended(code: str, details: str = "") -> End:
    """Return the end of a call that is not TorchServe's."""
    return End(CODES[code], status_block(CODES[code], printed(details)))


def reset_end(code: int) -> End:
    """Return the end of a call whose stream TorchServe gave up."""
    known = {int(one): name for one, name in _RESETS.items()}
    return ended(known.get(code, "INTERNAL"), "TorchServe broke the call off.")


def told_end(told: Told) -> End:
    """Return the end that trailers tell."""
    return End(CODES["UNKNOWN"] if told.head.code is None else told.head.code, told.block)


def status_block(code: int, details: bytes, trailing: Fields = ()) -> bytes:
    """Return the part of a header block that ends a call."""
    message = ((b"grpc-message", details),) if details else ()
    return encoded(((b"grpc-status", b"%d" % code), *message, *trailing))


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
        """Lose all that is in flight."""
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


class GrpcUpstream:
    """TorchServe's own listener; `token` may be empty, for a version without tokens. Closed by `close`.

    `answer` is the longest answer that is taken whole, `patience` how many seconds a connection may take to be made.
    """

    def __init__(self, port: int, token: str, answer: int, patience: float) -> None:
        self._port = port
        self._patience = patience
        self.answer = answer
        self._token = token.encode("ascii")
        self._heads: dict[str, bytes] = {}
        self._link: Behind | None = None
        self._waiting: dict[Asker, tuple[str, float | None]] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self, asker: Asker, path: str, timeout: float | None) -> None:
        """Ask, now or when there is a connection."""
        link = self._link
        if link is not None and not link.spent:
            self._begin(link, asker, path, timeout)
            return
        if self._closed:
            asker.gone("the guard stops")
            return
        self._waiting[asker] = path, timeout
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def withdraw(self, asker: Asker) -> None:
        """Forget who waits for a connection."""
        self._waiting.pop(asker, None)

    def _begin(self, link: Behind, asker: Asker, path: str, timeout: float | None) -> None:
        if link.full:
            asker.gone("it takes no more calls at a time")
            return
        block = self._heads.get(path) or self._head(path)
        if timeout is not None:
            block += encoded(((b"grpc-timeout", rendered_timeout(timeout)),))
        asker.begun(link, link.begin(asker, block))

    def _head(self, path: str) -> bytes:
        said = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode("ascii")),
            (b":authority", f"{HOST}:{self._port}".encode("ascii")),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"grpc-accept-encoding", b"identity"),
        )
        key = ((b"authorization", b"Bearer " + self._token),) if self._token else ()
        block = self._heads[path] = encoded(said) + encoded(key, secret=True)
        return block

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        reason = "the guard stops"
        try:
            async with asyncio.timeout(self._patience):
                _, link = await loop.create_connection(lambda: Behind(self, loop), HOST, self._port)
        except TimeoutError:
            reason = "a connection took too long"
        except OSError as error:
            reason = str(error)
        else:
            self._link = link
        self._connecting = None
        waiting, self._waiting = self._waiting, {}
        for asker, (path, timeout) in waiting.items():
            if self._link is None:
                asker.gone(reason)
            else:
                self._begin(self._link, asker, path, timeout)

    def has(self, link: Behind) -> bool:
        """Whether this is the connection that new calls go to."""
        return self._link is link

    def parted(self, link: Behind) -> None:
        """Put no more calls on this connection."""
        if self._link is link:
            self._link = None

    def ask(self, path: str, message: bytes, within: float | None) -> Whole:
        """Return a unary call that has been put, to be awaited for at most `within` seconds."""
        whole = Whole(self, message, within)
        self.begin(whole, path, within)
        return whole

    async def close(self) -> None:
        """Close the connection; what is in flight is lost."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        waiting, self._waiting = self._waiting, {}
        for asker in waiting:
            asker.gone("the guard stops")
        if self._link is not None:
            self._link.cut()


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


def too_long() -> End:
    """Return the end of a call whose answer is longer than it may be."""
    return ended("RESOURCE_EXHAUSTED", "The answer is too large.")


def _asker(stream: Stream | None) -> Asker:
    assert stream is not None  # noqa: S101 - a client has begun every stream
    return stream.owner  # type: ignore[return-value]


async def told_apart(ports: tuple[int, ...], patience: float) -> tuple[int, int]:
    """Return TorchServe's inference and management ports, from those that it listens on.

    Asked without a key: the one knows Ping (and may refuse it), the other does not. Raises FrontendError.
    """
    inference = [port for port in ports if await _knows_ping(port, patience)]
    management = [port for port in ports if port not in inference]
    if len(inference) != 1 or len(management) != 1:
        raise FrontendError(f"torchserve: its two gRPC listeners cannot be told apart among the ports {list(ports)}")
    return inference[0], management[0]


async def _knows_ping(port: int, patience: float) -> bool:
    upstream = GrpcUpstream(port, "", _LARGEST_PROBE, patience)
    try:
        async with asyncio.timeout(patience):
            end = await _pinged(upstream, patience)
    except TimeoutError as error:
        raise FrontendError(f"torchserve: its gRPC listener on port {port} does not answer") from error
    finally:
        await upstream.close()
    if end.code not in {CODES["OK"], CODES["UNIMPLEMENTED"], CODES["PERMISSION_DENIED"]}:
        raise FrontendError(f"torchserve: its gRPC listener on port {port} does not answer (code {end.code})")
    return end.code != CODES["UNIMPLEMENTED"]


async def _pinged(upstream: GrpcUpstream, patience: float) -> End:
    while True:
        end, _ = await upstream.ask(_PROBE, b"", patience).ended()
        if not end.gone:
            return end
        await asyncio.sleep(_PROBE_AGAIN_S)
