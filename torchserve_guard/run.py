"""A start, in a straight line: claim, preflight while Java starts, and the guard that serves until told to stop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import uvloop

from torchserve_guard import __version__, archives, reporting
from torchserve_guard.admin.instance import Instance, claimed, publish
from torchserve_guard.asking import Asking, hold, listen
from torchserve_guard.audit import AuditLog
from torchserve_guard.errors import FrontendError, GuardError
from torchserve_guard.guard import Guard, Say
from torchserve_guard.launching import Launching, run_directory
from torchserve_guard.preflight import Preflight, preflight, stopping
from torchserve_guard.proxy import verify_available
from torchserve_guard.proxy.grpc.address import verify_grpc_available
from torchserve_guard.settings import Settings
from torchserve_guard.wire import Listener
from torchserve_guard.workers import Interpreter

FINDINGS = 3
NOT_FOR_OTHERS = 0o007  # who may connect to a unix listener is who may write to it (hazard H56)


class Progress(Protocol):
    """What shows how far long work has come."""

    def __call__(self, count: int) -> None:
        """Count `count` bytes more."""

    def finish(self) -> None:
        """Wipe what is shown."""


def start(
    settings: Settings,
    say: Say,
    progress: Progress,
    opened: Callable[[], None] = lambda: None,
    *,
    interpreter: Interpreter | None = None,
    allow_rollback: bool = False,
) -> int:
    """Guard a TorchServe until it is told to stop; return the exit code. Raises `GuardError`.

    `opened` is called when the door is open. `interpreter` is the workers', if it is under way already.
    `allow_rollback` takes a manifest older than the last one started.
    """
    # Held back until it can be put on record; then as good as an interrupt from the keyboard.
    hold()
    os.umask(os.umask(0o077) | NOT_FOR_OTHERS)
    with claimed(settings.state_dir, settings.config) as record, _recorded(settings) as log:
        try:
            with (
                _refusals_recorded(log),
                run_directory(settings) as root,
                Launching(settings, root, os.environ) as launching,
            ):
                publish(record, Instance(os.getpid(), str(settings.config), "", str(root)))
                with Asking() as asking:
                    listen()
                    checked = _checked(
                        settings,
                        log,
                        say,
                        progress,
                        interpreter=interpreter,
                        begin=launching.begin,
                        allow_rollback=allow_rollback,
                    )
                    asking.obey()
                if checked is None:
                    return FINDINGS
                return _served(settings, checked, record, log, say, launching=launching, opened=opened)
        except KeyboardInterrupt:
            # From then on the guard itself listens to signals.
            log.event("stop", reason="asked before TorchServe was told of anything")
            say("stopped")
            return 0


def _checked(
    settings: Settings,
    log: AuditLog,
    say: Say,
    progress: Progress,
    *,
    interpreter: Interpreter | None,
    begin: Callable[[], None],
    allow_rollback: bool,
) -> Preflight | None:
    """Return what may be started, on record; None when findings forbid it."""
    verify_available({Listener(name): str(address) for name, address in settings.listeners.items()})
    verify_grpc_available(_hosts(settings))
    store = _store(settings, say)
    with interpreter or Interpreter(os.environ) as asked:
        now = datetime.now(UTC)
        checked = preflight(
            settings, store, now, progress, allow_rollback=allow_rollback, interpreter=asked, begin=begin
        )
    progress.finish()
    if not _accepted(settings, checked, log, say):
        return None
    _record_authorization(checked, log)
    for one in checked.arrivals:
        log.event("fetched", archive=one.archive, origin=one.origin, sha256=one.sha256, size=one.size)
    _tidy(store, checked, log)
    return checked


def _served(
    settings: Settings,
    checked: Preflight,
    record: Path,
    log: AuditLog,
    say: Say,
    *,
    launching: Launching,
    opened: Callable[[], None],
) -> int:
    store, models = _store(settings, say), checked.models
    guard = Guard(settings, store, models, log, record, say, launching, opened, checked.authorization)
    try:
        return uvloop.run(guard.serve())
    finally:
        hold()


def _store(settings: Settings, say: Say) -> archives.Store:
    return archives.Store(settings.state_dir / "store", tell=say)


def _hosts(settings: Settings) -> dict[Listener, tuple[str, int]]:
    named = settings.grpc_listeners.items()
    return {Listener(name): (address.host or "", address.port or 0) for name, address in named}


def _accepted(settings: Settings, checked: Preflight, log: AuditLog, say: Say) -> bool:
    """Return whether the report lets the start go on; say what it found."""
    if checked.report.findings:
        say(reporting.as_text(checked.report, settings.fail_on).rstrip())
    for finding in checked.report.findings:
        waiver = finding.waiver
        if waiver is not None:
            log.event("waived", rule=finding.rule, owner=waiver.owner, reason=waiver.reason, until=str(waiver.expires))
    refused = stopping(checked.report, settings.fail_on)
    if refused:
        rules = sorted({finding.rule for finding in checked.report.at_or_above(settings.fail_on)})
        log.event("start-refused", reason="findings", rules=rules)
        say(f"not started: findings at or above {settings.fail_on}; mend them, or raise `guard.fail_on`")
    return not refused


def _tidy(store: archives.Store, checked: Preflight, log: AuditLog) -> None:
    """Remove staged trees that no start asked for any more, and say so on record."""
    listed = checked.authorization.manifest.subjects if checked.authorization is not None else ()
    removed = store.collect(listed)
    if removed:
        log.event("store-tidied", removed=removed)


def _record_authorization(checked: Preflight, log: AuditLog) -> None:
    """Put on record who signed what is about to be started, and an older manifest that was let through."""
    found = checked.authorization
    if found is None:
        return
    version, sha256 = found.manifest.version, found.authorized.digest
    if found.authorized.signers:
        signers = [f"{one}={one.fingerprint}" for one in found.authorized.signers]
        log.event("authorized", manifest_version=version, sha256=sha256, signers=signers)
    if found.overruled is not None:
        log.event("rollback-allowed", manifest_version=version, sha256=sha256, reason=found.overruled)


@contextmanager
def _recorded(settings: Settings) -> Iterator[AuditLog]:
    log = AuditLog(settings.audit_log, time.time)
    try:
        log.event(
            "start",
            version=__version__,
            pid=os.getpid(),
            config=str(settings.config.absolute()),
            mode=settings.mode.value,
            manifest=str(settings.manifest),
        )
        yield log
    finally:
        log.close()


@contextmanager
def _refusals_recorded(log: AuditLog) -> Iterator[None]:
    try:
        yield
    except GuardError as error:
        started = error.exit_code in {FrontendError.exit_code, GuardError.exit_code}
        log.event("failed" if started else "start-refused", reason=str(error))
        raise
