"""The upstream of one gRPC listener: TorchServe's own server on loopback, asked with the key that it wants to see.

One connection carries all calls; it is made when there is something to ask, and tries nothing twice.
"""

from __future__ import annotations

import asyncio

from torchserve_guard.http2 import encoded
from torchserve_guard.proxy.grpc.behind import Asker, Behind
from torchserve_guard.proxy.grpc.whole import Whole
from torchserve_guard.wire.grpc.metadata import rendered_timeout

HOST = "127.0.0.1"


class GrpcUpstream:
    """TorchServe's own listener; `token` may be empty, for a version without tokens. Closed by `close`.

    `answer` is the longest answer that is taken whole, `patience` how many seconds a connection may take to be made.
    """

    def __init__(self, port: int, token: str, answer: int, patience: float) -> None:
        self._port = port
        self._patience = patience
        self.answer = answer
        self._token = token.encode("ascii")
        self._heads: dict[str, bytes] = {}
        self._link: Behind | None = None
        self._waiting: dict[Asker, tuple[str, float | None]] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self, asker: Asker, path: str, timeout: float | None) -> None:
        """Ask, now or when there is a connection."""
        link = self._usable()
        if link is not None and not link.full:
            self._begin(link, asker, path, timeout)
            return
        self._waiting[asker] = path, timeout
        if link is not None or self._closed:
            # Later: who is told ends, and gives its turn to the next, who is told, and ends.
            reason = "the guard stops" if self._closed else "it takes no more calls at a time"
            asyncio.get_running_loop().call_soon(self._disappoint, reason)
        elif self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def _usable(self) -> Behind | None:
        """Return the connection that new calls go to, unless its numbers are used up."""
        link = self._link
        if link is not None and link.spent:
            self._link = None
            link.over()
        return self._link

    def _disappoint(self, reason: str) -> None:
        """Tell all who wait that there will be no answer."""
        waiting, self._waiting = self._waiting, {}
        for asker in waiting:
            asker.gone(reason)

    def withdraw(self, asker: Asker) -> None:
        """Forget who waits for a connection."""
        self._waiting.pop(asker, None)

    def _begin(self, link: Behind, asker: Asker, path: str, timeout: float | None) -> None:
        block = self._heads.get(path) or self._head(path)
        if timeout is not None:
            block += encoded(((b"grpc-timeout", rendered_timeout(timeout)),))
        asker.begun(link, link.begin(asker, block))

    def _head(self, path: str) -> bytes:
        said = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode("ascii")),
            (b":authority", f"{HOST}:{self._port}".encode("ascii")),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"grpc-accept-encoding", b"identity"),
        )
        key = ((b"authorization", b"Bearer " + self._token),) if self._token else ()
        block = self._heads[path] = encoded(said) + encoded(key, secret=True)
        return block

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        reason = "the guard stops"
        try:
            async with asyncio.timeout(self._patience):
                _, link = await loop.create_connection(lambda: Behind(self, loop), HOST, self._port)
        except TimeoutError:
            reason = "a connection took too long"
        except OSError as error:
            reason = str(error)
        else:
            self._link = link
        self._connecting = None
        if self._link is None:
            self._disappoint(reason)
            return
        waiting, self._waiting = self._waiting, {}
        for asker, (path, timeout) in waiting.items():
            self.begin(asker, path, timeout)

    def has(self, link: Behind) -> bool:
        """Whether this is the connection that new calls go to."""
        return self._link is link

    def parted(self, link: Behind) -> None:
        """Put no more calls on this connection."""
        if self._link is link:
            self._link = None

    def ask(self, path: str, message: bytes, within: float | None) -> Whole:
        """Return a unary call that has been put, to be awaited for at most `within` seconds."""
        whole = Whole(self, message, within)
        self.begin(whole, path, within)
        return whole

    async def close(self) -> None:
        """Close the connection; what is in flight is lost."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        self._disappoint("the guard stops")
        if self._link is not None:
            self._link.cut()
