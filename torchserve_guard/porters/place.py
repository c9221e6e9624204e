"""The place: where one porter stands, and where another is put when it ends, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torchserve_guard.porters import orders
from torchserve_guard.porters.channel import Document
from torchserve_guard.porters.desk import Desk
from torchserve_guard.porters.orders import Post
from torchserve_guard.porters.porting import Pace, Porting


@dataclass(frozen=True, slots=True)
class Fall:
    """The end of a porter that was not asked for: which, why, and for how long its place stays empty."""

    pid: int
    why: str
    pause: float


class Place:
    """Keeps one porter standing.

    `post` returns what a new one begins with; `fallen` hears why one ended, and when the next comes.
    """

    def __init__(
        self,
        desk: Desk,
        post: Callable[[], Post],
        fallen: Callable[[Place, Fall], None],
        environment: Mapping[str, str],
        pace: Pace,
    ) -> None:
        self._desk = desk
        self._post = post
        self._fallen = fallen
        self._environment = environment
        self._pace = pace
        self._leaving = asyncio.Event()
        self.porter: Porting | None = None
        self.standing = False
        self.has_stood = False
        self.restarts = 0
        self.failures = 0
        self.deaths = 0

    async def keep(self, stood: Callable[[], None]) -> None:
        """Keep a porter standing until told to leave; `stood` is called whenever one has opened its door."""
        while not self._leaving.is_set():
            fall = await self._one(stood)
            if self._leaving.is_set():
                return
            self.restarts += 1
            self._fallen(self, fall)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fall.pause):
                    await self._leaving.wait()

    async def _one(self, stood: Callable[[], None]) -> Fall:
        """Have one porter stand, and return how it fell."""
        post, began = self._post(), time.monotonic()
        descriptors = (post.shares, *(number for numbers in post.bound.values() for number in numbers))
        try:
            porter = Porting(self._desk, descriptors, self._environment, self._pace)
        except (OSError, subprocess.SubprocessError) as error:
            return self._fell(0, f"it cannot be started: {error}", began)
        await porter.connect()
        # INVARIANT: nothing is awaited from here to the first order, so that no change of what is posted is missed.
        self.porter = porter
        if self._leaving.is_set():
            porter.kill("it is not needed any more")
        self.standing = await porter.ask(orders.begin(self._post()), self._pace.begin)
        if self.standing:
            self.failures = 0
            self.has_stood = True
            stood()
        while await porter.stands(self._pace.beat):
            await porter.ask(orders.beat(), self._pace.sign)
        self.standing = False
        return self._fell(porter.pid, await porter.gone(), began)

    def _fell(self, pid: int, why: str, began: float) -> Fall:
        pace, stood = self._pace, time.monotonic() - began
        self.deaths = 1 if stood >= pace.steady else self.deaths + 1
        self.failures += 1  # until one stands
        pause = 0.0 if self.deaths == 1 else min(pace.first_pause * 2 ** min(self.deaths - 2, 16), pace.longest_pause)
        return Fall(pid, why, pause)

    async def tell(self, order: Document) -> None:
        """Have the porter that stands here, or is about to, take an order, or end."""
        if self.porter is not None:
            await self.porter.ask(order, self._pace.answer)

    def retire(self) -> None:
        """Put no other porter here."""
        self._leaving.set()

    async def leave(self, grace: float) -> None:
        """Have the porter let what is in flight end for at most `grace` seconds."""
        if self.porter is not None:
            await self.porter.ask(orders.close(grace), grace + self._pace.last_words)
