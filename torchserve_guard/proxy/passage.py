"""The passage: what the connections of one listener share."""

from __future__ import annotations

from dataclasses import dataclass

from torchserve_guard.proxy.crowd import Crowd
from torchserve_guard.proxy.enforcement import Enforcer
from torchserve_guard.proxy.head import RequestReader
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.upstream import Upstream
from torchserve_guard.wire import Listener


@dataclass(slots=True)
class Counts:
    """What the listeners of one door have counted, together."""

    served: int = 0
    refused: int = 0
    upstream_failures: int = 0


class Passage:
    """From one listener to its upstream. `credentials` are whole lines that each request upstream gets."""

    def __init__(
        self,
        *,
        listener: Listener,
        upstream: Upstream,
        credentials: bytes,
        enforcer: Enforcer,
        limits: Limits,
        counts: Counts,
        crowd: Crowd,
    ) -> None:
        self.listener = listener
        self.upstream = upstream
        self.credentials = credentials
        self.enforcer = enforcer
        self.permit = enforcer.permit
        self.limits = limits
        self.counts = counts
        self.crowd = crowd
        self.reader = RequestReader(listener, limits)
        self.closing = False
        # Of this listener alone: idle clients of inference must not keep an operator from management.
        self.present = 0
        self.tick = 0
        self._last_full = -1

    def is_full(self) -> bool:
        """Whether there is no room for one more connection."""
        return self.present >= self.limits.connections

    def first_this_tick(self) -> bool:
        """Whether this is the first of a flood of refusals in this second: one is recorded, all are counted."""
        first = self._last_full != self.tick
        self._last_full = self.tick
        return first
