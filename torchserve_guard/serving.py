"""The serving: keys, doors, certificates and the vigil, all held open together while TorchServe is up.

What it needs is imported while TorchServe starts, and nowhere before.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from torchserve_guard.access import Mode, Operation
from torchserve_guard.audit import AccessLog, AuditLog, Entry
from torchserve_guard.errors import GuardError
from torchserve_guard.frontend import Frontend
from torchserve_guard.identity import KeyFile
from torchserve_guard.opening import apart, grpc_door, lodge_of, material, processes
from torchserve_guard.policy import Access, Closures, decide
from torchserve_guard.porters.lodge import Lodge, total
from torchserve_guard.proxy import Door, Enforcer, ListenerSpec, context_of
from torchserve_guard.proxy import Limits as DoorLimits
from torchserve_guard.proxy.descriptors import shortage
from torchserve_guard.proxy.memory import spare_what_stays
from torchserve_guard.proxy.tls import Context as TlsContext
from torchserve_guard.registration import Registration
from torchserve_guard.renewal import Renewal
from torchserve_guard.settings import Limits, Profile, Settings, Tls
from torchserve_guard.vigil import Scene, Vigil
from torchserve_guard.wire import Listener

if TYPE_CHECKING:
    from torchserve_guard.opening import Listeners
    from torchserve_guard.proxy.grpc.server import GrpcDoor

RENEW_AGAIN_AFTER = 5.0


@dataclass
class Serving:
    """What is open. `hurry` is set by who does not want to wait for what is in flight as it closes."""

    settings: Settings
    frontend: Frontend
    registration: Registration
    closures: Closures
    access: AccessLog | None
    log: AuditLog
    say: Callable[[str], None]
    hurry: asyncio.Event
    door: Door | None = field(default=None, init=False)
    grpc: GrpcDoor | None = field(default=None, init=False)
    lodge: Lodge | None = field(default=None, init=False)
    renewal: Renewal | None = field(default=None, init=False)
    vigil: Vigil | None = field(default=None, init=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[asyncio.Future[None]]:
        """Open everything, and yield what ends when TorchServe has died; it raises what else must end the guard.

        Leaving closes it all. Raises `GuardError` when something cannot be opened.
        """
        async with self._keys() as keys, self._door(keys), self._renewal(), self._watch() as watching:
            lost = self.lodge.lost if self.lodge is not None else None
            yield asyncio.ensure_future(_first(self.frontend.died(), watching, lost))

    def counted(self) -> dict[str, int]:
        """Return what the doors have counted, all processes together."""
        doors = [door.stats() for door in (self.door, self.lodge) if door is not None]
        return asdict(total(*doors)) if doors else {}

    def calls(self) -> dict[str, int]:
        """Return what the gRPC door has counted."""
        return asdict(self.grpc.stats()) if self.grpc is not None else {}

    def looks(self) -> dict[str, int]:
        """Return what the vigil has counted."""
        return asdict(self.vigil.counts) if self.vigil is not None else {}

    def processes(self) -> tuple[Mapping[str, int | str | float], ...]:
        """Return the processes that serve, where there are several."""
        return self.lodge.listed() if self.lodge is not None else ()

    async def verify(self) -> object | None:
        """Look at what is served now, and return what was seen; None while the door is not open."""
        return None if self.vigil is None else (await self.vigil.verify()).document()

    @asynccontextmanager
    async def _keys(self) -> AsyncIterator[KeyFile]:
        """Hold the key file while the door is open, and renew what expires in it."""
        keys = KeyFile(self.settings.key_file, self.settings.token_lifetime, time.time)
        if self._keys_used():
            keys.write()
            self.say(f"the keys are in {keys.path}")
        renewing = asyncio.create_task(self._renew(keys))
        try:
            yield keys
        finally:
            renewing.cancel()
            keys.remove()

    def _keys_used(self) -> bool:
        return self.settings.keys_required or self.settings.mode is Mode.EXPLICIT

    async def _renew(self, keys: KeyFile) -> None:
        while self._keys_used():
            await asyncio.sleep(max(0.0, keys.next_expiry() - time.time()))
            try:
                for kind in keys.renew_expired():
                    self.log.event("key-renewed", key=kind.value)
                await self._spread_keys(keys)
            except GuardError as error:
                self.say(f"a key has expired and cannot be renewed, trying again: {error}")
                await asyncio.sleep(RENEW_AGAIN_AFTER)

    async def _spread_keys(self, keys: KeyFile) -> None:
        if self.lodge is not None:
            await self.lodge.tell_keys(keys.hashed())

    async def _spread_certificates(self, tls: Tls) -> None:
        if self.lodge is not None:
            await self.lodge.tell_certificates(material(tls, self.settings.profile))

    @asynccontextmanager
    async def _door(self, keys: KeyFile) -> AsyncIterator[None]:
        """Hold the door open; leaving closes it, and lets what is in flight end, unless hurried."""
        settings = self.settings
        enforcer = Enforcer(
            access=self._access(),
            identify=keys.identify,
            decide=decide,
            audit=self.log,
            rotate=keys.rotate,
            prepare=self._prepare,
            settled=self._settled,
            now=time.time,
            closures=self.closures,
            spread=lambda: self._spread_keys(keys),
        )
        tls = self._context(settings.tls) if settings.tls is not None else None
        size = processes(settings.workers, len(os.sched_getaffinity(0)))
        ours, theirs = apart(self._listeners()) if size > 1 else (self._listeners(), {})
        calls = len(settings.grpc_listeners)
        self.door = Door(ours, enforcer, _door_limits(settings.limits), tls, access=self.access, beside=calls)
        if (fewer := shortage(settings.limits.max_connections, self.door.limits.connections)) is not None:
            self.say(fewer)
        await self.door.open()
        try:
            if theirs:
                await self._open_lodge(size, theirs, enforcer, keys)
            self._name_models()
            await self._open_grpc(enforcer)
            spare_what_stays()
            yield
        finally:
            closing = asyncio.ensure_future(self._close(settings.limits.drain_timeout))
            hurry = asyncio.ensure_future(self.hurry.wait())
            await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not closing.done():
                await self._close(0)
            await closing

    async def _open_lodge(self, size: int, listeners: Listeners, enforcer: Enforcer, keys: KeyFile) -> None:
        self.lodge = lodge_of(
            size,
            listeners,
            settings=self.settings,
            access=self._access(),
            enforcer=enforcer,
            keys=keys,
            limits=_door_limits(self.settings.limits),
            log=self.log,
            say=self.say,
        )
        self.lodge.follow(self.closures)
        await self.lodge.open()

    def _access(self) -> Access:
        return Access(self.settings.mode, self.settings.keys_required, self.settings.keyless_management)

    async def _open_grpc(self, enforcer: Enforcer) -> None:
        self.grpc = await grpc_door(
            self.settings,
            self.frontend,
            enforcer,
            self.door.limits if self.door is not None else _door_limits(self.settings.limits),
            note=self.access.note if self.access is not None else None,
            turns=self.door.turns if self.door is not None else None,
        )
        if self.grpc is not None:
            await self.grpc.open()

    async def _close(self, grace: float) -> None:
        doors = [door.close(grace) for door in (self.door, self.lodge, self.grpc) if door is not None]
        await asyncio.gather(*doors)

    @asynccontextmanager
    async def _renewal(self) -> AsyncIterator[None]:
        """Watch the certificates while the door is open."""
        if self.settings.tls is None:
            yield
            return
        renewal = Renewal(
            self.settings.tls,
            self.log,
            self.say,
            self._renewed,
            lambda: datetime.now(UTC),
            spread=self._spread_certificates,
        )
        self.renewal = renewal
        watching = asyncio.create_task(renewal.watch())
        try:
            yield
        finally:
            self.renewal = None
            watching.cancel()

    @asynccontextmanager
    async def _watch(self) -> AsyncIterator[asyncio.Task[None]]:
        """Look at what is served while the door is open; the task ends only by a bug, and the door then closes."""
        registration = self.registration
        scene = Scene(registration.watched, registration.strayed, registration.stands)
        self.vigil = Vigil(scene, self.closures, self.log, self.say, self.settings.limits.verify_interval)
        watching = asyncio.create_task(self.vigil.watch())
        try:
            yield watching
        finally:
            self.vigil = None
            watching.cancel()
            await asyncio.wait({watching})

    def _context(self, tls: Tls) -> TlsContext:
        return context_of(tls.certificate, tls.key, tls.client_ca, weak=self.settings.profile is Profile.COMPAT)

    def _renewed(self, tls: Tls) -> Callable[[], None]:
        """Return what puts new certificates to use. Raises `ConfigError` when they cannot be."""
        door, context, calls = self.door, self._context(tls), self.grpc.tls if self.grpc is not None else None
        assert door is not None  # noqa: S101 - open
        take = calls.renewal(tls.certificate, tls.key, tls.client_ca) if calls is not None else None

        def both() -> None:
            door.renew(context)
            if take is not None:
                take()

        return both

    async def _prepare(self, operation: Operation) -> Operation:
        """Prepare a registration, and record the digest of what will be registered before it is."""
        registration = self.registration
        prepared = await registration.prepare(operation)
        told = {"action": operation.action.value, **registration.shown(prepared)}
        try:
            await self.log.record(Entry(time.time(), "verified", told))
        except BaseException:  # who asked may be gone meanwhile
            await registration.settled(prepared, HTTPStatus.SERVICE_UNAVAILABLE)
            raise
        return prepared

    async def _settled(self, operation: Operation, status: int | None) -> None:
        await self.registration.settled(operation, status)
        self._name_models()

    def _name_models(self) -> None:
        """Tell the access log which archives the models are."""
        if self.access is None:
            return
        digests: dict[str, dict[str, str]] = {}
        for one in self.registration.listed():
            digests.setdefault(one["model"], {})[one["version"]] = one["digest"]
        self.access.writer.digests = digests
        if self.lodge is not None:
            self.lodge.tell_models(digests)

    def _listeners(self) -> dict[Listener, ListenerSpec]:
        """Return where the door listens, where TorchServe does, and the key that it asks for there."""
        sockets, keys = self.frontend.sockets, self.frontend.keys
        behind = {
            Listener.INFERENCE: (sockets.inference, keys.inference if keys is not None else ""),
            Listener.MANAGEMENT: (sockets.management, keys.management if keys is not None else ""),
            Listener.METRICS: (sockets.metrics, ""),
        }
        return {
            listener: ListenerSpec(
                str(self.settings.listeners[listener.value]),
                f"unix:{socket}",
                f"Authorization: Bearer {key}".encode() if key else b"",
                tuple(str(address) for address, names in self.settings.ports.items() if listener.value in names),
            )
            for listener, (socket, key) in behind.items()
            if listener.value in self.settings.listeners
        }


async def _first(died: Awaitable[int], watching: asyncio.Task[None], lost: asyncio.Future[str] | None) -> None:
    """Return when TorchServe has died; raise why no porter is left, or what the vigil ended by: it never should."""
    dying = asyncio.ensure_future(died)
    either: set[asyncio.Future[Any]] = {dying, watching} | ({lost} if lost is not None else set())
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if lost is not None and lost.done():
            raise GuardError(lost.result())
        if watching.done():
            watching.result()
    finally:
        dying.cancel()


def _door_limits(limits: Limits) -> DoorLimits:
    return DoorLimits(
        body=limits.max_request_size,
        connections=limits.max_connections,
        source_connections=limits.max_connections_per_address,
        stall_time=limits.stall_timeout,
        rate=limits.min_rate,
        model_concurrency=limits.model_concurrency,
        model_queue=limits.model_queue,
        queue_time=limits.queue_timeout,
        idle_time=limits.idle_timeout,
        head_time=limits.head_timeout,
    )
