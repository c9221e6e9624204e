"""The vigil: rounds of looks at what is served, and the closing of the door where it is no longer what was verified.

Recorded first, closed in any case: what cannot be recorded is closed all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from torchserve_guard.audit import AuditLog, Entry
from torchserve_guard.errors import GuardError
from torchserve_guard.escape import printable
from torchserve_guard.policy import Closure, Closures
from torchserve_guard.vigil.child import SHARE, Blind, Seen, inspect
from torchserve_guard.vigil.links import Strayed
from torchserve_guard.vigil.sight import Round, Sight, Sighted, Watched

WHOLE = 1.0
RECORD_WITHIN = 10.0
TRY_AGAIN_AFTER = (1.0, 5.0)


@dataclass(slots=True)
class Counts:
    """What the rounds have come to; `last` is seconds since the epoch, 0 before the first."""

    rounds: int = 0
    blind: int = 0
    drifts: int = 0
    processor_seconds: float = 0.0
    last: float = 0.0
    last_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to look at: the models that are served, TorchServe's links, and whether a model still is served so.

    The last two wait until no registration is under way, so that none is taken for drift.
    """

    watched: Callable[[], tuple[Watched, ...]]
    strayed: Callable[[], Awaitable[Sequence[Strayed]]]
    stands: Callable[[Watched], Awaitable[bool]]


class Vigil:
    """Looks every `interval` seconds, and when asked. `say` tells the operator."""

    def __init__(
        self, scene: Scene, closures: Closures, log: AuditLog, say: Callable[[str], None], interval: float
    ) -> None:
        self._scene = scene
        self._closures = closures
        self._log = log
        self._say = say
        self._interval = interval
        self._one_at_a_time = asyncio.Lock()
        self._acting = asyncio.Lock()
        self._told: frozenset[str] = frozenset()
        self.counts = Counts()

    async def watch(self) -> None:
        """Look again and again, until cancelled; with an interval of 0 never."""
        while True:
            await asyncio.sleep(self._interval) if self._interval else await asyncio.Event().wait()
            await self._round(SHARE)

    async def verify(self) -> Round:
        """Look now, without pauses, and return what was seen."""
        async with self._one_at_a_time:
            return await self._round(WHOLE)

    async def _round(self, share: float) -> Round:
        began = time.monotonic()
        looked, spent = await self._looked(share)
        strayed = await self._scene.strayed()
        # INVARIANT: one round acts at a time: else what one saw before could open the door that another just closed.
        async with self._acting:
            sighted = [await self._acted(_with_links(one, strayed)) for one in looked]
        elsewhere = tuple(one.what for one in strayed if not any(_concerns(one, other.watched) for other in looked))
        await self._tell_elsewhere(frozenset(elsewhere))
        return self._counted(Round(tuple(sighted), elsewhere, time.monotonic() - began, spent))

    def _counted(self, found: Round) -> Round:
        counts = self.counts
        counts.rounds += 1
        counts.blind += any(one.sight is Sight.UNVERIFIED for one in found.sighted)
        counts.processor_seconds += found.processor_seconds
        counts.last, counts.last_seconds = time.time(), found.seconds
        return found

    # --- looking ------------------------------------------------------------------------------------------------

    async def _looked(self, share: float) -> tuple[list[Sighted], float]:
        """Look at every model; one that was registered anew meanwhile is looked at once more."""
        first, spent = await self._once(self._scene.watched(), share)
        stands = [one for one in first if one.sight is Sight.VERIFIED or await self._scene.stands(one.watched)]
        served = self._scene.watched()
        kept = [one for one in stands if one.watched in served]
        known = [one.watched for one in kept]
        anew = [one for one in served if one not in known]
        second, more = await self._once(anew, share) if anew else ([], 0.0)
        return sorted([*kept, *second], key=lambda one: (one.watched.model, one.watched.version)), spent + more

    async def _once(self, watched: Sequence[Watched], share: float) -> tuple[list[Sighted], float]:
        """Look at every tree once, however many models are served from it."""
        distinct = list({one.tree: one for one in watched}.values())
        try:
            seen = dict(zip((one.tree for one in distinct), await _seen(distinct, share), strict=True))
        except Blind as error:
            return [Sighted(one, Sight.UNVERIFIED, (str(error),), 0) for one in watched], 0.0
        spent = max((one.processor_seconds for one in seen.values()), default=0.0)
        return [_sighted(one, seen[one.tree]) for one in watched], spent

    # --- acting -------------------------------------------------------------------------------------------------

    async def _acted(self, sighted: Sighted) -> Sighted:
        """Close a door or open it, as far as what was seen says so."""
        watched, standing = sighted.watched, self._closures.of(sighted.watched.model, sighted.watched.version)
        if sighted.sight is Sight.VERIFIED:
            if standing is not None and not standing.lasting:
                await self._record("verified-again", watched, ())
                self._closures.open(watched.model, watched.version)
                self._say(f"model `{watched.model}` {watched.version} could be verified: its door is open again")
        elif standing is None or (sighted.sight is Sight.DRIFTED and not standing.lasting):
            await self._close(sighted)
        return replace(sighted, closed=self._closures.of(watched.model, watched.version) is not None)

    async def _close(self, sighted: Sighted) -> None:
        watched, drifted = sighted.watched, sighted.sight is Sight.DRIFTED
        self.counts.drifts += drifted
        # A name that somebody planted is foreign words.
        why = printable("; ".join(sighted.found))
        await self._record("drift" if drifted else "unverified", watched, sighted.found)
        self._closures.close(watched.model, watched.version, Closure(why, lasting=drifted))
        remedy = "register it anew, or start again" if drifted else "it opens again when it can be verified"
        self._say(f"model `{watched.model}` {watched.version} is closed: {watched.archive}: {why}; {remedy}")

    async def _tell_elsewhere(self, found: frozenset[str]) -> None:
        """Record and say what belongs to no model that is served, once."""
        for what in sorted(found - self._told):
            self.counts.drifts += 1
            await self._record("drift", None, (what,))
            self._say(f"something has changed: {printable(what)}")
        self._told = found

    async def _record(self, event: str, watched: Watched | None, found: Sequence[str]) -> None:
        """Record what was seen; a record that cannot be written, or not in time, changes nothing of what follows."""
        about = {} if watched is None else _about(watched)
        try:
            async with asyncio.timeout(RECORD_WITHIN):
                await self._log.record(Entry(time.time(), event, {**about, "found": list(found)}))
        except (GuardError, TimeoutError) as error:
            self._say(f"what follows is not on record: {error or 'the disk does not answer'}")


async def _seen(trees: Sequence[Watched], share: float) -> list[Seen]:
    """Look; whoever could not is sent again: a machine may be short of processes for a moment."""
    for pause in TRY_AGAIN_AFTER:
        try:
            return await inspect(trees, share)
        except Blind:
            await asyncio.sleep(pause)
    return await inspect(trees, share)


def _sighted(watched: Watched, seen: Seen) -> Sighted:
    return Sighted(watched, Sight.DRIFTED if seen.found else Sight.VERIFIED, seen.found, seen.size)


def _with_links(sighted: Sighted, strayed: Sequence[Strayed]) -> Sighted:
    """Add what is wrong with the links that lead to this model."""
    found = tuple(one.what for one in strayed if _concerns(one, sighted.watched))
    if not found:
        return sighted
    return replace(sighted, sight=Sight.DRIFTED, found=(*sighted.found, *found))


def _concerns(strayed: Strayed, watched: Watched) -> bool:
    """Whether a link is this model's: by the tree it led to, else by its name; without a name it may be any's."""
    if strayed.tree is not None:
        return strayed.tree == watched.tree
    return strayed.archive in {"", watched.archive}


def _about(watched: Watched) -> dict[str, str]:
    return {
        "model": watched.model,
        "version": watched.version,
        "archive": watched.archive,
        "sha256": watched.digest,
    }
