"""The link: an HTTP/2 connection on its transport; what is said in one turn of the loop goes out in one piece."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TypeVar, cast

from torchserve_guard.http2 import Broken, Code, Connection, Rules
from torchserve_guard.proxy.upstream import WRITE_BUFFER

Head = TypeVar("Head")


class Link(Connection[Head], asyncio.Protocol):
    """One connection, to a client or to TorchServe."""

    def __init__(self, rules: Rules, loop: asyncio.AbstractEventLoop, *, server: bool) -> None:
        super().__init__(rules, server=server)
        self._loop = loop
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)

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
        if self._transport.is_closing():
            return
        try:
            self.feed(data)
        except Broken as error:
            self.broken(error)

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
        out, self.out, self.ended = self.out, [], 0
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
