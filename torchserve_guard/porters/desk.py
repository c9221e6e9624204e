"""The desk: where the guard takes what its porters report, and records, decides and settles it in one order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace

from torchserve_guard.errors import AuditError, Forbidden, Refusal
from torchserve_guard.porters import reports
from torchserve_guard.porters.channel import Document
from torchserve_guard.porters.reports import Wanted
from torchserve_guard.proxy import Enforcer
from torchserve_guard.proxy.enforcement import Granted, Record
from torchserve_guard.wire import Listener

_LOG = logging.getLogger(__name__)


class Desk:
    """What all porters report to. `listeners` are those that they stand at; `now` gives seconds since the epoch.

    `most` is how many management requests of one porter may be under way; `certified` whether it may name clients by
    their certificates.
    """

    def __init__(
        self,
        enforcer: Enforcer,
        audit: Record,
        listeners: Collection[Listener],
        most: int,
        *,
        certified: bool,
        now: Callable[[], float],
    ) -> None:
        self._enforcer = enforcer
        self._audit = audit
        self._listeners = frozenset(listeners)
        self._most = most
        self._certified = certified
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, document: Document, process: int) -> None:
        """Put a porter's refusal on record. What cannot be is told: the client was turned away all the same."""
        entry = reports.entry_of(document, self._now())
        try:
            self._audit.write(replace(entry, fields={**entry.fields, "process": process}))
        except AuditError as error:
            _LOG.error("a refusal is not on record: %s", error)

    def verify(self, want: Wanted, under_way: int) -> None:
        """Return if a porter may want this; raise `ValueError`."""
        if want.asked.listener not in self._listeners:
            raise ValueError(f"a request on the {want.asked.listener.value} listener, which is not a porter's")
        if want.asked.certificate is not None and not self._certified:
            raise ValueError("a client certificate where none is asked for")
        if under_way >= self._most:
            raise ValueError("more changes than there are connections")

    async def grant(self, want: Wanted) -> Granted | Refusal:
        """Return what the enforcer makes of a management request, which is on record then."""
        try:
            understood = self._enforcer.understand(want.asked.listener, want.asked.method, want.asked.target)
            if not understood.managed:
                return Forbidden("Not a management request.", rule="porter")
            return await self._enforcer.manage(want.asked, understood, want.body)
        except Refusal as refusal:
            return refusal

    async def settle(self, granted: Granted, status: int | None) -> None:
        """Record how a permitted request ended, None when nobody will ever know."""
        await self._enforcer.outcome(granted, status)

    def run(self, coroutine: Coroutine[None, None, None]) -> None:
        """Do it aside; `done` waits for it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a request that came in at a porter met with a bug", exc_info=error)

    async def done(self) -> None:
        """Return when all that was reported is recorded and settled."""
        while self._tasks:
            await asyncio.wait(self._tasks)
