"""The guard: one running, from the launch of TorchServe to its end. Leaving the contexts is the shutdown order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchserve_guard import __version__, archives, authorization
from torchserve_guard.admin.instance import Instance, publish
from torchserve_guard.admin.socket import ControlSocket
from torchserve_guard.admin.status import ManifestStatus, State, Status
from torchserve_guard.archives.roster import Roster
from torchserve_guard.asking import listen
from torchserve_guard.audit import AccessLog, AuditLog
from torchserve_guard.audit.access_line import Form
from torchserve_guard.authorization import Authorization
from torchserve_guard.errors import AuditError, ConfigError, FrontendError, GuardError
from torchserve_guard.frontend import ExpectedModel, Frontend
from torchserve_guard.launching import ROSTER_NAME, Launching
from torchserve_guard.policy import Closures
from torchserve_guard.preflight import Loaded
from torchserve_guard.registration import Registration
from torchserve_guard.settings import AccessFile, Settings

if TYPE_CHECKING:
    from torchserve_guard.serving import Serving

Say = Callable[[str], None]


@dataclass
class Guard:
    """One running guard, from the launch of TorchServe to its end, in the run directory of `launching`."""

    settings: Settings
    store: archives.Store
    models: tuple[Loaded, ...]
    log: AuditLog
    record: Path
    say: Say
    launching: Launching
    opened: Callable[[], None] = lambda: None
    authorization: Authorization | None = None
    state: State = State.STARTING
    started: float = field(default_factory=time.monotonic)
    signals: int = 0
    frontend: Frontend | None = None
    registration: Registration | None = None
    access: AccessLog | None = None
    serving: Serving | None = None
    closures: Closures = field(default_factory=Closures)
    terminal: bool = field(default_factory=lambda: sys.stdin is not None and sys.stdin.isatty())

    async def serve(self) -> int:
        """Launch, wait until ready, open the door, and wait for the end of it."""
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ask_to_stop)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.ask_to_renew)
        listen()
        root = self.launching.root
        with _access_log(self.settings.access_log) as self.access:
            control = self._control_path(root)
            async with ControlSocket(control, self.status, self.ask_to_stop, self.verify):
                publish(self.record, Instance(os.getpid(), str(self.settings.config), str(control), str(root)))
                return await self._guarded(root)

    def ask_to_renew(self) -> None:
        """Read the certificates again (SIGHUP); where there are none, it is a terminal that hung up, or a mistake."""
        renewal = self.serving.renewal if self.serving is not None else None
        if renewal is not None:
            renewal.ask()
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
        self.launching.begin()
        self.registration = Registration(
            self.settings,
            self.store,
            self.launching.exposed,
            self.launching.links,
            lambda: datetime.now(UTC),
            closures=self.closures,
            roster=Roster(root / ROSTER_NAME),
        )
        self.frontend = self.launching.frontend(self.models)
        try:
            await asyncio.to_thread(self.registration.begin, self.models)
            async with self.frontend:
                if await self._ready():
                    self.registration.pin()
                    await self._open(self.frontend, self.registration)
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
        loading = asyncio.ensure_future(asyncio.to_thread(_load, grpc=bool(self.settings.grpc_listeners)))
        ready = asyncio.ensure_future(self.frontend.ready(expected, self.settings.limits.start_timeout))
        try:
            return await self._unless_stopped(ready)
        finally:
            await loading

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

    async def _open(self, frontend: Frontend, registration: Registration) -> None:
        """Open the door, and return when asked to stop. Raises `FrontendError` when TorchServe dies."""
        from torchserve_guard.serving import Serving  # noqa: PLC0415 - imported while TorchServe started

        if self.authorization is not None:
            authorization.remember(self.authorization)
        self.serving = Serving(
            self.settings, frontend, registration, self.closures, self.access, self.log, self.say, self.hurry
        )
        async with self.serving.open() as ended:
            self.state = State.SERVING
            self._record_serving()
            self.say(self._greeting())
            self.opened()
            if await self._unless_stopped(ended):
                raise FrontendError("TorchServe died: " + "\n".join(frontend.tail()[-20:]))
            self.state = State.DRAINING
            registration.stop_fetching()
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
        # Known again by what they were when they were last read whole; their trees were hashed as ever (adr/0020).
        known = [model.item.archive for model in self.models if model.staged.source is archives.Proof.BELIEVED]
        more |= {"known_again": known} if known else {}
        self.log.event("serving", models=[f"{m.item.archive}={m.staged.digest}" for m in self.models], **more)

    async def verify(self) -> object | None:
        """Look at what is served now, and return what was seen; None while the door is not open."""
        return await self.serving.verify() if self.serving is not None else None

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
        serving = self.serving
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
            door=serving.counted() if serving is not None else {},
            grpc=serving.calls() if serving is not None else {},
            verification=serving.looks() if serving is not None else {},
            processes=serving.processes() if serving is not None else (),
            manifest=self._manifest(),
        )

    def _manifest(self) -> ManifestStatus | None:
        """Return the manifest that counted last, at the start or at a registration since; None where none does."""
        latest = self.registration.authorization if self.registration is not None else None
        found = latest or self.authorization
        if found is None:
            return None
        manifest, authorized = found.manifest, found.authorized
        signers = tuple(map(str, authorized.signers))
        path = str(self.settings.manifest)
        return ManifestStatus(path, manifest.version, authorized.digest, manifest.expires, signers)


def _load(*, grpc: bool) -> None:
    """Import what is needed as soon as TorchServe is ready, and not before it was launched."""
    import_module("torchserve_guard.serving")
    if grpc:
        import_module("torchserve_guard.proxy.grpc.ports")
        import_module("torchserve_guard.proxy.grpc.server")
    gc.collect()  # what the start left; what is left then is spared (`spare_what_stays`)


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
