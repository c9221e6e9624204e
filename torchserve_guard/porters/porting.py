"""The porting: one porter as the guard sees it, a process and the channel to it, from its start to its end."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torchserve_guard.errors import Refusal, Unavailable
from torchserve_guard.frontend.child import exit_of, tied_to
from torchserve_guard.porters import reports
from torchserve_guard.porters.channel import Channel, Document
from torchserve_guard.porters.desk import Desk
from torchserve_guard.porters.reports import Wanted
from torchserve_guard.proxy import Stats
from torchserve_guard.proxy.enforcement import Granted

SIGNALLED = 128
LONGEST_REASON = 200
COMMAND = ("-P", "-m", "torchserve_guard.porters")
# Ten times what a porter's own `audit.flood` lets through.
MOST_LINES, LINES_EACH_S = 10_000.0, 100.0
# What an interpreter needs to find the same modules as this one, and to print the same letters. No more: the rest of
# the environment may hold secrets.
ENVIRONMENT = (
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONPATH",
    "PYTHONUSERBASE", "TZ", "VIRTUAL_ENV",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things may take, in seconds: to carry out an order `answer`, to give a `sign` of life longer.

    A porter that has stood for `steady` seconds died for a reason of its own. A place where `hopeless` porters in a row
    did not even come to stand is not to be kept.
    """

    begin: float = 60.0
    beat: float = 2.0
    answer: float = 10.0
    sign: float = 30.0
    second_look: float = 0.5
    last_words: float = 5.0
    first_pause: float = 0.1
    longest_pause: float = 5.0
    steady: float = 60.0
    hopeless: int = 6


class Porting:
    """One porter as the guard sees it: a process, and the channel to it."""

    def __init__(self, desk: Desk, descriptors: tuple[int, ...], environment: Mapping[str, str], pace: Pace) -> None:
        self._desk = desk
        self._pace = pace
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._granted: dict[int, Granted | None] = {}
        self._lines, self._line_at = MOST_LINES, time.monotonic()
        self._numbers = 0
        self.stats: Stats | None = None
        self.why = ""
        self.since = time.monotonic()
        self.channel = Channel(self._hear, self.kill, self._lost)
        self._deaf = asyncio.get_running_loop().create_future()
        self._process, self._end = _spawned(descriptors, environment)
        self._exit = exit_of(self._process)

    @property
    def pid(self) -> int:
        """The process number."""
        return self._process.pid

    async def connect(self) -> None:
        """Take up the channel. To be awaited before anything is asked."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self.channel, sock=self._end)

    async def ask(self, order: Document, within: float) -> bool:
        """Give an order, and return whether it was carried out; if not, the porter does nothing any more."""
        self._numbers += 1
        future = self._waiting[self._numbers] = asyncio.get_running_loop().create_future()
        self.channel.say({**order, "number": self._numbers})
        # The second look: perhaps it was this process that stood still, and the answer is there to be read.
        for seconds in (within, self._pace.second_look):
            if not future.done() and not self._deaf.done():
                await asyncio.wait((future, self._deaf), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            # INVARIANT: whoever could not be told, since it does not answer or does not listen, serves no longer.
            self.kill("" if self._deaf.done() else f"it does not answer within {within:g} s")
            await asyncio.wait((self._exit,))
        return future.done()

    def kill(self, why: str) -> None:
        """End it at once."""
        self.why = self.why or why[:LONGEST_REASON]
        self._process.kill()

    async def gone(self) -> str:
        """Return why, when it has ended, everything that it said was heard, and what it left open is settled."""
        await asyncio.wait((self._exit,))
        await asyncio.wait((self._deaf,))
        self._process.wait()
        self.why = self.why or _exit_shown(self._exit.result())
        for granted in self._granted.values():
            if granted is not None:
                self._desk.run(self._desk.settle(granted, None))
        self._granted.clear()
        return self.why

    async def stands(self, seconds: float) -> bool:
        """Return whether it is still there after so many seconds; earlier when it is not."""
        ended, _ = await asyncio.wait((self._exit, self._deaf), timeout=seconds, return_when="FIRST_COMPLETED")
        return not ended

    # --- what it reports --------------------------------------------------------------------------------------------

    def _hear(self, document: Document) -> None:
        match document.get("report"):
            case "took":
                future = self._waiting.pop(reports.number_of(document), None)
                self.stats = reports.stats_of(document)
                if future is not None and not future.done():
                    future.set_result(None)
            case "entry":
                self._record(document)
            case "wanted":
                self._want(reports.wanted_of(document))
            case "outcome":
                self._settle(*reports.outcome_of(document))
            case _:
                raise ValueError("a report of no known kind")

    def _record(self, document: Document) -> None:
        self._lines = min(MOST_LINES, self._lines + (time.monotonic() - self._line_at) * LINES_EACH_S)
        self._line_at = time.monotonic()
        if self._lines < 1:
            raise ValueError("more entries than the requests of one door make")
        self._lines -= 1
        self._desk.record(document, self.pid)

    def _want(self, want: Wanted) -> None:
        if want.ticket in self._granted:
            raise ValueError("a ticket twice")
        self._desk.verify(want, len(self._granted))
        self._granted[want.ticket] = None
        self._desk.run(self._grant(want))

    async def _grant(self, want: Wanted) -> None:
        try:
            answer = await self._desk.grant(want)
        except Exception:
            self._granted.pop(want.ticket, None)
            self.channel.say(reports.refused(want.ticket, Unavailable("The request met with a bug.", rule="bug")))
            raise
        if isinstance(answer, Refusal):
            self._granted.pop(want.ticket, None)
            self.channel.say(reports.refused(want.ticket, answer))
        elif self._deaf.done():  # it ended meanwhile: nothing was forwarded
            await self._desk.settle(answer, None)
        else:
            self._granted[want.ticket] = answer
            self.channel.say(reports.granted(want.ticket, answer.line))

    def _settle(self, ticket: int, status: int | None) -> None:
        granted = self._granted.pop(ticket, None)
        if granted is None:
            raise ValueError("an outcome of nothing")
        self._desk.run(self._desk.settle(granted, status))

    def _lost(self) -> None:
        self._deaf.set_result(None)
        # It is about to end. INVARIANT: none goes on that cannot be told that a key is void.
        asyncio.get_running_loop().call_later(self._pace.last_words, self._process.kill)


def _spawned(
    descriptors: tuple[int, ...], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return a new process that ends with this one, and our end of its channel."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            (sys.executable, *COMMAND),
            stdin=theirs.fileno(),
            pass_fds=descriptors,
            env={name: environment[name] for name in ENVIRONMENT if name in environment},
            start_new_session=True,
            # It runs between fork and exec; it takes no lock and calls the kernel twice.
            preexec_fn=tied_to(os.getpid()),  # noqa: PLW1509
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def _exit_shown(status: int) -> str:
    return f"killed by signal {status - SIGNALLED}" if status > SIGNALLED else f"exit code {status}"
