"""The registration: one archive into a running TorchServe, by the same steps as at a start.

What TorchServe is asked to register is shown to it only after it was verified, staged and scanned; what
would make it run anything else (a URL, a handler or interpreter from the request) is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from torchserve_guard import archives, preflight, scan
from torchserve_guard.access import Operation
from torchserve_guard.errors import Forbidden, VerificationError
from torchserve_guard.settings import LoadItem, Settings
from torchserve_guard.settings.load import NAME

# Parameters of POST /models that choose code or credentials outside the verified archive (hazards H15, H19, H25).
CHOOSERS = {"handler": (), "runtime": ("python",), "s3_sse_kms": ("false",)}


class Registration:
    """Prepares registrations, one at a time. `now` gives the time, with its zone."""

    def __init__(self, settings: Settings, store: archives.Store, exposed: Path, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._store = store
        self._exposed = exposed
        self._now = now
        self._one_at_a_time = asyncio.Lock()
        self._shown: dict[str, preflight.Loaded] = {}

    def expose(self, model: preflight.Loaded) -> None:
        """Show a staged archive to TorchServe under its own name."""
        archives.expose(model.staged, self._exposed)
        self._shown[model.item.archive] = model

    async def prepare(self, operation: Operation) -> Operation:
        """Verify, stage, scan and expose what is to be registered; return what is to be forwarded.

        Raises `Forbidden`, or `VerificationError` when the archive is not what the manifest promises.
        """
        archive = _archive_of(operation)
        async with self._one_at_a_time:
            await asyncio.to_thread(self._admit, archive)
        return operation

    async def settled(self, operation: Operation, status: int | None) -> None:
        """Take note of how a change ended."""

    def listed(self) -> tuple[Mapping[str, str], ...]:
        """Return the archives that TorchServe is shown, with the model that each holds and its digest."""
        return tuple(
            {"model": one.model, "version": one.version, "archive": archive, "digest": one.staged.digest}
            for archive, one in sorted(self._shown.items())
        )

    def _admit(self, archive: str) -> None:
        settings, item = self._settings, LoadItem(archive)
        (entry,) = preflight.entries_of(settings, (item,), self._now())
        staged = self._store.stage(settings.model_store / entry.name, entry)
        found = preflight.scanned(staged, scan.scanners(settings.scanners))
        serious = [finding for finding in found if finding.severity >= settings.fail_on]
        if serious:
            raise VerificationError(f"`{archive}`: {serious[0].rule}: {serious[0].message}; {serious[0].remedy}")
        self.expose(preflight.loaded(staged, item))


def _archive_of(operation: Operation) -> str:
    """Return the bare name of the archive that a registration asks for. Raises `Forbidden`."""
    for name, harmless in CHOOSERS.items():
        value = operation.parameter(name)
        if value is not None and value.lower() not in harmless:
            raise Forbidden(f"Parameter {name} is not permitted", reason=f"`{name}={value}`", rule="register-parameter")
    url = operation.parameter("url") or ""
    if NAME.fullmatch(url) is None:
        raise Forbidden(
            "Only archives of the model store, by their bare names, may be registered",
            reason=f"`url={url}` is not a bare name",
            rule="register-from-store-only",
        )
    return url
