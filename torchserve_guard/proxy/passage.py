"""The passage: what the connections of one port share, and the ways from it to TorchServe's listeners."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torchserve_guard.audit.access_line import Note
from torchserve_guard.errors import Refusal, TooMany, Unavailable
from torchserve_guard.proxy.crowd import Crowd
from torchserve_guard.proxy.enforcement import Enforcer
from torchserve_guard.proxy.head import Kept, RequestReader
from torchserve_guard.proxy.limits import CROWDED, HURRIED_HEAD_S, HURRIED_IDLE_S, Limits
from torchserve_guard.proxy.sources import Source, Sources
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.proxy.upstream import Upstream
from torchserve_guard.wire import Listener, listener_of

_MOST_REMEMBERED = 1024
_LONGEST_REMEMBERED = 512


@dataclass(slots=True)
class Counts:
    """What the listeners of one door have counted, together."""

    served: int = 0
    refused: int = 0
    upstream_failures: int = 0


@dataclass(frozen=True, slots=True)
class Way:
    """The way to one of TorchServe's listeners. `credentials` are whole lines that each request upstream gets."""

    listener: Listener
    upstream: Upstream
    credentials: bytes
    reader: RequestReader


class Threshold:
    """What the connections of one port share, whatever is spoken there.

    `listener` is the first one's: whoever is turned away before a request was read is recorded under it, and under the
    name of the `door`. `note` takes what the access log says of a request, None when there is no log. `turns` is None
    when models take all that comes.
    """

    def __init__(
        self,
        *,
        listener: Listener,
        enforcer: Enforcer,
        limits: Limits,
        counts: Counts,
        crowd: Crowd,
        note: Callable[[Note], None] | None = None,
        turns: Turns | None = None,
        door: str = "",
    ) -> None:
        self.listener = listener
        self.door = door
        self.enforcer = enforcer
        self.limits = limits
        self.counts = counts
        self.crowd = crowd
        self.note = note
        self.turns = turns
        self.closing = False
        # Of this port alone: idle clients of inference must not keep an operator from management.
        self.present = 0
        self._sources = Sources(limits.source_connections)
        self.tick = 0
        self.idle_time = limits.idle_time
        self.head_time = limits.head_time
        # The seconds that one byte is worth to a client whose bytes come, or are taken, slowly.
        self.worth = 1 / limits.rate if limits.rate else math.inf
        self._last_full = -1

    def refusal(self, source: Source | None) -> Refusal | None:
        """Return what one more connection from there is told when there is no room for it."""
        if self.present >= self.limits.connections:
            return Unavailable("Too many connections.", rule="proxy.connections")
        if self._sources.is_full(source):
            return TooMany("Too many connections from this address.", rule="proxy.source-connections")
        return None

    @property
    def overrun(self) -> bool:
        """Whether as many are over the limit, and hear so, as there is room for."""
        return self.present >= self.limits.connections + self.limits.turned_away

    def enter(self, source: Source | None) -> None:
        """Count a connection in."""
        self.present += 1
        self._sources.enter(source)

    def leave(self, source: Source | None) -> None:
        """Count a connection out."""
        self.present -= 1
        self._sources.leave(source)

    def advance(self) -> None:
        """Let a second pass; say how long from now on a client may say nothing: not for long where many want in."""
        self.tick += 1
        limits = self.limits
        crowded = self.present >= limits.connections * CROWDED
        self.idle_time = min(limits.idle_time, HURRIED_IDLE_S) if crowded else limits.idle_time
        self.head_time = min(limits.head_time, HURRIED_HEAD_S) if crowded else limits.head_time

    def first_this_tick(self) -> bool:
        """Whether this is the first of a flood of refusals in this second: one is recorded, all are counted."""
        first = self._last_full != self.tick
        self._last_full = self.tick
        return first


class Unheard(asyncio.Protocol):
    """One accepted connection of a flood: it ends at once. Of those before it one each second is on record."""

    def __init__(self, passage: Threshold) -> None:
        self._passage = passage

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """End it."""
        self._passage.counts.refused += 1
        cast("asyncio.Transport", transport).abort()


class Passage(Threshold):
    """From one port of HTTP to what is behind it: one way, or several where listeners share the port."""

    def __init__(
        self,
        *,
        ways: tuple[Way, ...],
        enforcer: Enforcer,
        limits: Limits,
        counts: Counts,
        crowd: Crowd,
        note: Callable[[Note], None] | None = None,
        turns: Turns | None = None,
    ) -> None:
        listener = ways[0].listener
        super().__init__(
            listener=listener, enforcer=enforcer, limits=limits, counts=counts, crowd=crowd, note=note, turns=turns
        )
        self.ways = ways
        self._by_listener = {way.listener: way for way in ways}
        self._remembered: Kept[bytes, Way] = Kept(_MOST_REMEMBERED)
        self.permit = enforcer.permit

    def way_for(self, head: bytes) -> Way:
        """Return the way that a request goes. Raises a `Refusal` when its head has no request line."""
        first = self.ways[0]
        if len(self.ways) == 1:
            return first
        target = first.reader.target(head)
        way = self._remembered.get(target)
        if way is None:
            way = self._by_listener[listener_of(tuple(self._by_listener), target)]
            if len(target) <= _LONGEST_REMEMBERED:
                self._remembered.keep(target, way)
        return way
