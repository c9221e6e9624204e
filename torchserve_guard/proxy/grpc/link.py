"""The link: an HTTP/2 connection on its transport; what is said in one turn of the loop goes out in one piece.

What is heard in one turn takes no longer than a turn may: the others have theirs. The rest of what was read waits, and
nothing more is read meanwhile.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from time import monotonic
from typing import TypeVar, cast

from torchserve_guard.http2 import Broken, Code, Connection, Rules
from torchserve_guard.proxy.upstream import WRITE_BUFFER

Head = TypeVar("Head")

_TURN_S = 0.002
_LONG_READ = 1 << 17
"""A read that may have filled the loop's buffer: libuv reads up to 32 of them in one turn."""


class Link(Connection[Head], asyncio.Protocol):
    """One connection, to a client or to TorchServe."""

    def __init__(self, rules: Rules, loop: asyncio.AbstractEventLoop, *, server: bool) -> None:
        super().__init__(rules, server=server)
        self._loop = loop
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._behind = False
        self._going_on = False
        self._deaf = False
        self._long = False
        self._until = 0.0

    @abstractmethod
    def broken(self, error: Broken) -> None:
        """End: the peer broke the protocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what a connection begins with."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER)
        self.introduce()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if not self._transport.is_closing():
            self._hear(data)

    def _hear(self, data: bytes) -> None:
        if not self._long:
            self._until = monotonic() + _TURN_S
        # Behind a long read the next one may be of the same turn.
        self._long = len(data) >= _LONG_READ
        try:
            left = self.feed(data, self._until)
        except Broken as error:
            self._catch_up()
            self.broken(error)
            return
        if left or (self._long and monotonic() >= self._until):
            self._behind, self._long = True, False
            self._listen()
            self._go_on_later()
        elif self._behind:
            self._catch_up()

    def _go_on_later(self) -> None:
        if not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hear more of what was read, unless the peer is not listened to."""
        self._going_on = False
        if not self._deaf and not self._transport.is_closing():
            self._hear(b"")

    def _catch_up(self) -> None:
        """Be done with what was read."""
        self._behind = False
        if not self.out:
            self.ended = 0
        self._listen()

    def be_deaf(self, deaf: bool) -> None:  # noqa: FBT001 - as set_debug
        """Hear nothing for now, or go on: nothing is read, and nothing heard of what was read."""
        self._deaf = deaf
        self._listen()
        if self._behind and not deaf:
            self._go_on_later()

    def _listen(self) -> None:
        """Read, or do not: what was read before may wait, or the peer not be listened to."""
        if self._transport.is_closing():
            return
        if self._behind or self._deaf:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Say no more of any body."""
        self.choked = True

    def resume_writing(self) -> None:
        """Go on."""
        self.moved = True
        self.taking()

    def wake(self) -> None:
        """Write at the end of this turn of the loop."""
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        out, self.out = self.out, []
        if not self._behind:
            # INVARIANT: what was read and still waits was said before the peer can have heard of any end.
            self.ended = 0
        if out and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def close(self, code: Code) -> None:
        """Say that it is over, and end when that is written."""
        if not self._transport.is_closing():
            self.leave(code)
            self._flush()
            self._transport.close()

    def cut(self) -> None:
        """End at once."""
        self._transport.abort()
