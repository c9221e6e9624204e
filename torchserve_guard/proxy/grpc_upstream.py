"""The upstream of one gRPC listener: TorchServe's own server on loopback, asked with the key that it wants to see."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import grpc
from grpc import aio

from torchserve_guard.errors import FrontendError
from torchserve_guard.wire.grpc_metadata import Pair, returned

Converse = aio.StreamStreamCall[bytes, bytes]
Streamed = aio.UnaryStreamCall[bytes, bytes]

_FROM_PEER = "Error received from peer"
_PROBE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping"

_OPTIONS = (
    # INVARIANT: what goes to TorchServe goes to TorchServe, whatever the environment says of proxies; once, whatever
    # became of it; and in connections of this channel alone.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    # TorchServe is on this machine: a connection that failed is tried again at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class End(NamedTuple):
    """How a call ended: as the client is told, trailing metadata included; `gone` when TorchServe did not say it."""

    code: grpc.StatusCode
    details: str = ""
    trailing: tuple[Pair, ...] = ()
    gone: bool = False


class GrpcUpstream:
    """A channel to TorchServe; `token` may be empty, for a version without tokens. Closed by `close`."""

    def __init__(self, port: int, token: str, answer: int) -> None:
        self._channel = _channel(port, answer)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._unary: dict[str, aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def ask(self, path: str, message: bytes, within: float | None) -> tuple[End, bytes | None]:
        """Return how a unary call ended `within` seconds, and its answer. Cancelled, it cancels the call."""
        ask = self._unary.get(path)
        if ask is None:
            ask = self._unary[path] = self._channel.unary_unary(path)
        call = ask(message, timeout=within, metadata=self._metadata)
        try:
            answer = await call
        except aio.AioRpcError as error:
            return ended(error), None
        except asyncio.CancelledError:
            verify_not_ours()
            return End(grpc.StatusCode.CANCELLED), None
        return End(grpc.StatusCode.OK, "", returned(await call.trailing_metadata())), answer

    def stream(self, path: str, message: bytes, timeout: float | None) -> Streamed:
        """Return a call whose answers are a stream."""
        ask: aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(path)
        return ask(message, timeout=timeout, metadata=self._metadata)

    def converse(self, path: str, timeout: float | None) -> Converse:
        """Return a call whose requests and answers are streams."""
        ask: aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(path)
        return ask(timeout=timeout, metadata=self._metadata)

    async def close(self) -> None:
        """Close the channel; what is in flight is cancelled."""
        await self._channel.close(None)


def verify_not_ours() -> None:
    """Return in the handler of a CancelledError that tells of a call's end, which grpc.aio raises too; else raise."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise asyncio.CancelledError


def ended(error: aio.AioRpcError) -> End:
    """Return the end of a call as TorchServe said it; when it said nothing, that it did not."""
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE and _FROM_PEER not in (error.debug_error_string() or ""):
        return End(code, error.details() or "", gone=True)
    return End(code, error.details() or "", returned(error.trailing_metadata()))


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
    async with _channel(port, 1 << 16) as channel:
        ping: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PROBE)
        try:
            await ping(b"", timeout=patience, wait_for_ready=True)
        except aio.AioRpcError as error:
            if error.code() not in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED}:
                raise FrontendError(
                    f"torchserve: its gRPC listener on port {port} does not answer ({error.code().name})"
                ) from error
            return error.code() is grpc.StatusCode.PERMISSION_DENIED
    return True


def _channel(port: int, answer: int) -> aio.Channel:
    return aio.insecure_channel(f"ipv4:127.0.0.1:{port}", [*_OPTIONS, ("grpc.max_receive_message_length", answer)])
