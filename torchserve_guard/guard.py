"""The guard: one running, from the launch of TorchServe to its end. Leaving the contexts is the shutdown order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchserve_guard import __version__, archives, authorization
from torchserve_guard.access import Mode, Operation
from torchserve_guard.admin.instance import RUN_PREFIX, Instance, publish
from torchserve_guard.admin.socket import ControlSocket
from torchserve_guard.admin.status import State, Status
from torchserve_guard.archives.roster import Roster
from torchserve_guard.audit import AccessLog, AuditLog, Entry
from torchserve_guard.audit.access_line import Form
from torchserve_guard.authorization import Authorization
from torchserve_guard.errors import AuditError, ConfigError, FrontendError, GuardError
from torchserve_guard.frontend import ExpectedModel, Frontend, trusted
from torchserve_guard.identity import KeyFile
from torchserve_guard.launching import ROSTER_NAME, launch_of
from torchserve_guard.opening import apart, grpc_door, lodge_of, material, processes
from torchserve_guard.policy import Access, Closures, decide
from torchserve_guard.porters.lodge import Lodge, total
from torchserve_guard.preflight import Loaded
from torchserve_guard.proxy import Door, Enforcer, ListenerSpec, context_of
from torchserve_guard.proxy import Limits as DoorLimits
from torchserve_guard.proxy.tls import Context as TlsContext
from torchserve_guard.registration import Registration
from torchserve_guard.renewal import Renewal
from torchserve_guard.settings import AccessFile, Limits, Profile, Settings, Tls
from torchserve_guard.vigil import Scene, Vigil
from torchserve_guard.wire import Listener

if TYPE_CHECKING:
    from torchserve_guard.opening import Listeners
    from torchserve_guard.proxy.grpc_server import GrpcDoor

Say = Callable[[str], None]
RENEW_AGAIN_AFTER = 5.0


@dataclass
class Guard:
    """One running guard, from the launch of TorchServe to its end."""

    settings: Settings
    store: archives.Store
    models: tuple[Loaded, ...]
    log: AuditLog
    record: Path
    say: Say
    opened: Callable[[], None] = lambda: None
    authorization: Authorization | None = None
    state: State = State.STARTING
    started: float = field(default_factory=time.monotonic)
    signals: int = 0
    frontend: Frontend | None = None
    registration: Registration | None = None
    door: Door | None = None
    grpc: GrpcDoor | None = None
    lodge: Lodge | None = None
    access: AccessLog | None = None
    renewal: Renewal | None = None
    vigil: Vigil | None = None
    closures: Closures = field(default_factory=Closures)
    terminal: bool = field(default_factory=lambda: sys.stdin is not None and sys.stdin.isatty())

    async def serve(self) -> int:
        """Launch, wait until ready, open the door, and wait for the end of it."""
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ask_to_stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.ask_to_renew)
        with _run_directory(self.settings) as root, _access_log(self.settings.access_log) as self.access:
            control = self._control_path(root)
            async with ControlSocket(control, self.status, self.ask_to_stop, self.verify):
                publish(self.record, Instance(os.getpid(), str(self.settings.config), str(control), str(root)))
                return await self._guarded(root)

    def ask_to_renew(self) -> None:
        """Read the certificates again (SIGHUP); where there are none, it is a terminal that hung up, or a mistake."""
        if self.renewal is not None:
            self.renewal.ask()
        elif self.terminal:
            self.ask_to_stop()
        else:
            self.say("SIGHUP: there are no certificates in use to be read again")

    def ask_to_stop(self) -> None:
        """Stop gently when asked once, at once when asked again."""
        self.signals += 1
        self.stop.set()
        if self.signals > 1:
            self.hurry.set()

    async def _guarded(self, root: Path) -> int:
        exposed = root / "models"
        exposed.mkdir(mode=0o700)
        launch = launch_of(self.settings, self.models, root, exposed, os.environ)
        links = launch.run.temporary / "models"
        self.registration = Registration(
            self.settings,
            self.store,
            exposed,
            links,
            lambda: datetime.now(UTC),
            closures=self.closures,
            roster=Roster(root / ROSTER_NAME),
        )
        self.frontend = Frontend(launch)
        try:
            await asyncio.to_thread(self.registration.begin, self.models)
            async with self.frontend:
                if await self._ready():
                    self.registration.pin()
                    await self._open()
        finally:
            self._end_registration()
            self.state = State.STOPPED
        self.log.event("stop", reason="asked")
        self.say("stopped")
        return 0

    async def _ready(self) -> bool:
        """Return when TorchServe has every expected model ready; False when asked to stop before that."""
        assert self.frontend is not None  # noqa: S101 - launched
        expected = tuple(ExpectedModel(model.model, model.version) for model in self.models)
        ready = asyncio.ensure_future(self.frontend.ready(expected, self.settings.limits.start_timeout))
        return await self._unless_stopped(ready)

    async def _unless_stopped(self, awaited: asyncio.Future[Any]) -> bool:
        stop = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait((awaited, stop), return_when=asyncio.FIRST_COMPLETED)
            if awaited.done():
                await awaited
            return awaited.done()
        finally:
            for future in (awaited, stop):
                future.cancel()
                with contextlib.suppress(asyncio.CancelledError, GuardError):
                    await future

    async def _open(self) -> None:
        """Open the door, and return when asked to stop. Raises `FrontendError` when TorchServe dies."""
        assert self.frontend is not None  # noqa: S101 - launched
        if self.authorization is not None:
            authorization.remember(self.settings, self.authorization)
        async with self._keys() as keys, self._door(keys), self._renewal(), self._watch() as watching:
            self.state = State.SERVING
            self._record_serving()
            self.say(self._greeting())
            self.opened()
            lost = self.lodge.lost if self.lodge is not None else None
            ended = asyncio.ensure_future(_first(self.frontend.died(), watching, lost))
            if await self._unless_stopped(ended):
                raise FrontendError("TorchServe died: " + "\n".join(self.frontend.tail()[-20:]))
            self.state = State.DRAINING
            if self.registration is not None:
                self.registration.stop_fetching()
            self.say("closing the door; what is in flight is finished")

    def _end_registration(self) -> None:
        assert self.registration is not None  # noqa: S101 - made before TorchServe was launched
        try:
            self.registration.end()
        except OSError as error:
            self.say(f"a private copy cannot be removed, and stays until the next start: {error}")

    def _record_serving(self) -> None:
        copied = [model.item.archive for model in self.models if self.settings.copied(model.item.archive)]
        more = {"private_copies": copied} if copied else {}
        self.log.event("serving", models=[f"{m.item.archive}={m.staged.digest}" for m in self.models], **more)

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
        settings, registration = self.settings, self.registration
        assert registration is not None  # noqa: S101 - made before TorchServe was launched
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
        self.door = Door(ours, enforcer, _door_limits(settings.limits), tls, access=self.access)
        await self.door.open()
        try:
            if theirs:
                await self._open_lodge(size, theirs, enforcer, keys)
            self._name_models()
            await self._open_grpc(enforcer)
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
        assert self.frontend is not None  # noqa: S101 - launched
        self.grpc = await grpc_door(
            self.settings,
            self.frontend,
            enforcer,
            _door_limits(self.settings.limits),
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
        assert registration is not None  # noqa: S101 - made before TorchServe was launched
        scene = Scene(registration.watched, registration.strayed, registration.stands)
        self.vigil = Vigil(scene, self.closures, self.log, self.say, self.settings.limits.verify_interval)
        watching = asyncio.create_task(self.vigil.watch())
        try:
            yield watching
        finally:
            self.vigil = None
            watching.cancel()
            await asyncio.wait({watching})

    async def verify(self) -> object | None:
        """Look at what is served now, and return what was seen; None while the door is not open."""
        return None if self.vigil is None else (await self.vigil.verify()).document()

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
        assert registration is not None  # noqa: S101 - made before TorchServe was launched
        prepared = await registration.prepare(operation)
        told = {"action": operation.action.value, **registration.shown(prepared)}
        try:
            await self.log.record(Entry(time.time(), "verified", told))
        except BaseException:  # who asked may be gone meanwhile
            await registration.settled(prepared, HTTPStatus.SERVICE_UNAVAILABLE)
            raise
        return prepared

    async def _settled(self, operation: Operation, status: int | None) -> None:
        assert self.registration is not None  # noqa: S101 - made before TorchServe was launched
        await self.registration.settled(operation, status)
        self._name_models()

    def _name_models(self) -> None:
        """Tell the access log which archives the models are."""
        if self.access is None or self.registration is None:
            return
        digests: dict[str, dict[str, str]] = {}
        for one in self.registration.listed():
            digests.setdefault(one["model"], {})[one["version"]] = one["digest"]
        self.access.writer.digests = digests
        if self.lodge is not None:
            self.lodge.tell_models(digests)

    def _listeners(self) -> dict[Listener, ListenerSpec]:
        """Return where the door listens, where TorchServe does, and the key that it asks for there."""
        assert self.frontend is not None  # noqa: S101 - launched
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

    def _greeting(self) -> str:
        listening = ", ".join(f"{name} {address}" for name, address in self._addresses().items())
        return f"the door is open: {listening}; mode {self.settings.mode.value}, {len(self.models)} models verified"

    def _addresses(self) -> dict[str, str]:
        """Return every address that the guard listens on, by the name of the listener."""
        named = {name: str(address) for name, address in self.settings.listeners.items()}
        return named | {f"grpc-{name}": str(address) for name, address in self.settings.grpc_listeners.items()}

    def _control_path(self, root: Path) -> Path:
        admin = self.settings.admin
        return Path(admin.path) if admin is not None and admin.path is not None else root / "control.sock"

    def status(self) -> Status:
        """Return the guard as it is now."""
        return Status(
            state=self.state,
            version=__version__,
            pid=os.getpid(),
            frontend_pid=self.frontend.pid if self.frontend is not None else None,
            config=str(self.settings.config),
            mode=self.settings.mode.value,
            uptime=time.monotonic() - self.started,
            listeners=self._addresses(),
            models=self.registration.listed() if self.registration is not None else (),
            door=self._counted(),
            grpc=asdict(self.grpc.stats()) if self.grpc is not None else {},
            verification=asdict(self.vigil.counts) if self.vigil is not None else {},
            processes=self.lodge.listed() if self.lodge is not None else (),
        )

    def _counted(self) -> dict[str, int]:
        doors = [door.stats() for door in (self.door, self.lodge) if door is not None]
        return asdict(total(*doors)) if doors else {}


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


def _verify_irreplaceable(folder: Path) -> None:
    """Return if nobody else can put another folder in the place of this one; raise `ConfigError`.

    What TorchServe runs lies there: whoever can rename a folder above it can have code of his own run.
    """
    if not trusted((folder,)):
        raise ConfigError(
            f"{folder}: another user could replace this folder, or one above it; use one below folders that only root "
            "or the guard's user may write (`guard.state_dir`, `guard.runtime_dir`, TMPDIR)"
        )


@contextmanager
def _access_log(told: AccessFile | None) -> Iterator[AccessLog | None]:
    """Keep the access log, if there is to be one."""
    if told is None:
        yield None
        return
    try:
        log = AccessLog(told.path, Form(told.form), size=told.size, count=told.count)
    except AuditError as error:
        raise ConfigError(*error.complaints) from error
    log.start()
    try:
        yield log
    finally:
        log.close()


@contextmanager
def _run_directory(settings: Settings) -> Iterator[Path]:
    """Make a private run directory; what is in it goes when the guard does."""
    try:
        if settings.runtime_dir is not None:
            settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=settings.runtime_dir))
    except OSError as error:
        place = settings.runtime_dir or tempfile.gettempdir()
        raise ConfigError(
            f"guard.runtime_dir `{place}`: no folder can be made there ({error.strerror or error}); name another"
        ) from error
    try:
        _verify_irreplaceable(root)
        _verify_irreplaceable(settings.state_dir)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
