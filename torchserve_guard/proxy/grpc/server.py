"""The gRPC door: TorchServe's two gRPC listeners as clients know them, open or closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torchserve_guard.audit.access_line import Note
from torchserve_guard.proxy.crowd import Crowd
from torchserve_guard.proxy.descriptors import fitting
from torchserve_guard.proxy.enforcement import Enforcer
from torchserve_guard.proxy.grpc.address import addresses, taken
from torchserve_guard.proxy.grpc.client import Client
from torchserve_guard.proxy.grpc.forms import Forms
from torchserve_guard.proxy.grpc.passage import GrpcPassage
from torchserve_guard.proxy.grpc.tls import GrpcTls
from torchserve_guard.proxy.grpc.upstream import GrpcUpstream
from torchserve_guard.proxy.limits import KIB, Limits
from torchserve_guard.proxy.memory import keep_memory
from torchserve_guard.proxy.passage import Counts
from torchserve_guard.proxy.tls import Handshake
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.wire import Listener

_BACKLOG = 1024
_SWEEP_S = 1.0
_LAST_WORDS_S = 2.0
_PORTS_OF_HTTP = 3
_FRAMING = 64 * KIB
"""What an answer may have beside what TorchServe counts."""


@dataclass(frozen=True, slots=True)
class GrpcSpec:
    """One listener: where it listens, the port of TorchServe's own on loopback, and the key that it asks for there.

    `answer` is the longest answer to management, in bytes; `age` and `grace` are in milliseconds, as
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
    """What the gRPC door has seen so far, and what goes on in it."""

    connections: int
    in_flight: int
    served: int
    refused: int
    upstream_failures: int


class GrpcDoor:
    """The gRPC listeners of one guard. Nothing listens before `open`, nothing is in flight after `close`.

    `optional` and `forms` are as `GrpcPassage` has them, `note` and `turns` as `Threshold` does. With `tls` all
    listeners speak TLS, and nothing else.
    """

    def __init__(
        self,
        listeners: Mapping[Listener, GrpcSpec],
        enforcer: Enforcer,
        limits: Limits,
        *,
        optional: bool,
        forms: Forms,
        tls: GrpcTls | None = None,
        note: Callable[[Note], None] | None = None,
        turns: Turns | None = None,
    ) -> None:
        limits = fitting(limits, _PORTS_OF_HTTP + len(listeners))
        self.tls = tls
        self._listeners = listeners
        self._counts = Counts()
        self._crowd = Crowd()
        self._passages = {
            listener: GrpcPassage(
                listener=listener,
                upstream=GrpcUpstream(spec.upstream, spec.token, spec.answer + _FRAMING, limits.connect_time),
                enforcer=enforcer,
                limits=limits,
                counts=self._counts,
                crowd=self._crowd,
                optional=optional,
                forms=forms,
                note=note,
                turns=turns,
            )
            for listener, spec in listeners.items()
        }
        self._servers: list[asyncio.AbstractServer] = []
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Listen on every address, or on none. Raises `ConfigError`."""
        keep_memory()
        try:
            for listener, spec in self._listeners.items():
                for address in addresses(listener, spec.host, spec.port):
                    await self._listen(listener, spec, address)
        except BaseException:
            await self.close(0)
            raise
        self._sweep()

    async def _listen(self, listener: Listener, spec: GrpcSpec, address: str) -> None:
        loop, passage = asyncio.get_running_loop(), self._passages[listener]
        # INVARIANT: without SO_REUSEPORT: nobody else, of the same user even, listens on the port beside the guard.
        try:
            server = await loop.create_server(
                self._accepting(passage, spec, loop), address, spec.port, backlog=_BACKLOG
            )
        except OSError as error:
            raise taken(listener, spec.host, spec.port, error.strerror or str(error)) from error
        self._servers.append(server)

    def _accepting(
        self, passage: GrpcPassage, spec: GrpcSpec, loop: asyncio.AbstractEventLoop
    ) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of each accepted connection."""

        def speaker() -> Client:
            return Client(passage, loop, spec.age, spec.grace)

        if self.tls is None:
            return speaker
        handshakes = self.tls.handshakes
        return lambda: Handshake(passage, loop, handshakes, speaker)

    async def close(self, grace: float) -> None:
        """Accept no more, let what is in flight end for at most `grace` seconds, then cut."""
        for passage in self._passages.values():
            passage.closing = True
        for server in self._servers:
            server.close()
        for connection in tuple(self._crowd.connections):
            connection.drain()
        await self._crowd.gone(grace)
        await self._cut()
        if self._timer is not None:
            self._timer.cancel()

    async def _cut(self) -> None:
        """End everything at once; changes get a moment to record that they were cut off."""
        for connection in tuple(self._crowd.connections):
            connection.cut()
        for passage in self._passages.values():
            await passage.upstream.close()
        await self._crowd.dismiss(_LAST_WORDS_S)

    def stats(self) -> GrpcStats:
        """Return a snapshot."""
        return GrpcStats(
            connections=len(self._crowd.connections),
            in_flight=sum(passage.calls for passage in self._passages.values()),
            served=self._counts.served,
            refused=self._counts.refused,
            upstream_failures=self._counts.upstream_failures,
        )

    def _sweep(self) -> None:
        """Once a second, one pass over all connections: cheaper than a timer for each call."""
        for passage in self._passages.values():
            passage.advance()
        self._crowd.sweep()
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
