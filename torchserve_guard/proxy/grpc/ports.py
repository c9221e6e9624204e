"""The ports of TorchServe's own gRPC listeners, which it chooses itself: which of them is inference's."""

from __future__ import annotations

import asyncio

from torchserve_guard.errors import FrontendError
from torchserve_guard.proxy.grpc.end import End
from torchserve_guard.proxy.grpc.upstream import GrpcUpstream
from torchserve_guard.wire.grpc.status import CODES

_PROBE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping"
_PROBE_AGAIN_S = 0.1
_LARGEST_PROBE = 1 << 16


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
