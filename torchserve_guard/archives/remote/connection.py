"""The connection: TLS to an address that was judged, or through the proxy that was named; verified as the host's."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
from collections.abc import Iterable

from torchserve_guard import __version__
from torchserve_guard.archives.remote.addresses import Resolve, fault, judged, resolve
from torchserve_guard.archives.remote.failure import refused, unfetched
from torchserve_guard.archives.remote.watch import Watch
from torchserve_guard.errors import ConfigError
from torchserve_guard.origin import HTTPS_PORT, Origin
from torchserve_guard.terms import Proxy, Terms

LONGEST_HEAD = 16384
_CONNECTED = (b"HTTP/1.0 200", b"HTTP/1.1 200")


class Connection(http.client.HTTPConnection):
    """One connection that was made already; it never makes another."""

    default_port = HTTPS_PORT
    auto_open = 0

    def __init__(self, origin: Origin, made: socket.socket) -> None:
        super().__init__(origin.host, origin.port or HTTPS_PORT)
        self.sock = made


def connected(origin: Origin, terms: Terms, watch: Watch, ask: Resolve = resolve) -> Connection:
    """Return a connection to the origin's host. Raises `ConfigError`, `VerificationError` or `Unfetched`."""
    context = context_of(terms)
    proxy = terms.proxy
    plain = _direct(origin, terms, watch, ask) if proxy is None else _through(proxy, origin, terms, watch)
    try:
        secured = context.wrap_socket(plain, server_hostname=origin.host.strip("[]"), do_handshake_on_connect=False)
    except (OSError, ValueError) as error:
        plain.close()
        unfetched(origin, f"no TLS with the host: {error}", error)
    try:
        watch.take(secured)
        secured.do_handshake()
    except ssl.SSLCertVerificationError as error:
        secured.close()
        refused(origin, f"the host shows a certificate that does not verify: {error.verify_message}")
    except OSError as error:
        secured.close()
        watch.verify()
        unfetched(origin, f"no TLS with the host: {error}", error)
    return Connection(origin, secured)


def context_of(terms: Terms) -> ssl.SSLContext:
    """Return what verifies a host: against the named authorities, or else the system's. Raises `ConfigError`."""
    try:
        context = ssl.create_default_context(cafile=terms.authorities)
    except (OSError, ssl.SSLError) as error:
        where = f"`guard.fetch_ca`: {terms.authorities}"
        raise ConfigError(f"{where} holds no certificates that can be read: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _direct(origin: Origin, terms: Terms, watch: Watch, ask: Resolve) -> socket.socket:
    port = origin.port or HTTPS_PORT
    found = judged(origin, port, terms.networks, _in_time(ask, terms, watch))
    try:
        return _made(found, port, terms, watch)
    except OSError as error:
        unfetched(origin, f"no connection to the host: {error}", error)


def _in_time(ask: Resolve, terms: Terms, watch: Watch) -> Resolve:
    """Return what asks for addresses as long as a host may stall: the system's own resolver knows no limit."""
    return lambda host, port: watch.attend(lambda: ask(host, port), terms.stall)


def _made(addresses: Iterable[str], port: int, terms: Terms, watch: Watch) -> socket.socket:
    """Return a connection to the first address that takes one. Raises `OSError`, or `Unfetched`."""
    *others, last = addresses
    for address in others:
        with contextlib.suppress(OSError):
            return _made_to(address, port, terms, watch)
    return _made_to(last, port, terms, watch)


def _made_to(address: str, port: int, terms: Terms, watch: Watch) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.settimeout(terms.stall)
        watch.take(made)  # before it connects: an address that does not answer can be cut as well
        made.connect((address, port))
        watch.verify()
    except BaseException:
        made.close()
        raise
    return made


def _through(proxy: Proxy, origin: Origin, terms: Terms, watch: Watch) -> socket.socket:
    """Have the proxy connect us; the host's name is its to resolve, so only an address can be judged here."""
    host = origin.host.strip("[]")
    why = fault(host, terms.networks) if host != origin.host or host.replace(".", "").isdigit() else None
    if why is not None:
        refused(origin, f"the host is {host}, {why}")
    try:
        found = _in_time(resolve, terms, watch)(proxy.host.strip("[]"), proxy.port)
        made = _made(found, proxy.port, terms, watch)
    except OSError as error:
        unfetched(origin, f"no connection to the proxy `{proxy.host}:{proxy.port}`: {error}", error)
    try:
        made.sendall(_connect(origin, proxy))
        line = _head(made).partition(b"\r\n")[0]
    except OSError as error:
        made.close()
        watch.verify()
        unfetched(origin, f"the proxy `{proxy.host}:{proxy.port}` does not answer: {error}", error)
    if not line.startswith(_CONNECTED):
        made.close()
        unfetched(origin, f"the proxy `{proxy.host}:{proxy.port}` answers `{line[:80].decode('latin-1')}`")
    return made


def _connect(origin: Origin, proxy: Proxy) -> bytes:
    there = f"{origin.host}:{origin.port or HTTPS_PORT}"
    lines = [f"CONNECT {there} HTTP/1.1", f"Host: {there}", f"User-Agent: tsguard/{__version__}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.credentials.encode()).decode()}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _head(made: socket.socket) -> bytes:
    """Return the head of the proxy's answer; the host says nothing before we do, so nothing follows it."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = made.recv(LONGEST_HEAD)
        head += piece
        if not piece or len(head) > LONGEST_HEAD:
            raise OSError("its answer has no end")
    return head
