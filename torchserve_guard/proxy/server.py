"""The door: the listeners that clients know, open or closed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchserve_guard.audit import AccessLog
from torchserve_guard.errors import ConfigError
from torchserve_guard.proxy.address import Address
from torchserve_guard.proxy.client import ClientConnection
from torchserve_guard.proxy.crowd import Crowd
from torchserve_guard.proxy.descriptors import fitting
from torchserve_guard.proxy.enforcement import Enforcer
from torchserve_guard.proxy.head import RequestReader
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.memory import keep_memory
from torchserve_guard.proxy.passage import Counts, Passage, Unheard, Way
from torchserve_guard.proxy.tls import Context, Handshake, Handshakes
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.proxy.turnstile import Share, Turnstile
from torchserve_guard.proxy.upstream import Upstream
from torchserve_guard.proxy.vacancy import BACKLOG, taken, verify_free
from torchserve_guard.wire import Listener

_SWEEP_S = 1.0
_LAST_WORDS_S = 2.0


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """One listener: `address` is `http(s)://HOST:PORT` or `unix:PATH`, `upstream` the latter or plain HTTP.

    `token_line` is the whole header line that TorchServe asks for, without its line end, or empty. `also` are more
    addresses. Listeners with one address share it.
    """

    address: str
    upstream: str
    token_line: bytes = field(default=b"", repr=False)
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """What the door has seen so far, and what goes on in it."""

    connections: int
    in_flight: int
    served: int
    refused: int
    upstream_failures: int
    upstream_connections: int
    waiting: int = 0
    access_lines_lost: int = 0


class Door:
    """The listeners of one guard. Nothing listens before `open`, nothing is in flight after `close`.

    `tls` is what `https` listeners negotiate with (`proxy.tls.context_of`). `bound` has, by address, sockets that
    listen already (`bind`): other processes take connections from them too, and `share` is what this one has of them.
    `access` is told of each request. `turns` are the models', for other doors to share; None when models take all that
    comes. `beside` is how many ports the process listens at that are not this door's; `limits` are those that it can
    hold.
    """

    def __init__(
        self,
        listeners: Mapping[Listener, ListenerSpec],
        enforcer: Enforcer,
        limits: Limits,
        tls: Context | None = None,
        *,
        bound: Mapping[str, Sequence[socket.socket]] | None = None,
        share: Share | None = None,
        access: AccessLog | None = None,
        beside: int = 0,
    ) -> None:
        self.access = access
        self.turns = _turns(limits)
        self._enforcer = enforcer
        self._bound = {Address.parse(address): sockets for address, sockets in (bound or {}).items()}
        self._counts = Counts()
        self._share = share
        self._crowd = Crowd(share.tell if share is not None else None)
        ports = _ports(listeners)
        pools = sum(len(shared) - 1 for shared in ports.values())
        self.limits = fitting(limits, len(ports) + beside, pools)
        self._passages = {address: self._passage(shared, enforcer, self.limits) for address, shared in ports.items()}
        self._handshakes = Handshakes(tls) if tls is not None else None
        self._servers: list[asyncio.AbstractServer | Turnstile] = []
        self._sockets: list[tuple[Path, int]] = []
        self._timer: asyncio.TimerHandle | None = None

    def _passage(self, shared: Mapping[Listener, ListenerSpec], enforcer: Enforcer, limits: Limits) -> Passage:
        return Passage(
            ways=tuple(_way(listener, shared[listener], limits) for listener in Listener if listener in shared),
            enforcer=enforcer,
            limits=limits,
            counts=self._counts,
            crowd=self._crowd,
            note=self.access.note if self.access is not None else None,
            turns=self.turns,
        )

    async def open(self) -> None:
        """Listen on every address, or on none. Raises `ConfigError`."""
        keep_memory()
        try:
            for address, passage in self._passages.items():
                await self._listen(address, passage)
        except BaseException:
            await self.close(0)
            raise
        self._sweep()

    async def _listen(self, address: Address, passage: Passage) -> None:
        loop = asyncio.get_running_loop()
        if address in self._bound:
            accepting = self._accepting(address, passage, loop)
            self._servers += [Turnstile(bound, accepting, self._share, loop) for bound in self._bound[address]]
            return
        verify_free(passage.listener, address)
        try:
            server = await address.listen(loop, self._accepting(address, passage, loop), BACKLOG)
        except OSError as error:
            raise taken(passage.listener, address, error) from error
        self._servers.append(server)
        self._remember(address)

    def _accepting(
        self, address: Address, passage: Passage, loop: asyncio.AbstractEventLoop
    ) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of each accepted connection."""
        if not address.secure:
            # Who is turned away stays until it has heard so: too many of these are not heard at all.
            return lambda: Unheard(passage) if passage.overrun else ClientConnection(passage, loop)
        handshakes = self._handshakes
        if handshakes is None:
            raise ConfigError(f"{passage.listener.value}_address `{address}`: TLS is asked for, without a certificate")
        return lambda: Handshake(passage, loop, handshakes, lambda: ClientConnection(passage, loop))

    def renew(self, tls: Context) -> None:
        """Negotiate with another certificate from the next handshake on; connections stay."""
        if self._handshakes is not None:
            self._handshakes.context = tls

    def _remember(self, address: Address) -> None:
        if address.path is not None:
            path = Path(address.path)
            self._sockets.append((path, path.lstat().st_ino))

    async def close(self, grace: float) -> None:
        """Accept no more, let what is in flight end for at most `grace` seconds, then cut."""
        for passage in self._passages.values():
            passage.closing = True
        for server in self._servers:
            server.close()
        self._remove_sockets()
        for connection in tuple(self._crowd.connections):
            connection.drain()
        await self._crowd.gone(grace)
        await self._cut()
        self._enforcer.sum_up(last=True)
        if self._timer is not None:
            self._timer.cancel()

    async def _cut(self) -> None:
        """End everything at once; tasks get a moment to record that."""
        for connection in tuple(self._crowd.connections):
            connection.cut()
        for passage in self._passages.values():
            for way in passage.ways:
                way.upstream.cut()
        await self._crowd.dismiss(_LAST_WORDS_S)

    def stats(self) -> Stats:
        """Return a snapshot."""
        return Stats(
            connections=len(self._crowd.connections),
            in_flight=sum(connection.busy for connection in self._crowd.connections),
            served=self._counts.served,
            refused=self._counts.refused,
            upstream_failures=self._counts.upstream_failures,
            upstream_connections=sum(
                len(way.upstream.opened) for passage in self._passages.values() for way in passage.ways
            ),
            waiting=self.turns.counts()[1] if self.turns is not None else 0,
            access_lines_lost=self.access.lost if self.access is not None else 0,
        )

    def _sweep(self) -> None:
        """Once a second, one pass over all connections: cheaper than a timer for each request."""
        for passage in self._passages.values():
            passage.advance()
        self._crowd.sweep()
        self._enforcer.sum_up()
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _remove_sockets(self) -> None:
        """Remove the socket files that are still ours."""
        for path, inode in self._sockets:
            if os.path.lexists(path) and path.lstat().st_ino == inode:
                path.unlink()
        self._sockets.clear()


def _ports(listeners: Mapping[Listener, ListenerSpec]) -> dict[Address, dict[Listener, ListenerSpec]]:
    """Return what is served at each address."""
    ports: dict[Address, dict[Listener, ListenerSpec]] = {}
    for listener, spec in listeners.items():
        for text in (spec.address, *spec.also):
            ports.setdefault(Address.parse(text), {})[listener] = spec
    return ports


def _turns(limits: Limits) -> Turns | None:
    if limits.model_concurrency is None:
        return None
    return Turns(limits.model_concurrency, limits.model_queue, limits.queue_time)


def _way(listener: Listener, spec: ListenerSpec, limits: Limits) -> Way:
    lines = [b"Host: localhost", *([spec.token_line] if spec.token_line else [])]
    credentials = b"".join(line + b"\r\n" for line in lines)
    return Way(listener, Upstream(Address.parse(spec.upstream), limits), credentials, RequestReader(listener, limits))
