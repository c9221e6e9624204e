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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchserve_guard import __version__, archives, authorization
from torchserve_guard.access import Mode, Operation
from torchserve_guard.admin.instance import RUN_PREFIX, Instance, publish
from torchserve_guard.admin.socket import ControlSocket
from torchserve_guard.admin.status import State, Status
from torchserve_guard.audit import AuditLog, Entry
from torchserve_guard.authorization import Authorization
from torchserve_guard.errors import ConfigError, FrontendError, GuardError
from torchserve_guard.frontend import ExpectedModel, Frontend, trusted
from torchserve_guard.identity import KeyFile
from torchserve_guard.launching import launch_of
from torchserve_guard.opening import grpc_door
from torchserve_guard.policy import Access, decide
from torchserve_guard.preflight import Loaded
from torchserve_guard.proxy import Door, Enforcer, ListenerSpec, context_of
from torchserve_guard.proxy import Limits as DoorLimits
from torchserve_guard.proxy.tls import Context as TlsContext
from torchserve_guard.registration import Registration
from torchserve_guard.renewal import Renewal
from torchserve_guard.settings import Limits, Profile, Settings, Tls
from torchserve_guard.wire import Listener

if TYPE_CHECKING:
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
    renewal: Renewal | None = None
    terminal: bool = field(default_factory=lambda: sys.stdin is not None and sys.stdin.isatty())

    async def serve(self) -> int:
        """Launch, wait until ready, open the door, and wait for the end of it."""
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ask_to_stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.ask_to_renew)
        with _run_directory(self.settings) as root:
            control = self._control_path(root)
            async with ControlSocket(control, self.status, self.ask_to_stop):
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
        self.registration = Registration(self.settings, self.store, exposed, links, lambda: datetime.now(UTC))
        for model in self.models:
            self.registration.expose(model)
            self.registration.serving(model)
        self.frontend = Frontend(launch)
        try:
            async with self.frontend:
                if await self._ready():
                    self.registration.pin()
                    await self._open()
        finally:
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
        async with self._keys() as keys, self._door(keys), self._renewal():
            self.state = State.SERVING
            self.log.event("serving", models=[f"{m.item.archive}={m.staged.digest}" for m in self.models])
            self.say(self._greeting())
            self.opened()
            died = asyncio.ensure_future(self.frontend.died())
            if await self._unless_stopped(died):
                raise FrontendError("TorchServe died: " + "\n".join(self.frontend.tail()[-20:]))
            self.state = State.DRAINING
            self.say("closing the door; what is in flight is finished")

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
            except GuardError as error:
                self.say(f"a key has expired and cannot be renewed, trying again: {error}")
                await asyncio.sleep(RENEW_AGAIN_AFTER)

    @asynccontextmanager
    async def _door(self, keys: KeyFile) -> AsyncIterator[None]:
        """Hold the door open; leaving closes it, and lets what is in flight end, unless hurried."""
        settings, registration = self.settings, self.registration
        assert registration is not None  # noqa: S101 - made before TorchServe was launched
        enforcer = Enforcer(
            access=Access(settings.mode, settings.keys_required, settings.keyless_management),
            identify=keys.identify,
            decide=decide,
            audit=self.log,
            rotate=keys.rotate,
            prepare=self._prepare,
            settled=registration.settled,
            now=time.time,
        )
        tls = self._context(settings.tls) if settings.tls is not None else None
        self.door = Door(self._listeners(), enforcer, _door_limits(settings.limits), tls)
        await self.door.open()
        try:
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

    async def _open_grpc(self, enforcer: Enforcer) -> None:
        assert self.frontend is not None  # noqa: S101 - launched
        self.grpc = await grpc_door(self.settings, self.frontend, enforcer, _door_limits(self.settings.limits))
        if self.grpc is not None:
            await self.grpc.open()

    async def _close(self, grace: float) -> None:
        doors = [door.close(grace) for door in (self.door, self.grpc) if door is not None]
        await asyncio.gather(*doors)

    @asynccontextmanager
    async def _renewal(self) -> AsyncIterator[None]:
        """Watch the certificates while the door is open."""
        if self.settings.tls is None:
            yield
            return
        renewal = Renewal(self.settings.tls, self.log, self.say, self._renewed, lambda: datetime.now(UTC))
        self.renewal = renewal
        watching = asyncio.create_task(renewal.watch())
        try:
            yield
        finally:
            self.renewal = None
            watching.cancel()

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
        told = {"action": operation.action.value, **registration.shown(operation)}
        try:
            await self.log.record(Entry(time.time(), "verified", told))
        except GuardError:
            await registration.settled(operation, None)
            raise
        return prepared

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
            door=asdict(self.door.stats()) if self.door is not None else {},
            grpc=asdict(self.grpc.stats()) if self.grpc is not None else {},
        )


def _door_limits(limits: Limits) -> DoorLimits:
    return DoorLimits(
        body=limits.max_request_size,
        connections=limits.max_connections,
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
