"""The gRPC door: TorchServe's two gRPC listeners as clients know them, open or closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchserve_guard.proxy.enforcement import Enforcer
from torchserve_guard.proxy.grpc_address import addresses, taken
from torchserve_guard.proxy.limits import KIB, Limits
from torchserve_guard.proxy.passage import Counts
from torchserve_guard.wire import Listener

# Read when grpc is first imported. Its handlers around fork() are not wanted: they look for their own threads, and say
# so whenever the guard starts a process. Nor is a line on standard error for whatever nonsense a client sends.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from grpc import aio

from torchserve_guard.proxy.grpc_service import Service
from torchserve_guard.proxy.grpc_tls import GrpcTls
from torchserve_guard.proxy.grpc_upstream import GrpcUpstream

_LAST_WORDS_S = 2.0
_FRAMING = 64 * KIB
_LARGEST_OPTION = 2**31 - 1  # C-core counts sizes in an int
"""What a message may have beside what TorchServe counts."""
MOST_CALLS = 4096
"""Calls in flight on one listener; TorchServe's own queues hold a hundred per model."""
MOST_STREAMS = 128


@dataclass(frozen=True, slots=True)
class GrpcSpec:
    """One listener: where it listens, the port of TorchServe's own on loopback, and the key that it asks for there.

    `answer` is the longest message from TorchServe, in bytes; `age` and `grace` are in milliseconds, as
    `grpc_*_max_connection_age_ms` has them, None for no limit.
    """

    host: str
    port: int
    upstream: int
    token: str = field(repr=False)
    answer: int
    age: int | None = None
    grace: int | None = None


@dataclass(frozen=True, slots=True)
class GrpcStats:
    """What the gRPC door has seen so far."""

    served: int
    refused: int
    upstream_failures: int


class GrpcDoor:
    """The gRPC listeners of one guard. Nothing listens before `open`, nothing is in flight after `close`.

    `optional` says whether the Open Inference Protocol is served. With `tls` all listeners speak TLS, and nothing else.
    """

    def __init__(
        self,
        listeners: Mapping[Listener, GrpcSpec],
        enforcer: Enforcer,
        limits: Limits,
        *,
        optional: bool,
        tls: GrpcTls | None = None,
    ) -> None:
        self.tls = tls
        self._listeners = listeners
        self._enforcer = enforcer
        self._limits = limits
        self._optional = optional
        self._counts = Counts()
        self._servers: list[aio.Server] = []
        self._upstreams: list[GrpcUpstream] = []
        self._services: list[Service] = []

    async def open(self) -> None:
        """Listen on every address, or on none. Raises `ConfigError`."""
        try:
            for listener, spec in self._listeners.items():
                await self._listen(listener, spec)
        except BaseException:
            await self.close(0)
            raise

    async def _listen(self, listener: Listener, spec: GrpcSpec) -> None:
        upstream = GrpcUpstream(spec.upstream, spec.token, min(spec.answer + _FRAMING, _LARGEST_OPTION))
        self._upstreams.append(upstream)
        service = Service(
            listener, upstream, self._enforcer, self._limits, self._counts, optional=self._optional, tls=self.tls
        )
        self._services.append(service)
        options = _options(listener, spec, self._limits)
        server = aio.server(options=options, maximum_concurrent_rpcs=MOST_CALLS)
        self._servers.append(server)
        server.add_generic_rpc_handlers((service,))
        for address in addresses(listener, spec.host, spec.port):
            _bind(server, listener, spec, address, self.tls)
        await server.start()

    async def close(self, grace: float) -> None:
        """Accept no more, let what is in flight end for at most `grace` seconds, then cut."""
        end = asyncio.get_running_loop().time() + grace
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
        changes = [task for service in self._services for task in service.under_way]
        if changes:
            await asyncio.wait(changes, timeout=max(0.0, end - asyncio.get_running_loop().time()))
        for upstream in self._upstreams:
            await upstream.close()
        if changes:  # a moment to record that they were cut off
            await asyncio.wait(changes, timeout=_LAST_WORDS_S)

    def stats(self) -> GrpcStats:
        """Return a snapshot."""
        return GrpcStats(self._counts.served, self._counts.refused, self._counts.upstream_failures)


def _options(listener: Listener, spec: GrpcSpec, limits: Limits) -> list[tuple[str, int]]:
    body = limits.management_body if listener is Listener.MANAGEMENT else limits.body
    options = {
        # INVARIANT: nobody else, of the same user even, listens on the port beside the guard.
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": -1 if body is None else min(body, _LARGEST_OPTION),
        "grpc.max_send_message_length": -1,
        "grpc.max_metadata_size": limits.head,
        "grpc.absolute_max_metadata_size": limits.head,
        "grpc.max_concurrent_streams": MOST_STREAMS,
        "grpc.max_allowed_incoming_connections": limits.connections,
        "grpc.server_handshake_timeout_ms": int(limits.head_time * 1000),
        "grpc.max_connection_idle_ms": int(limits.idle_time * 1000),
        "grpc.max_connection_age_ms": spec.age,
        "grpc.max_connection_age_grace_ms": spec.grace,
    }
    return [(name, min(value, 2**31 - 1)) for name, value in options.items() if value is not None]


def _bind(server: aio.Server, listener: Listener, spec: GrpcSpec, address: str, tls: GrpcTls | None) -> None:
    where = f"[{address}]:{spec.port}" if ":" in address else f"{address}:{spec.port}"
    try:
        bound = server.add_insecure_port(where) if tls is None else server.add_secure_port(where, tls.credentials())
    except RuntimeError as error:
        raise taken(listener, spec.host, spec.port, "the address is taken, or not one of this machine") from error
    if bound != spec.port:
        raise taken(listener, spec.host, spec.port, "it could not be bound")
