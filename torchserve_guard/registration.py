"""The registration: one archive into a running TorchServe, by the same steps as at a start.

What TorchServe is asked to register is shown to it only after it was verified, staged and scanned; what
would make it run anything else (a handler or interpreter from the request) is refused. An archive from elsewhere is
fetched by the guard, and TorchServe is told no more of it than its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from torchserve_guard import allowance, archives, authorization, needs, obtaining, preflight, scan, unlisted
from torchserve_guard.access import Action, Mode, Operation, Resource
from torchserve_guard.archives.copies import Files
from torchserve_guard.archives.inspector import print_of
from torchserve_guard.archives.roster import Roster
from torchserve_guard.errands import Errands
from torchserve_guard.errors import BadRequest, Forbidden, Unavailable, VerificationError
from torchserve_guard.findings import Report
from torchserve_guard.origin import Origin
from torchserve_guard.policy import Closures
from torchserve_guard.settings import LoadItem, Settings
from torchserve_guard.settings.load import archive_of
from torchserve_guard.settings.waivers import waived
from torchserve_guard.terms import Terms
from torchserve_guard.vigil import Links, Strayed, Watched
from torchserve_guard.workers import Interpreter

# Parameters of POST /models that choose code or credentials outside the verified archive (hazards H15, H19, H25).
CHOOSERS = {"handler": (), "runtime": ("python",), "s3_sse_kms": ("false",)}

T = TypeVar("T")
Fetched = tuple[archives.SubjectEntry, archives.Staged]
"""What an archive that was fetched had to be, and its tree."""


class Registration:
    """What TorchServe is shown, at a start and while it runs.

    `exposed` is the model store that TorchServe sees, `links` where it keeps its own links to what it registered
    from there. `now` gives the time, with its zone.
    """

    def __init__(
        self,
        settings: Settings,
        store: archives.Store,
        exposed: Path,
        links: Path,
        now: Callable[[], datetime],
        *,
        closures: Closures | None = None,
        roster: Roster | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._exposed = exposed
        self._links = links
        self._now = now
        self._unlisted = unlisted.permitted(settings)
        self.authorization: authorization.Authorization | None = None  # the manifest of the last registration
        self._one_at_a_time = asyncio.Lock()
        self._shown: dict[str, preflight.Loaded] = {}
        self._under_way: Counter[str] = Counter()
        self._errands = Errands()
        self._serving: dict[tuple[str, str], preflight.Loaded] = {}
        self._copied: list[archives.Staged] = []
        self._closures = closures if closures is not None else Closures()
        self._names = Links(exposed, links, may_vanish=settings.mode is Mode.EXPLICIT)
        self._prints: dict[Path, tuple[int, str]] = {}
        self._roster = roster

    def begin(self, models: Iterable[preflight.Loaded]) -> None:
        """Show what is loaded at the start; models of one archive share what is shown."""
        for model in models:
            shown = self._shown.get(model.item.archive) or self.expose(model)
            self.serving(dataclasses.replace(model, staged=shown.staged))

    def end(self) -> None:
        """Remove the private copies: TorchServe has ended."""
        self.stop_fetching()
        self._store.discard_all()

    def expose(self, model: preflight.Loaded, stop: threading.Event | None = None) -> preflight.Loaded:
        """Show a staged archive to TorchServe under its own name, or a private copy where one is wanted."""
        if self._settings.copied(model.item.archive):
            model = dataclasses.replace(model, staged=self._store.copy(model.staged, stop=stop))
            self._copied.append(model.staged)
        self._note(model.staged)
        if self._roster is not None:
            self._roster.enter(model.staged)
        archives.expose(model.staged, self._exposed)
        self._names.show(model.item.archive, model.staged.tree)
        self._shown[model.item.archive] = model
        return model

    def _note(self, staged: archives.Staged) -> None:
        """Keep what a tree looks like, now that it was verified: what is changed and changed back shows by that.

        A tree that is still the same keeps its first print, unless its door is closed and it is registered anew.
        """
        if staged.files is not Files.READ_ONLY:
            return
        number, known = staged.tree.stat().st_ino, self._prints.get(staged.tree)
        if known is None or known[0] != number or self._is_closed(staged.tree):
            self._prints[staged.tree] = number, print_of(str(staged.tree))

    def _is_closed(self, tree: Path) -> bool:
        served = [key for key, one in self._serving.items() if one.staged.tree == tree]
        return any(self._closures.of(*key) is not None for key in served)

    def serving(self, model: preflight.Loaded) -> None:
        """Take note that TorchServe serves this model from now on; a door that was closed is open again."""
        self._serving[model.model, model.version] = model
        self._closures.open(model.model, model.version)

    def _may_be_serving(self, model: preflight.Loaded) -> None:
        """Take note of a model of which TorchServe did not say: it is watched rather than not, and opens no door."""
        self._serving.setdefault((model.model, model.version), model)

    def watched(self) -> tuple[Watched, ...]:
        """Return what is served, and what it must look like."""
        return tuple(self._watched(*key, one.item.archive, one.staged) for key, one in sorted(self._serving.items()))

    def _watched(self, model: str, version: str, archive: str, staged: archives.Staged) -> Watched:
        _, print_ = self._prints.get(staged.tree, (0, None))
        writable = staged.files is not Files.READ_ONLY
        return Watched(model, version, archive, staged.digest, staged.tree, staged.members, writable, print_)

    async def strayed(self) -> list[Strayed]:
        """Return which of TorchServe's links are not as they were left; waits while a registration is under way."""
        if not self._names.check():
            return []
        async with self._one_at_a_time:
            return self._names.check()

    async def stands(self, watched: Watched) -> bool:
        """Return whether a model is still served as it was when somebody looked; waits as `strayed` does."""
        async with self._one_at_a_time:
            return watched in self.watched()

    def shown(self, operation: Operation) -> Mapping[str, str]:
        """Return archive, model, version and digest of what a prepared registration will register."""
        model = self._registered(operation)
        return {
            "archive": model.item.archive,
            "model": model.model,
            "version": model.version,
            "sha256": model.staged.digest,
            "files": model.staged.files.value,
            "source": model.staged.source.value,
            **({"origin": str(model.item.origin)} if model.item.origin is not None else {}),
        }

    async def prepare(self, operation: Operation) -> Operation:
        """Verify, stage, scan and expose what is to be registered; return what is to be forwarded.

        `settled` must follow. Raises `Forbidden`, `Unavailable` while another archive of that name is being
        registered, or `VerificationError` when the archive is not what the manifest promises.
        """
        item = _item_of(operation)
        # Before anybody else is kept waiting: it may take long to come.
        fetched = await self._errands.run(partial(self._fetched, item)) if item.origin is not None else None
        async with self._one_at_a_time:
            model = await _to_its_end(partial(self._admitted, item, fetched))
            self._verify_settled(model)
            self.pin()
            await _to_its_end(partial(self._show, model))
            self._under_way[item.archive] += 1
        return _by_its_name(operation, item)

    def stop_fetching(self) -> None:
        """Give up what is being fetched: the door closes."""
        self._errands.close()

    def _show(self, model: preflight.Loaded, stop: threading.Event) -> None:
        # Registrations of one archive at one time share what is shown: a copy does not change under one of them.
        if not self._under_way[model.item.archive]:
            self.expose(model, stop)
        self._discard_unused()

    def _discard_unused(self) -> None:
        """Remove the private copies that TorchServe has no link to any more, and that no name shows."""
        used = {os.path.realpath(link) for link in self._links.glob("*/*")}
        used |= {os.path.realpath(model.staged.tree) for model in self._shown.values()}
        for copied in [one for one in self._copied if os.path.realpath(one.tree) not in used]:
            self._store.discard(copied)
            self._copied.remove(copied)

    async def settled(self, operation: Operation, status: int | None) -> None:
        """Take note that a change has ended, well or not; without a status nobody knows how."""
        done = status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
        if operation.action is Action.REGISTER_MODEL:
            self._under_way[_archive_of(operation)] -= 1
            # Watched whatever becomes of its link: what TorchServe serves now, it serves.
            if done:
                self.serving(self._registered(operation))
            elif status is None:
                self._may_be_serving(self._registered(operation))
            self.pin()
        elif operation.action is Action.UNREGISTER_MODEL and done:
            self._forget(operation.resource)

    def _registered(self, operation: Operation) -> preflight.Loaded:
        model = self._shown[_archive_of(operation)]
        return dataclasses.replace(model, model=operation.parameter("model_name") or model.model)

    def _forget(self, gone: Resource) -> None:
        """Forget an unregistered version; without one named, that which TorchServe has no link to any more.

        Which of several was the default is TorchServe's to know.
        """
        versions = [key for key in self._serving if key[0] == gone.name and gone.version in {None, key[1]}]
        if len(versions) > 1:
            versions = [key for key in versions if not self._names.lead_to(self._serving[key].staged.tree)]
        for key in versions:
            tree = self._serving.pop(key).staged.tree
            self._closures.open(*key)
            if all(one.staged.tree != tree for one in self._serving.values()):
                self._prints.pop(tree, None)

    def pin(self) -> None:
        """Make TorchServe's links point at the staged trees themselves."""
        self._names.pin()

    def listed(self) -> tuple[Mapping[str, str], ...]:
        """Return the models that TorchServe serves, each with its archive and its digest."""
        return tuple(
            {
                "model": name,
                "version": version,
                "archive": one.item.archive,
                "digest": one.staged.digest,
                "files": one.staged.files.value,
                **self._door(name, version),
            }
            for (name, version), one in sorted(self._serving.items())
        )

    def _door(self, model: str, version: str) -> Mapping[str, str]:
        closure = self._closures.of(model, version)
        return {"door": "open"} if closure is None else {"door": "closed", "why": closure.why}

    def _verify_settled(self, model: preflight.Loaded) -> None:
        # INVARIANT: a name never changes what it shows between a registration's record and TorchServe's reading.
        archive = model.item.archive
        if self._under_way[archive] > 0 and self._shown[archive].staged.digest != model.staged.digest:
            raise Unavailable(
                "Another archive of this name is being registered", reason=f"`{archive}`", rule="register-under-way"
            )

    def _listed(self, item: LoadItem) -> tuple[archives.SubjectEntry, authorization.Authorization | None]:
        """Return the manifest's entry of an archive, and the manifest that counts, if one is needed."""
        settings = self._settings
        # INVARIANT: what needed a manifest at the start, or since, needs it for good.
        self._unlisted = self._unlisted and unlisted.permitted(settings)
        authorized = None if self._unlisted else authorization.authorized(settings, self._now())
        (entry,) = preflight.entries_of(settings, (item,), authorized.manifest if authorized is not None else None)
        return entry, authorized

    def _fetched(self, item: LoadItem, stop: threading.Event) -> Fetched | None:
        """Return the tree of an archive that lies elsewhere, if its address is allowed; None of one of this machine."""
        assert item.origin is not None  # noqa: S101 - it was asked for by its address
        _verify_allowed(item.origin, self._settings.terms)
        if not obtaining.is_remote(item):
            return None
        entry, _ = self._listed(item)
        return entry, obtaining.obtain(self._settings, self._store, ((item, entry),), stop=stop).staged[0]

    def _staged(
        self, item: LoadItem, entry: archives.SubjectEntry, fetched: Fetched | None, stop: threading.Event
    ) -> archives.Staged:
        """Return the tree of an archive; one that was fetched counts if the manifest still lists the same."""
        if fetched is None:
            return obtaining.obtain(self._settings, self._store, ((item, entry),), stop=stop).staged[0]
        if fetched[0] != entry:
            raise Unavailable("The manifest has changed; try again.", reason=f"`{entry.name}`", rule="register-changed")
        return fetched[1]

    def _admitted(self, item: LoadItem, fetched: Fetched | None, stop: threading.Event) -> preflight.Loaded:
        settings, archive = self._settings, item.archive
        entry, authorized = self._listed(item)
        staged = self._staged(item, entry, fetched, stop)
        self._note(staged)
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
            authorization.remember(authorized)
            self.authorization = authorized
        return model


def _item_of(operation: Operation) -> LoadItem:
    """Return the archive that a registration asks for, allowed or not. Raises `Forbidden` or `BadRequest`."""
    for name, harmless in CHOOSERS.items():
        value = operation.parameter(name)
        if value is not None and value.lower() not in harmless:
            raise Forbidden(f"Parameter {name} is not permitted", reason=f"`{name}={value}`", rule="register-parameter")
    url = operation.parameter("url")
    if not url:
        raise BadRequest("Parameter url is required.", rule="register-url")
    try:
        return archive_of(url)
    except ValueError as error:
        raise _not_allowed(str(error)) from error


def _verify_allowed(origin: Origin, terms: Terms) -> None:
    """Return if an address is allowed; raise `Forbidden`."""
    try:
        allowance.verify(origin, terms)
    except ValueError as error:
        raise _not_allowed(f"holds `{origin}`, which {error}") from error


def _not_allowed(why: str) -> Forbidden:
    return Forbidden(
        "Only archives of the model store, by their bare names, or from an allowed address may be registered",
        reason=f"`url` {why}",
        rule="register-url",
    )


async def _to_its_end(work: Callable[[threading.Event], T]) -> T:
    """Return what the work returns, done in a thread; who is cancelled tells it by an event, and waits for its end.

    INVARIANT: so nobody gets a lock while what it is for is still done.
    """
    given_up = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, given_up))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        given_up.set()
        while not working.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({working})
        working.exception()
        raise


def _by_its_name(operation: Operation, item: LoadItem) -> Operation:
    """Return a registration as it goes on: with the name that TorchServe is shown, and not where that came from."""
    parameters = tuple((key, item.archive if key == "url" else value) for key, value in operation.parameters)
    return dataclasses.replace(operation, parameters=parameters)


def _archive_of(prepared: Operation) -> str:
    """Return the name of the archive that a prepared registration is for."""
    return prepared.parameter("url") or ""
