"""The crowd: all connections and tasks of one door, and the moment when the last of them has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Protocol

_LOG = logging.getLogger(__name__)

_SWEPT_AT_ONCE = 256


class Member(Protocol):
    """A connection, as the door sees it."""

    def sweep(self) -> None:
        """Look at the clock."""

    def drain(self) -> None:
        """End as soon as nothing is in flight."""

    def cut(self) -> None:
        """End at once."""

    @property
    def busy(self) -> bool:
        """Whether a request is in flight."""


class Crowd:
    """Who is inside. `moved` is told how many connections there are whenever that changes."""

    def __init__(self, moved: Callable[[int], None] | None = None) -> None:
        self._moved = moved
        self.connections: set[Member] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._awaited: asyncio.Future[None] | None = None

    def enter(self, connection: Member) -> None:
        """Count a connection in."""
        self.connections.add(connection)
        if self._moved is not None:
            self._moved(len(self.connections))

    def leave(self, connection: Member) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        if self._moved is not None:
            self._moved(len(self.connections))
        self._look()

    def sweep(self) -> None:
        """Have each look at the clock, some at a time: a request waits for no more than these."""
        self._sweep_some(tuple(self.connections), 0)

    def _sweep_some(self, connections: tuple[Member, ...], at: int) -> None:
        for connection in connections[at : at + _SWEPT_AT_ONCE]:
            if connection in self.connections:
                connection.sweep()
        at += _SWEPT_AT_ONCE
        if at < len(connections):
            asyncio.get_running_loop().call_soon(self._sweep_some, connections, at)

    def run(self, coroutine: Coroutine[None, None, None], broken: Callable[[], None]) -> None:
        """Run a task of a connection's; `broken` is called when it fails for a reason nobody thought of."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self.tasks.discard(task)
            if task.cancelled():
                broken()
            elif (error := task.exception()) is not None:
                _LOG.error("a request met with a bug and was cut off", exc_info=error)
                broken()
            self._look()

        task.add_done_callback(done)

    async def gone(self, grace: float) -> None:
        """Return when the last one has left, or after `grace` seconds; several may wait, each as long as it likes."""
        if self.connections or self.tasks:
            if self._awaited is None or self._awaited.done():
                self._awaited = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._awaited], timeout=grace)

    async def dismiss(self, grace: float) -> None:
        """Cancel what runs after `grace` seconds, in which who is inside may leave and have its end recorded."""
        await self.gone(grace)
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _look(self) -> None:
        if self._awaited is not None and not self._awaited.done() and not self.connections and not self.tasks:
            self._awaited.set_result(None)
