"""The lodge: the porters of one guard, what they are all told, and what they have done together."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from torchserve_guard.audit import AuditLog
from torchserve_guard.audit.access_line import Digests
from torchserve_guard.errors import AuditError, GuardError
from torchserve_guard.escape import printable
from torchserve_guard.identity import Hashed
from torchserve_guard.policy import Closures
from torchserve_guard.porters import orders
from torchserve_guard.porters.channel import Document
from torchserve_guard.porters.desk import Desk
from torchserve_guard.porters.orders import Material, Post
from torchserve_guard.porters.place import Fall, Place
from torchserve_guard.porters.porting import Pace
from torchserve_guard.porters.shares import Shares
from torchserve_guard.proxy import Stats

_LOG = logging.getLogger(__name__)

AGAIN_AND_AGAIN = 3
NOTHING = Stats(*(0 for _ in fields(Stats)))


class Lodge:
    """`size` porters. Nothing is accepted before `open`, nothing is in flight after `close`.

    `bound` has listening sockets by their address, which are the lodge's from here on: this process keeps them open, so
    a connection never waits in the queue of a porter that is gone. `lost` is done when no porter can be kept.
    """

    def __init__(
        self,
        *,
        size: int,
        post: Post,
        bound: Mapping[str, Sequence[socket.socket]],
        desk: Desk,
        log: AuditLog,
        say: Callable[[str], None],
        environment: Mapping[str, str],
        pace: Pace | None = None,
    ) -> None:
        numbers = {address: tuple(one.fileno() for one in sockets) for address, sockets in bound.items()}
        self._shares = Shares(size)
        self._post = replace(post, bound=numbers, shares=self._shares.descriptor)
        self._doorway = _Doorway(bound)
        self._desk = desk
        self._log = log
        self._say = say
        self._pace = pace or Pace()
        self._places = [
            Place(desk, partial(self._posted, number), self._fallen, environment, self._pace) for number in range(size)
        ]
        self._past = NOTHING
        self._keeping: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def _posted(self, place: int) -> Post:
        return replace(self._post, place=place)

    async def open(self) -> None:
        """Return when a porter has stood, and in every other place too or one has fallen. Raises `GuardError`."""
        self._keeping = [asyncio.create_task(place.keep(self._changed.set)) for place in self._places]
        for keeping in self._keeping:
            keeping.add_done_callback(self._kept)
        while not self._stands():
            changed = asyncio.ensure_future(self._changed.wait())
            either: set[asyncio.Future[Any]] = {changed, self.lost}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._changed.clear()
            if self.lost.done():
                raise GuardError(self.lost.result())

    def _kept(self, keeping: asyncio.Task[None]) -> None:
        """Give up when a place is not looked after any more: its porter would never hear of a void key."""
        error = None if keeping.cancelled() else keeping.exception()
        if error is not None and not self.lost.done():
            _LOG.error("a porter's place met with a bug", exc_info=error)
            self.lost.set_result("the processes at the door are not looked after any more; see what was printed")

    def _stands(self) -> bool:
        # Not whether one stands now: one that fell at once must not be waited for again and again.
        return any(one.has_stood for one in self._places) and all(one.has_stood or one.restarts for one in self._places)

    async def close(self, grace: float) -> None:
        """Accept no more, let what is in flight end for at most `grace` seconds, then cut."""
        # INVARIANT: no porter is started from here on: the descriptors that it would inherit may be others by then.
        for place in self._places:
            place.retire()
        self._doorway.close()
        await asyncio.gather(*(place.leave(grace) for place in self._places))
        if self._keeping:
            await asyncio.wait(self._keeping)
        await self._desk.done()
        self._shares.close()

    async def tell_keys(self, keys: Iterable[Hashed]) -> None:
        """Return when every porter has these keys, or has ended."""
        self._post = replace(self._post, keys=tuple(keys))
        await self._tell(orders.keys(self._post.keys))

    async def tell_certificates(self, material: Material) -> None:
        """Return when every porter shows these certificates, or has ended."""
        if self._post.tls is not None:
            self._post = replace(self._post, tls=material)
            await self._tell(orders.certificates(material))

    def tell_models(self, digests: Digests) -> None:
        """Have the porters name the models in the access log by these digests, from soon on."""
        self._post = replace(self._post, models=digests)
        self._desk.run(self._tell(orders.models(digests)))

    def follow(self, closures: Closures) -> None:
        """Tell the porters which models are closed, now and whenever that changes."""
        loop = asyncio.get_running_loop()
        closures.changed = lambda: loop.call_soon_threadsafe(self._tell_closures, closures)
        self._tell_closures(closures)

    def _tell_closures(self, closures: Closures) -> None:
        closed = [
            (name, version, why) for name, versions in closures.models.items() for version, why in versions.items()
        ]
        self._post = replace(self._post, closures=tuple(closed))
        self._desk.run(self._tell(orders.closures(self._post.closures)))

    async def _tell(self, order: Document) -> None:
        await asyncio.gather(*(place.tell(order) for place in self._places))

    def stats(self) -> Stats:
        """Return what all porters have done, those that are gone included; a moment old."""
        return total(self._past, *(place.porter.stats or NOTHING for place in self._places if place.porter is not None))

    def listed(self) -> tuple[Mapping[str, int | str | float], ...]:
        """Return the porters, each with its process, its age in seconds, its requests and its memory in bytes."""
        return tuple(_listed(place) for place in self._places)

    def _fallen(self, place: Place, fall: Fall) -> None:
        """Say, and put on record, that a porter has ended; no more than that, the others serve."""
        self._shares.leave(self._places.index(place))
        if place.porter is not None:
            self._past = total(self._past, _lasting(place.porter.stats or NOTHING))
            place.porter = None
        why = printable(fall.why)
        again = "; it ends again and again" if place.deaths >= AGAIN_AND_AGAIN else ""
        pause = f" in {fall.pause:g} s" if fall.pause else ""
        self._say(f"process {fall.pid} at the door has ended: {why}{again}; another takes its place{pause}")
        try:
            self._log.event("porter-ended", process=fall.pid, reason=why, restarts=place.restarts)
        except AuditError as error:
            self._say(f"and that is not on record: {error}")
        if not self.lost.done() and all(one.failures >= self._pace.hopeless for one in self._places):
            self.lost.set_result(f"no process at the door can be kept, the last one ended: {why}; see what it printed")
        self._changed.set()


class _Doorway:
    """The listening sockets, and the files of those that are unix sockets."""

    def __init__(self, bound: Mapping[str, Sequence[socket.socket]]) -> None:
        self._sockets = [one for sockets in bound.values() for one in sockets]
        names = [one.getsockname() for one in self._sockets if one.family == socket.AF_UNIX]
        self._files = [(Path(name), Path(name).lstat().st_ino) for name in names]

    def close(self) -> None:
        """Close the sockets of this process, and remove the files that are still ours."""
        for one in self._sockets:
            one.close()
        for path, inode in self._files:
            if os.path.lexists(path) and path.lstat().st_ino == inode:
                path.unlink()
        self._files.clear()


def total(*stats: Stats) -> Stats:
    """Return the sum."""
    return Stats(*map(sum, zip(*map(astuple, stats), strict=True)))


def _lasting(stats: Stats) -> Stats:
    """Return what a porter has done; what went on in it has ended with it."""
    return replace(stats, connections=0, in_flight=0, upstream_connections=0, waiting=0)


def _listed(place: Place) -> Mapping[str, int | str | float]:
    porter = place.porter
    if porter is None:
        return {"state": "ended", "restarts": place.restarts}
    return {
        "pid": porter.pid,
        "state": "serving" if place.standing else "starting",
        "uptime": round(time.monotonic() - porter.since, 3),
        "requests": porter.stats.served if porter.stats is not None else 0,
        "restarts": place.restarts,
        "memory": memory_of(porter.pid),
    }


def memory_of(pid: int) -> int:
    """Return the bytes of memory that a process of ours holds, 0 of one that is gone (proc(5), statm)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
