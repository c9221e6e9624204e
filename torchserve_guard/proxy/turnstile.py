"""The turnstile: connections taken one at a time from a socket that other processes take them from too.

Whoever is awake first would take what comes in a burst, and keep it: connections stay. So who has more than the others
lets them go first, for a moment only, since they may be dead or busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Protocol

_OTHERS_FIRST_S = 0.003
_EXHAUSTED_S = 1.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Share(Protocol):
    """What this process has of the connections, and what the others have."""

    def tell(self, connections: int) -> None:
        """Say how many connections there are here."""

    def is_ahead(self) -> bool:
        """Whether another process has fewer."""


class Turnstile:
    """Takes connections from `bound` until closed; `protocol` makes the protocol of each."""

    def __init__(
        self,
        bound: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        share: Share | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._bound = bound
        self._protocol = protocol
        self._share = share
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._entering: set[asyncio.Task[None]] = set()
        loop.add_reader(bound, self._ready)

    def close(self) -> None:
        """Take no more."""
        if self._bound.fileno() < 0:
            return
        self._loop.remove_reader(self._bound)
        if self._timer is not None:
            self._timer.cancel()
        self._bound.close()

    def _ready(self) -> None:
        if self._share is not None and self._share.is_ahead():
            self._pause(_OTHERS_FIRST_S)
        else:
            self._take()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._bound)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._bound, self._ready)
        self._take()

    def _take(self) -> None:
        try:
            connection, _ = self._bound.accept()
        except OSError as error:
            # Else another process was quicker, or the client is gone.
            if error.errno in _EXHAUSTED:
                self._pause(_EXHAUSTED_S)
            return
        connection.settimeout(0)
        task = self._loop.create_task(self._enter(connection))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)

    async def _enter(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was gone before it was in
            await self._loop.connect_accepted_socket(self._protocol, connection)
