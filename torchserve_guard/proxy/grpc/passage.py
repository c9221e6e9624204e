"""The passage of calls: what the connections of one gRPC listener share, and the way from there to TorchServe's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import count

from torchserve_guard.access import Operation
from torchserve_guard.audit.access_line import Note
from torchserve_guard.errors import TooMany
from torchserve_guard.proxy.crowd import Crowd
from torchserve_guard.proxy.enforcement import Enforcer, Understood, understood_call
from torchserve_guard.proxy.grpc.forms import Forms
from torchserve_guard.proxy.grpc.upstream import GrpcUpstream
from torchserve_guard.proxy.head import Kept
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.passage import Counts, Threshold
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.wire import Listener
from torchserve_guard.wire.grpc.calls import Call as Row
from torchserve_guard.wire.grpc.calls import call_of

DOOR = "grpc-"
MOST_CALLS = 4096
"""Calls in flight on one listener; TorchServe's own queues hold a hundred per model."""
_MOST_HELD = 256 << 20
_MESSAGES_HELD = 8
_MOST_REMEMBERED = 1024


class GrpcPassage(Threshold):
    """From one gRPC listener to TorchServe.

    `optional` says whether the Open Inference Protocol is served, `forms` which models answer in which form.
    """

    def __init__(
        self,
        *,
        listener: Listener,
        upstream: GrpcUpstream,
        enforcer: Enforcer,
        limits: Limits,
        counts: Counts,
        crowd: Crowd,
        optional: bool,
        forms: Forms,
        note: Callable[[Note], None] | None = None,
        turns: Turns | None = None,
    ) -> None:
        super().__init__(
            listener=listener,
            enforcer=enforcer,
            limits=limits,
            counts=counts,
            crowd=crowd,
            note=note,
            turns=turns,
            door=DOOR,
        )
        self.name = f"{DOOR}{listener.value}"
        self.upstream = upstream
        self._optional = optional
        self.forms = forms
        self._rows: dict[str, tuple[Row, Understood]] = {}
        self.longest = limits.management_body if listener is Listener.MANAGEMENT else limits.body
        self.calls = 0
        self._held = 0
        self._most_held = max(_MOST_HELD, _MESSAGES_HELD * (self.longest or 0))
        self._prefix = secrets.token_hex(12)
        self._numbers = count()
        self._remembered: Kept[tuple[str, str | None, str | None], Understood] = Kept(_MOST_REMEMBERED)

    def fresh_id(self) -> bytes:
        """Return an id for a call that has none."""
        return f"{self._prefix}{next(self._numbers):08x}".encode()

    def row(self, path: str) -> tuple[Row, Understood]:
        """Return the row of a path, and what is known of its calls before a message came. Raises NotFound."""
        known = self._rows.get(path)
        if known is None:
            row = call_of(self.listener, path, optional=self._optional)
            known = self._rows[path] = row, understood_call(row.about)
        return known

    def understood(self, operation: Operation) -> Understood:
        """Return what may be remembered of an operation on a model."""
        key = (operation.route, operation.resource.name, operation.resource.version)
        return self._remembered.get(key) or self._remembered.keep(key, understood_call(operation))

    def hold(self, size: int) -> None:
        """Count bytes of messages that are not whole yet, or let them go. Raises `TooMany`."""
        self._held += size
        if size > 0 and self._held > self._most_held:
            raise TooMany("Too much is on its way at once.", rule="proxy.held")
