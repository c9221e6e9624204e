"""The porter: a process that serves the door beside the guard's own, from what the guard tells it.

It keeps nothing: keys it knows by their digests, the record and every change are the guard's. It ends with the guard.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import cast

import uvloop

from torchserve_guard.access import Operation
from torchserve_guard.audit import AccessLog, Entry
from torchserve_guard.audit.access_line import Digests, Form
from torchserve_guard.errors import AuditError, Forbidden, Unavailable
from torchserve_guard.identity import KeyKind, KeyRing
from torchserve_guard.policy import Access, Closures, decide
from torchserve_guard.porters import orders, reports
from torchserve_guard.porters.channel import Channel, Document
from torchserve_guard.porters.orders import Closed, Logbook, Material, Post
from torchserve_guard.porters.reports import Wanted
from torchserve_guard.porters.shares import OwnShare
from torchserve_guard.proxy import Door, Enforcer, context_of
from torchserve_guard.proxy.enforcement import Asked, Granted, Understood
from torchserve_guard.proxy.memory import spare_what_stays
from torchserve_guard.proxy.tls import Context

_LOG = logging.getLogger(__name__)

STANDARD_INPUT = 0


class Told:
    """The record, as a porter has it: what is written here, the guard writes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def write(self, entry: Entry) -> None:
        """Tell the guard of a refusal. Raises `AuditError` when the guard is behind with its writing."""
        if self._channel.full:
            raise AuditError("the guard does not keep up with the refusals of this process")
        self._channel.say(reports.entry(entry))

    async def record(self, entry: Entry) -> None:
        """Never: what must be on the disk is recorded where it is decided."""
        raise AuditError(f"`{entry.event}` is not a porter's to record")


class Ticketed(Granted):
    """A request that the guard has permitted, by its ticket there."""

    ticket: int = 0


class Outpost(Enforcer):
    """An enforcer that decides on inference; management requests the guard decides, records and prepares."""

    def __init__(self, access: Access, ring: KeyRing, closures: Closures, channel: Channel) -> None:
        super().__init__(
            access=access,
            identify=ring.identify,
            decide=decide,
            audit=Told(channel),
            rotate=_not_here,
            prepare=_never_here,
            settled=_nor_this,
            now=time.time,
            closures=closures,
        )
        self._channel = channel
        self._tickets = 0
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}

    async def manage(self, asked: Asked, understood: Understood, json_body: bytes | None) -> Granted:
        """Ask the guard. Raises the refusal that it answers with; Unavailable when it is behind."""
        if self._channel.full:
            raise Unavailable("The request cannot be recorded.", reason="the guard is behind", rule="audit")
        self._tickets += 1
        ticket, future = self._tickets, asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        self._channel.say(reports.wanted(Wanted(ticket, asked, json_body)))
        line = await future
        principal = self._who(asked.authorization, asked.certificate)
        decision = decide(self._access, principal, understood.operation)
        granted = Ticketed(asked, principal, understood.operation, decision, line)
        granted.ticket = ticket
        return granted

    async def outcome(self, granted: Granted, status: int | None) -> None:
        """Tell the guard."""
        self._channel.say(reports.outcome(cast("Ticketed", granted).ticket, status))

    def answered(self, document: Document) -> None:
        """Take the guard's answer."""
        future = self._waiting.pop(document["ticket"])
        granted = document["order"] == "granted"
        if future.done():  # its client was cut off meanwhile
            if granted:
                self._channel.say(reports.outcome(document["ticket"], None))
        elif granted:
            future.set_result(reports.line_of(document))
        else:
            future.set_exception(reports.why_of(document))


class Porter:
    """One porter: hears orders, and says of each that it was carried out."""

    def __init__(self) -> None:
        self.left = asyncio.get_running_loop().create_future()
        self.channel = Channel(self._hear, _misled, self._alone)
        self._leaving = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._closures = Closures()
        self._access_log: AccessLog | None = None
        self._ring: KeyRing
        self._outpost: Outpost
        self._door: Door | None = None

    def _hear(self, document: Document) -> None:
        match document["order"]:
            case "begin":
                self._door = self._stand(orders.post_of(document))
                spare_what_stays()
                self._aside(document, self._door.open())
            case "keys":
                self._ring.keys = orders.keys_of(document)
                self._took(document)
            case "certificates":
                cast("Door", self._door).renew(_context(orders.material_of(document)))
                self._took(document)
            case "closures":
                self._close_models(orders.closures_of(document))
                self._took(document)
            case "models":
                self._name_models(document["models"])
                self._took(document)
            case "close":
                self._aside(document, self._close(document["grace"]))
            case "granted" | "refused":
                self._outpost.answered(document)
            case _:
                self._took(document)

    def _stand(self, post: Post) -> Door:
        """Return the door, not open yet."""
        self._ring = KeyRing(post.keys, time.time)
        self._outpost = Outpost(post.access, self._ring, self._closures, self.channel)
        self._close_models(post.closures)
        bound = {
            address: tuple(socket.socket(fileno=number) for number in numbers)
            for address, numbers in post.bound.items()
        }
        tls = None if post.tls is None else _context(post.tls)
        share = OwnShare(post.shares, post.place)
        self._access_log = _logbook(post.access_log)
        self._name_models(post.models)
        return Door(post.listeners, self._outpost, post.limits, tls, bound=bound, share=share, access=self._access_log)

    def _name_models(self, digests: Digests) -> None:
        if self._access_log is not None:
            self._access_log.writer.digests = digests

    def _close_models(self, closed: Closed) -> None:
        self._closures.models.clear()
        for model, version, closure in closed:
            self._closures.close(model, version, closure)

    async def _close(self, grace: float) -> None:
        self._leaving = True
        await cast("Door", self._door).close(grace)
        if self._access_log is not None:
            self._access_log.close()

    def _aside(self, document: Document, coroutine: Coroutine[None, None, None]) -> None:
        """Carry out an order that takes time, while others are heard."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._done(document, task))

    def _done(self, document: Document, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = task.exception()
        if error is not None:
            _LOG.error("an order could not be carried out", exc_info=error)
            os._exit(1)
        self._took(document)
        if self._leaving and not self._tasks:
            self.channel.close()

    def _took(self, document: Document) -> None:
        stats = None if self._door is None else self._door.stats()
        self.channel.say(reports.took(document["number"], stats))

    def _alone(self) -> None:
        # INVARIANT: nothing is served when there is nobody who records it.
        if not self._leaving:
            os._exit(1)
        self.left.set_result(None)


def _misled(why: str) -> None:
    raise RuntimeError(f"the guard says what cannot be: {why}")


def _context(tls: Material) -> Context:
    return context_of(tls.certificate, tls.key, tls.client_ca, weak=tls.weak)


def _logbook(told: Logbook | None) -> AccessLog | None:
    """Return the access log, which is written from now on."""
    if told is None:
        return None
    log = AccessLog(Path(told.path), Form(told.form), size=told.size, count=told.count)
    log.start()
    return log


def _not_here(_kind: KeyKind) -> None:
    raise Forbidden("Keys are not rotated here.", rule="porter")


async def _never_here(_operation: Operation) -> Operation:
    raise Forbidden("Nothing is registered here.", rule="porter")


async def _nor_this(_operation: Operation, _status: int | None) -> None:
    raise Forbidden("Nothing is changed here.", rule="porter")


async def _serve(connection: socket.socket) -> None:
    porter = Porter()
    await asyncio.get_running_loop().create_unix_connection(lambda: porter.channel, sock=connection)
    await porter.left


def main() -> None:
    """Serve until told to leave, or until the guard is gone."""
    connection = socket.socket(fileno=os.dup(STANDARD_INPUT))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, STANDARD_INPUT)
    os.close(nothing)
    uvloop.run(_serve(connection))
