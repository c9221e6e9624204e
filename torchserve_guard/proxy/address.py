"""The address: where one listens or connects, `http(s)://HOST:PORT` or `unix:PATH`, as TorchServe spells them."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torchserve_guard.errors import ConfigError

_TCP = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^/:\[\]@?#\s]+))(?::(?P<port>[0-9]{1,5}))?/?"
)
_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
_LONGEST_PATH = 107  # sun_path, unix(7)

P = TypeVar("P", bound=asyncio.BaseProtocol)


@dataclass(frozen=True, slots=True)
class Address:
    """A path, or a host and a port; `secure` when TLS is served there."""

    host: str = ""
    port: int = 0
    path: str | None = None
    secure: bool = False

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that `text` names. Raises `ConfigError`."""
        if text.startswith("unix:"):
            return cls._parse_path(text)
        match = _TCP.fullmatch(text)
        port = int(match["port"] or _PORTS[match["scheme"]]) if match else _LAST_PORT + 1
        if match is None or port > _LAST_PORT:
            raise ConfigError(
                f"address `{text}`: not one that can be used here; write http(s)://HOST:PORT or unix:PATH"
            )
        return cls(match["v6"] or match["host"], port, secure=match["scheme"] == "https")

    @classmethod
    def _parse_path(cls, text: str) -> Address:
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > _LONGEST_PATH:
            raise ConfigError(f"address `{text}`: the path must be absolute and at most {_LONGEST_PATH} bytes long")
        return cls(path=path)

    def __str__(self) -> str:
        """Return the address as it is written."""
        if self.path is not None:
            return f"unix:{self.path}"
        scheme = "https" if self.secure else "http"
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self.host}:{self.port}"

    async def connect(
        self, loop: asyncio.AbstractEventLoop, protocol: Callable[[], P]
    ) -> tuple[asyncio.BaseTransport, P]:
        """Return a connection to this address. Raises `OSError`."""
        if self.path is not None:
            return await loop.create_unix_connection(protocol, self.path)
        return await loop.create_connection(protocol, self.host, self.port)

    def try_out(self) -> None:
        """Listen on a host and port for a moment. Raises `OSError` when that cannot be."""
        if self.path is None:
            socket.create_server((self.host, self.port)).close()

    def bind(self, backlog: int) -> tuple[socket.socket, ...]:
        """Return sockets that listen here, for several processes to accept from. Raises `OSError`."""
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)
            return (_bound(socket.AF_UNIX, self.path, backlog),)
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        sockets: list[socket.socket] = []
        try:
            for family, _, _, _, where in dict.fromkeys(found):
                sockets.append(_bound(family, where, backlog))
        except OSError as error:
            # A kernel without IPv6 may know ::1 as localhost all the same.
            if error.errno != errno.EAFNOSUPPORT or not sockets:
                for one in sockets:
                    one.close()
                raise
        return tuple(sockets)

    async def listen(
        self, loop: asyncio.AbstractEventLoop, protocol: Callable[[], asyncio.Protocol], backlog: int
    ) -> asyncio.AbstractServer:
        """Return a server that listens here. Raises `OSError`."""
        if self.path is not None:
            return await loop.create_unix_server(protocol, self.path, backlog=backlog)
        return await loop.create_server(protocol, self.host, self.port, backlog=backlog)


def _bound(family: int, where: Any, backlog: int) -> socket.socket:
    """Return a socket that listens. INVARIANT: without SO_REUSEPORT, so that nobody else listens beside the guard."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.settimeout(0)
        bound.bind(where)
        bound.listen(backlog)
    except OSError:
        bound.close()
        raise
    return bound
