"""An HTTPS host for tests: it serves archives as a good one does, or does what a test tells it to."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import authority
import servers

Behaviour = Callable[["Handler"], None]


@dataclass
class Host:
    """What the host has, what it was asked for, and what it does instead of serving: by path, without the query."""

    port: int
    authorities: Path
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def has(self, path: str, data: bytes, etag: str = '"one"') -> str:
        """Serve a file from now on; return its address."""
        self.files[path] = (data, etag)
        return self.url(path)

    def does(self, path: str, behaviour: Behaviour) -> str:
        """Do this when the path is asked for; return the address."""
        self.behaviours[path] = behaviour
        return self.url(path)

    def forget(self) -> None:
        """Have nothing, do nothing else, and know of nothing that was asked."""
        self.files.clear()
        self.behaviours.clear()
        self.asked.clear()

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; `host` is what it is served from."""

    protocol_version = "HTTP/1.1"
    host: Host

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.host.asked.append((self.path, dict(self.headers)))
        self.close_connection = True
        with contextlib.suppress(OSError):
            if path in self.host.behaviours:
                self.host.behaviours[path](self)
            elif path in self.host.files:
                self.serve(*self.host.files[path])
            else:
                self.say(404)

    def serve(self, data: bytes, etag: str) -> None:
        """Serve as RFC 9110 says: the rest from a byte on, if it is still the same file."""
        wanted = self.headers.get("Range", "")
        if wanted and self.headers.get("If-Range") == etag:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(data):
                self.say(416, **{"Content-Range": f"bytes */{len(data)}"})
                return
            self.say(206, data[begin:], ETag=etag, **{"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"})
            return
        self.say(200, data, ETag=etag)

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer; a header given as None is left out, `Content-Length` is told unless it is given."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext

    def finish_request(self, request, client_address) -> None:
        """Shake hands in the thread of the request: a client that does not keeps nobody else waiting."""
        request.settimeout(30)
        try:
            secured = self.context.wrap_socket(request, server_side=True)
        except OSError:
            return
        with secured, contextlib.suppress(OSError):
            super().finish_request(secured, client_address)

    def handle_error(self, request, client_address) -> None:
        """Clients hang up here; what else goes wrong, the test sees."""


@contextlib.contextmanager
def host(folder: Path, **certificate) -> Iterator[Host]:
    """A host on loopback with a certificate of an authority of its own, whose file is `authorities`."""
    root = authority.root()
    chain, key = root.issue(**certificate).written(folder)
    authorities = folder / "authorities.pem"
    authorities.write_bytes(root.pem)
    (port,) = servers.free_ports(1)
    serving = Host(port, authorities)
    server = _Server(("127.0.0.1", port), type("Bound", (Handler,), {"host": serving}))
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(chain, key)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield serving
    finally:
        serving.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
