"""The bucket: one object, read with fsspec's clients by a process of its own, and told to the guard piece by piece.

What it is told, and what it tells, are lines of JSON over one socket; behind a line with `piece` follow so many bytes:

    {"scheme": ..., "place": ..., ...}   an order, told once; when the socket ends after it, so does the process
    {"ready": true}                      the clients are here; whoever waits from now on waits for the service
    {"size": N, "mark": ...}             the object; what was fetched of one with another mark is fetched again
    {"piece": N}                         the next N bytes of it
    {"end": MARK}                        all was told, and this is what it has become meanwhile
    {"failed": ...} {"refused": ...} {"lacking": ...}   why nothing more follows

The clients wait, try again, follow redirects and read whole answers as they see fit. Here that costs the guard neither
its memory nor a thread that nobody can end, and what they may connect to is judged.
"""

from __future__ import annotations

import hashlib
import importlib
import ipaddress
import json
import os
import re
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit

from torchserve_guard.archives.remote.addresses import METADATA, fault, resolve
from torchserve_guard.origin import HIDDEN, redacted

SMALLEST, LARGEST = 1 << 15, 1 << 23
QUICK, SLOW = 0.5, 4.0
"""Seconds: what comes more quickly is asked for in larger pieces, what comes more slowly in smaller ones, so that a
slow service is not taken for one that stalls."""
MEMORY = 1 << 30
"""Bytes: a client reads an answer whole, also one that is longer than what was asked for."""
LONGEST_LINE = 65536
LONGEST_QUOTE = 200
_CHANGING = ("ETag", "VersionId", "LastModified", "generation", "created")
# A service may say back what it was shown: names of keys, and tokens of Google and of others who give them.
_SHOWN = re.compile(r"(?i)\bbearer\s+\S+|\bya29\.\S+|\beyJ[\w-]{8,}\S*|\b(?:AKIA|ASIA)[A-Z0-9]{12,}")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REGION = "x-amz-bucket-region"
_INTERNET = (socket.AF_INET, socket.AF_INET6)

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be read: what follows byte `held` of the object at `place`, if it still has this mark; else all.

    One that has fewer bytes than the fewest or more than the most is not read.
    """

    scheme: str
    place: str
    mark: str | None
    held: int
    fewest: int
    most: int
    stall: float
    networks: tuple[str, ...] = ()
    proxy: str | None = field(default=None, repr=False)

    def line(self) -> bytes:
        """Return it as it is told."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def begin(self, size: int, mark: str) -> int:
        """Return from which byte on an object of this size and mark is read."""
        return self.held if mark == self.mark and self.held <= size else 0


class Teller:
    """Tells the guard; from several threads, one after the other."""

    def __init__(self, guard: socket.socket) -> None:
        self._guard = guard
        self._lock = threading.Lock()

    def tell(self, line: dict[str, Any], data: bytes = b"") -> None:
        """Tell a line, and what follows it. Raises `OSError` when nobody listens."""
        with self._lock:
            self._guard.sendall(json.dumps(line).encode() + b"\n")
            self._guard.sendall(data)

    def end(self, line: dict[str, Any]) -> NoReturn:
        """Tell why it ends here, and end: no client gets to try again."""
        try:
            self.tell(line)
        finally:
            os._exit(0)


def read(system: Any, order: Order, teller: Teller) -> None:
    """Tell an object to its end, or raise what the client raises."""
    size, mark = look(system, order.place)
    teller.tell({"size": size, "mark": mark})
    if not order.fewest <= size <= order.most:
        return
    begin, count = order.begin(size, mark), SMALLEST
    while begin < size:
        began, wanted = time.monotonic(), min(count, size - begin)
        piece = bytes(system.cat_file(order.place, start=begin, end=begin + wanted))
        if len(piece) != wanted:
            raise ValueError(f"gives {len(piece)} bytes where {wanted} were asked for")
        count = _next(count, time.monotonic() - began)
        teller.tell({"piece": wanted}, piece)
        begin += wanted
    teller.tell({"end": look(system, order.place)[1]})


def look(system: Any, place: str) -> tuple[int, str]:
    """Return the size of an object, and what changes when it does."""
    info = system.info(place)
    if info.get("type") != "file":
        raise FileNotFoundError(f"{place} is a folder")
    known = {name: str(info[name]) for name in _CHANGING if info.get(name)}
    return int(info["size"]), hashlib.sha256(repr(known or info).encode()).hexdigest()


def filesystem(order: Order) -> Any:
    """Return fsspec's file system for a scheme, which remembers nothing. Raises `ImportError` where it is not."""
    import fsspec  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra

    # An empty table, unlike none, keeps botocore from the proxies of the environment.
    proxies = {} if order.proxy is None else dict.fromkeys(("http", "https"), order.proxy)
    session = {"headers": {"Accept-Encoding": "identity"}, "auto_decompress": False}
    options: dict[str, dict[str, Any]] = {
        "s3": {"config_kwargs": {"proxies": proxies, "read_timeout": order.stall, "connect_timeout": order.stall}},
        "gs": {"session_kwargs": session | ({} if order.proxy is None else {"proxy": order.proxy})},
    }
    return fsspec.filesystem(order.scheme, use_listings_cache=False, skip_instance_cache=True, **options[order.scheme])


def service_fault(service: str, networks: Networks, ask: Callable[[str, int], list[str]] = resolve) -> str | None:
    """Return why a service may not be asked for objects, or None. Raises `OSError` when it has no address."""
    where = urlsplit(service)
    clear = where.scheme != "https"
    for text in ask(where.hostname or "", where.port or (80 if clear else 443)):
        why = fault(text, networks)
        if why is not None:
            return f"the service {service} has the address {text}, {why}"
        if clear and not any(ipaddress.ip_address(text) in network for network in networks):
            return (
                f"the service {service} is asked in clear text, for all to see on the way to {text}; use `https://`, "
                "or name its network in `guard.fetch_networks`"
            )
    return None


def quoted(text: str) -> str:
    """Return what may be told of a client's words: neither what opens an address, nor whom we claim to be."""
    return _SHOWN.sub(HIDDEN, redacted(text))[:LONGEST_QUOTE]


def main() -> NoReturn:
    """Do what the guard orders, and end."""
    for limit, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, most))
    guard = socket.socket(fileno=sys.stdin.fileno())
    teller = Teller(guard)
    told = json.loads(_line(guard))
    order = Order(**told | {"networks": tuple(told["networks"])})
    threading.Thread(target=_until_nobody_listens, args=(guard,), daemon=True).start()
    try:
        _judge(order, teller)
        _follow_nothing(order, teller)
        system = _connected(order, teller)
        read(system, order, teller)
    except ImportError as error:
        teller.end({"lacking": str(error)[:LONGEST_QUOTE]})
    except Exception as error:  # noqa: BLE001 - each service has errors of its own, and none is ours
        teller.end({"failed": f"{type(error).__name__}: {quoted(str(error))}"})
    os._exit(0)


def _connected(order: Order, teller: Teller) -> Any:
    """Return the file system, if the service that the machine's configuration names may be asked."""
    import fsspec  # noqa: PLC0415

    fsspec.get_filesystem_class(order.scheme)
    teller.tell({"ready": True})
    system = filesystem(order)
    service = str(system.s3.meta.endpoint_url if order.scheme == "s3" else system.base)
    why = None if order.proxy is not None and service.startswith("https://") else service_fault(service, _nets(order))
    if why is not None:
        teller.end({"refused": why})
    return system


def _judge(order: Order, teller: Teller) -> None:
    """Let nobody in this process connect to what is neither public nor allowed, nor unpickle anything.

    INVARIANT: asked at each connection of Python's sockets, whoever makes it and whatever name led there. Where clouds
    hand out credentials these clients get their own; nothing of an address, nor a redirect, leads there.
    """
    networks = _nets(order)
    exempt = {str(address) for address in METADATA} | _addresses(order.proxy)

    def judge(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            raise ValueError("nothing is unpickled here: gcsfs would take tokens from a file of the home directory so")
        if event == "socket.connect" and arguments[0].family in _INTERNET and arguments[1][0] not in exempt:
            why = fault(str(arguments[1][0]), networks)
            if why is not None:
                teller.end({"refused": f"leads to the address {arguments[1][0]}, {why}"})

    sys.addaudithook(judge)


def _follow_nothing(order: Order, teller: Teller) -> None:
    """Have no redirect followed: both clients ask through aiohttp, which would go wherever an answer says."""
    aiohttp = importlib.import_module("aiohttp")  # comes with the extras
    plain = aiohttp.ClientSession._request  # noqa: SLF001 - all its methods end there

    async def request(self: Any, method: str, url: Any, **options: Any) -> Any:
        answer = await plain(self, method, url, **options | {"allow_redirects": False})
        # S3 names a bucket's region in this way, and botocore then asks there, at the address of its own tables.
        elsewhere = answer.status in _REDIRECTS and "Location" in answer.headers
        if elsewhere and not (order.scheme == "s3" and _REGION in answer.headers):
            where = quoted(answer.headers["Location"])
            why = f"the service sends us on to `{where}` ({answer.status}), and redirects are not followed"
            teller.end({"refused": why})
        return answer

    aiohttp.ClientSession._request = request  # noqa: SLF001


def _addresses(proxy: str | None) -> set[str]:
    where = urlsplit(proxy) if proxy is not None else None
    return set(resolve(where.hostname or "", where.port or 80)) if where is not None else set()


def _nets(order: Order) -> Networks:
    return tuple(ipaddress.ip_network(text) for text in order.networks)


def _next(count: int, seconds: float) -> int:
    if seconds < QUICK:
        return min(count * 2, LARGEST)
    return count if seconds <= SLOW else max(count // 2, SMALLEST)


def _line(guard: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < LONGEST_LINE:
        piece = guard.recv(LONGEST_LINE)
        if not piece:
            os._exit(1)
        line += piece
    return line


def _until_nobody_listens(guard: socket.socket) -> NoReturn:
    try:
        guard.recv(1)
    finally:
        os._exit(1)
