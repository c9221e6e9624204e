"""The control socket: a few questions over HTTP on a unix socket, answered to this user and to root only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Self

from torchserve_guard import looks
from torchserve_guard.admin import metrics
from torchserve_guard.admin.status import Status
from torchserve_guard.errors import ConfigError

LONGEST_REQUEST = 4096
DEADLINE = 5.0
KNOWN = "known are GET /status, GET /metrics, POST /verify and POST /stop"


class ControlSocket:
    """Listens on `path` (in a folder of mode 0700).

    `status` answers GET /status and GET /metrics, `stop` obeys POST /stop, and `verify` answers POST /verify with a
    document, in its own time; None as long as there is nothing to verify.
    """

    def __init__(
        self,
        path: Path,
        status: Callable[[], Status],
        stop: Callable[[], None],
        verify: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.path = path
        self._verify = verify
        self._status = status
        self._stop = stop
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Start to listen. Raises `ConfigError` when something else than an old socket is in the place."""
        if looks.is_there(self.path) and not self.path.is_socket():
            raise ConfigError(f"guard.admin_address `unix:{self.path}`: something else is there; name another path")
        try:
            self.path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self.path, limit=LONGEST_REQUEST)
            self.path.chmod(0o600)
        except OSError as error:
            raise ConfigError(
                f"guard.admin_address `unix:{self.path}`: cannot listen there ({error.strerror or error}); "
                "name another path"
            ) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop to listen."""
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(DEADLINE):
                head = await reader.readuntil(b"\r\n\r\n")
            answer = await self._answer(head, writer.get_extra_info("socket"))
            async with asyncio.timeout(DEADLINE):
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def _answer(self, head: bytes, connection: socket.socket) -> bytes:
        if _peer(connection) not in {0, os.geteuid()}:
            return _rendered(HTTPStatus.FORBIDDEN, {"message": "this socket answers its own user only"})
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        match method, rest.partition(" ")[0]:
            case "GET", "/status":
                return _rendered(HTTPStatus.OK, self._status().document())
            case "GET", "/metrics":
                return _framed(HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.render(self._status()).encode())
            case "POST", "/verify":
                return await self._verified()
            case "POST", "/stop":
                self._stop()
                return _rendered(HTTPStatus.OK, {"stopping": True})
            case _:
                return _rendered(HTTPStatus.NOT_FOUND, {"message": KNOWN})

    async def _verified(self) -> bytes:
        document = None if self._verify is None else await self._verify()
        if document is None:
            return _rendered(HTTPStatus.SERVICE_UNAVAILABLE, {"message": "the door is not open"})
        return _rendered(HTTPStatus.OK, document)


def _peer(connection: socket.socket) -> int:
    """Return the user id at the other end (unix(7), SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _rendered(status: HTTPStatus, document: object) -> bytes:
    return _framed(status, "application/json", json.dumps(document).encode() + b"\n")


def _framed(status: HTTPStatus, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
