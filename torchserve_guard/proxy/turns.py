"""The turns: how many requests for one model are under way at once, and who waits for one to end.

A model is what its name says, all its versions together. Turns come in the order of asking.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from torchserve_guard.errors import TooMany, Unavailable


class Waiter(Protocol):
    """Whoever waits for a turn."""

    def turn_comes(self) -> None:
        """Take the turn, and go on."""


@dataclass(slots=True)
class _Model:
    """One model's: how many have a turn, and who waits."""

    taken: int = 0
    waiting: deque[Waiter] = field(default_factory=deque)


class Turns:
    """The turns of each model: `most` at once, `queue` more wait, each for `patience` seconds."""

    def __init__(self, most: int, queue: int, patience: float) -> None:
        self.patience = patience
        self._most = most
        self._queue = queue
        self._models: dict[str, _Model] = {}

    def take(self, model: str, waiter: Waiter) -> bool:
        """Return whether the turn is now; if not, `turn_comes` will say when. Raises `TooMany`."""
        here = self._models.get(model)
        if here is None:
            here = self._models[model] = _Model()
        if here.taken < self._most:
            here.taken += 1
            return True
        if len(here.waiting) >= self._queue:
            reason = f"`{model}`: {here.taken} under way and {len(here.waiting)} waiting"
            raise TooMany("Too many requests for this model.", reason=reason, rule="proxy.model-queue")
        here.waiting.append(waiter)
        return False

    def give(self, model: str) -> None:
        """Give a turn back; the next in line has it."""
        here = self._models[model]
        if here.waiting:
            here.waiting.popleft().turn_comes()
            return
        here.taken -= 1
        if not here.taken:
            del self._models[model]

    def leave(self, model: str, waiter: Waiter) -> None:
        """Leave the line."""
        self._models[model].waiting.remove(waiter)

    def counts(self) -> tuple[int, int]:
        """Return how many have a turn, and how many wait."""
        models = self._models.values()
        return sum(model.taken for model in models), sum(len(model.waiting) for model in models)

    @asynccontextmanager
    async def turn(self, model: str) -> AsyncIterator[None]:
        """Have a turn, after waiting for it. Raises `TooMany`, or `Unavailable` after too long."""
        waiter = _Awaited()
        if not self.take(model, waiter):
            await self._waited(model, waiter)
        try:
            yield
        finally:
            self.give(model)

    async def _waited(self, model: str, waiter: _Awaited) -> None:
        try:
            async with asyncio.timeout(self.patience):
                await waiter.come.wait()
        except BaseException as error:
            # INVARIANT: a turn that came in the same moment is given on, not lost.
            if waiter.come.is_set():
                self.give(model)
            else:
                self.leave(model, waiter)
            if isinstance(error, TimeoutError):
                raise waited_too_long() from error
            raise


class _Awaited:
    """A waiter of a coroutine's."""

    def __init__(self) -> None:
        self.come = asyncio.Event()

    def turn_comes(self) -> None:
        self.come.set()


def waited_too_long() -> Unavailable:
    """Return what is said to who waited for a turn and got none in time."""
    return Unavailable("The model is busy.", reason="no turn came in time", rule="proxy.model-wait")
