"""The registration: one archive into a running TorchServe, by the same steps as at a start.

What TorchServe is asked to register is shown to it only after it was verified, staged and scanned; what
would make it run anything else (a URL, a handler or interpreter from the request) is refused.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

from torchserve_guard import archives, authorization, needs, preflight, scan, unlisted
from torchserve_guard.access import Action, Operation, Resource
from torchserve_guard.errors import BadRequest, Forbidden, Unavailable, VerificationError
from torchserve_guard.findings import Report
from torchserve_guard.settings import LoadItem, Settings
from torchserve_guard.settings.load import NAME
from torchserve_guard.settings.waivers import waived
from torchserve_guard.workers import Interpreter

# Parameters of POST /models that choose code or credentials outside the verified archive (hazards H15, H19, H25).
CHOOSERS = {"handler": (), "runtime": ("python",), "s3_sse_kms": ("false",)}


class Registration:
    """What TorchServe is shown, at a start and while it runs.

    `exposed` is the model store that TorchServe sees, `links` where it keeps its own links to what it registered
    from there. `now` gives the time, with its zone.
    """

    def __init__(
        self, settings: Settings, store: archives.Store, exposed: Path, links: Path, now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._store = store
        self._exposed = exposed
        self._links = links
        self._now = now
        self._unlisted = unlisted.permitted(settings)
        self._one_at_a_time = asyncio.Lock()
        self._shown: dict[str, preflight.Loaded] = {}
        self._under_way: Counter[str] = Counter()
        self._serving: dict[tuple[str, str], preflight.Loaded] = {}

    def expose(self, model: preflight.Loaded) -> None:
        """Show a staged archive to TorchServe under its own name."""
        archives.expose(model.staged, self._exposed)
        self._shown[model.item.archive] = model

    def serving(self, model: preflight.Loaded) -> None:
        """Take note that TorchServe serves this model from now on."""
        self._serving[model.model, model.version] = model

    def shown(self, operation: Operation) -> Mapping[str, str]:
        """Return archive, model, version and digest of what a prepared registration will register."""
        model = self._registered(operation)
        return {
            "archive": model.item.archive,
            "model": model.model,
            "version": model.version,
            "sha256": model.staged.digest,
        }

    async def prepare(self, operation: Operation) -> Operation:
        """Verify, stage, scan and expose what is to be registered; return what is to be forwarded.

        `settled` must follow. Raises `Forbidden`, `Unavailable` while another archive of that name is being
        registered, or `VerificationError` when the archive is not what the manifest promises.
        """
        archive = _archive_of(operation)
        async with self._one_at_a_time:
            model = await asyncio.to_thread(self._admitted, archive)
            self._verify_settled(model)
            self.pin()
            self.expose(model)
            self._under_way[archive] += 1
        return operation

    async def settled(self, operation: Operation, status: int | None) -> None:
        """Take note that a change has ended, well or not."""
        done = status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if operation.action is Action.REGISTER_MODEL:
            self._under_way[_archive_of(operation)] -= 1
            self.pin()
            if done:
                self.serving(self._registered(operation))
        elif operation.action is Action.UNREGISTER_MODEL and done:
            self._forget(operation.resource)

    def _registered(self, operation: Operation) -> preflight.Loaded:
        model = self._shown[_archive_of(operation)]
        return dataclasses.replace(model, model=operation.parameter("model_name") or model.model)

    def _forget(self, gone: Resource) -> None:
        """Forget an unregistered version; without one named, the only one known.

        Which of several was the default is TorchServe's to know.
        """
        versions = [key for key in self._serving if key[0] == gone.name and gone.version in {None, key[1]}]
        if len(versions) == 1:
            del self._serving[versions[0]]

    def pin(self) -> None:
        """Make TorchServe's links point at the staged trees themselves.

        TorchServe links to the *name* in its store (ModelArchive.downloadModel) and follows that link whenever a
        worker starts. INVARIANT: what was registered under a name stays what it was, whatever the name shows later.
        """
        for link in self._links.glob("*/*"):
            if link.is_symlink() and link.readlink().parent == self._exposed:
                fresh = link.with_name(f".{secrets.token_hex(8)}")
                fresh.symlink_to(os.path.realpath(link))
                fresh.rename(link)

    def listed(self) -> tuple[Mapping[str, str], ...]:
        """Return the models that TorchServe serves, each with its archive and its digest."""
        return tuple(
            {"model": name, "version": version, "archive": one.item.archive, "digest": one.staged.digest}
            for (name, version), one in sorted(self._serving.items())
        )

    def _verify_settled(self, model: preflight.Loaded) -> None:
        # INVARIANT: a name never changes what it shows between a registration's record and TorchServe's reading.
        archive = model.item.archive
        if self._under_way[archive] > 0 and self._shown[archive].staged.digest != model.staged.digest:
            raise Unavailable(
                "Another archive of this name is being registered", reason=f"`{archive}`", rule="register-under-way"
            )

    def _admitted(self, archive: str) -> preflight.Loaded:
        settings, item = self._settings, LoadItem(archive)
        # INVARIANT: what needed a manifest at the start, or since, needs it for good.
        self._unlisted = self._unlisted and unlisted.permitted(settings)
        authorized = None if self._unlisted else authorization.authorized(settings, self._now())
        (entry,) = preflight.entries_of(settings, (item,), authorized.manifest if authorized is not None else None)
        staged = self._store.stage(unlisted.source(settings, archive), entry)
        found = [*unlisted.check(settings, (item,), listed=authorized is not None)]
        with Interpreter(os.environ) as interpreter:
            found += needs.check(interpreter, settings.model_store, (staged,))
        found += preflight.scanned(settings, staged, scan.scanners(settings.scanners))
        report = Report(archive, waived(settings, found, self._now()))
        serious = report.at_or_above(settings.fail_on)
        if serious:
            raise VerificationError(f"`{archive}`: {serious[0].rule}: {serious[0].message}; {serious[0].remedy}")
        model = preflight.loaded(staged, item)
        if authorized is not None:
            authorization.remember(settings, authorized)
        return model


def _archive_of(operation: Operation) -> str:
    """Return the bare name of the archive that a registration asks for. Raises `Forbidden` or `BadRequest`."""
    for name, harmless in CHOOSERS.items():
        value = operation.parameter(name)
        if value is not None and value.lower() not in harmless:
            raise Forbidden(f"Parameter {name} is not permitted", reason=f"`{name}={value}`", rule="register-parameter")
    url = operation.parameter("url")
    if not url:
        raise BadRequest("Parameter url is required.", rule="register-url")
    if NAME.fullmatch(url) is None:
        raise Forbidden(
            "Only archives of the model store, by their bare names, may be registered",
            reason=f"`url={url}` is not a bare name",
            rule="register-from-store-only",
        )
    return url
