"""The address of a listener, in TorchServe's spelling: `http://host:port`, `https://host:port`, `unix:/path`.

Pure. The grammar is that of Connector.java, less what only fails later: port 0 and a port above 65535.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import dataclass

ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://(?P<host>[^:^/]+)(?::(?P<port>[0-9]{1,5}))?)|(?:unix:(?P<path>/.*))", re.IGNORECASE
)
LONGEST_SOCKET_PATH = 107
HIGHEST_PORT = 65535
# Where a listener is when no port is named (Connector.java, parse); elsewhere it is where the scheme says.
UNSAID_PORTS = {
    "management_address": {"http": 8081, "https": 8444},
    "metrics_address": {"http": 8082, "https": 8445},
}
NO_HOST = re.compile(r"[\s@?#\[\]/\\%]")
LOOPBACK = "127.0.0.1"
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - named here to be recognised


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens: `host` and `port`, or `path` for a unix socket."""

    scheme: str
    host: str | None = None
    port: int | None = None
    path: str | None = None

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host or "").is_loopback
        except ValueError:
            return False

    def overlaps(self, other: Address) -> bool:
        """Whether the two cannot both be listened on: same socket, or same port with one host or a wildcard."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        hosts = {_plain(self.host), _plain(other.host)}
        return self.port == other.port and (len(hosts) == 1 or bool(hosts & WILDCARDS))

    def __str__(self) -> str:
        """Return the spelling that `parse` reads."""
        return f"unix:{self.path}" if self.path is not None else f"{self.scheme}://{self.host}:{self.port}"


def _plain(host: str | None) -> str:
    return "127.0.0.1" if host in {None, "localhost"} else str(host).lower()


def parse(text: str, key: str = "") -> Address:
    """Return the address that is the value of `key`. Raises `ValueError` that says what is wrong with it."""
    match = ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("is not `http://host:port`, `https://host:port` or `unix:/path` (no trailing blank or slash)")
    if match["path"] is not None:
        return _unix(match["path"])
    scheme = match["scheme"].lower()
    port = int(match["port"]) if match["port"] else UNSAID_PORTS.get(key, {"http": 80, "https": 443})[scheme]
    if not 0 < port <= HIGHEST_PORT:
        raise ValueError(
            f"has port {port}; name one from 1 to {HIGHEST_PORT}, so that it is known where the server listens"
        )
    return Address(scheme, parse_host(match["host"]), port)


def parse_host(host: str) -> str:
    """Return the host. Raises `ValueError` for what no resolver can be asked for."""
    if NO_HOST.search(host) or not host.isprintable():
        raise ValueError("has a host with a character that no host name has; write a host name or an IPv4 address")
    try:
        host.encode("idna")  # what the resolver is asked for (socket.getaddrinfo); it raises where nobody expects it
    except UnicodeError:
        raise ValueError("has a host that no resolver can be asked for; write a host name or an IPv4 address") from None
    return host


def _unix(path: str) -> Address:
    if len(path.encode()) > LONGEST_SOCKET_PATH:
        raise ValueError(f"has a socket path longer than {LONGEST_SOCKET_PATH} bytes, which the kernel cuts off")
    # One socket, one spelling: two would not be seen to be the same, and the second listener would replace the first.
    return Address("unix", path="/" + posixpath.normpath(path).lstrip("/"))
