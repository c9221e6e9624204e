"""A real door in front of upstreams that record what they are told, byte for byte; for tests of what passes.

The upstreams read as strictly as the guard must write. What they cannot read is kept too; no test expects it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import enforcing
import servers
import uvloop

from torchserve_guard.access import Mode
from torchserve_guard.audit import AuditLog
from torchserve_guard.identity import KeyFile
from torchserve_guard.policy import Access
from torchserve_guard.proxy import Door, Limits, ListenerSpec
from torchserve_guard.proxy.tls import Context
from torchserve_guard.wire import Listener

TIMEOUT = 20
HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True)
class Heard:
    """One request as an upstream got it; `broken` when it is none, `cut` when it ended before it was whole."""

    listener: str
    head: bytes
    body: bytes = b""
    broken: bool = False
    cut: bool = False

    @property
    def line(self) -> str:
        """The request line without its version, which is always 1.1."""
        method, target, version = self.head.split(b"\r\n")[0].split(b" ")
        assert version == b"HTTP/1.1"
        return f"{method.decode()} {target.decode()}"

    def header(self, name: str) -> list[str]:
        lines = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:]]
        return [value.decode("latin-1") for key, _, value in lines if key.lower() == name.lower().encode()]


@dataclass
class Upstream:
    """One of TorchServe's listeners: answers everything with 200 and its own name."""

    listener: str
    path: str
    heard: list[Heard] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen(128)
        self._in_a_thread(self._accept)

    def _in_a_thread(self, what: Callable[..., None], *arguments: object) -> None:
        self.threads.append(threading.Thread(target=what, args=arguments, daemon=True))
        self.threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                self.connections.append(connection)
                self._in_a_thread(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as file:
            while (request := self._read(file)) is not None:
                self.heard.append(request)
                if request.broken or request.cut:
                    return
                name = b"" if request.head.startswith(b"HEAD ") else self.listener.encode()
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(self.listener), name)
                )

    def _read(self, file: BinaryIO) -> Heard | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            if not line:
                return Heard(self.listener, head, cut=True) if head else None
            head += line
        request = Heard(self.listener, head[:-4])
        lengths, encodings = request.header("content-length"), request.header("transfer-encoding")
        whole = all(HEADER.fullmatch(line) for line in request.head.split(b"\r\n")[1:])
        if not whole or len(lengths) + len(encodings) > 1 or request.header("host") != ["localhost"]:
            return replace(request, broken=True)
        if encodings:
            return replace(request, **(_chunked(file) if encodings == ["chunked"] else {"broken": True}))
        size = int(lengths[0]) if lengths else 0
        body = file.read(size)
        return replace(request, body=body, cut=len(body) < size)

    def stop(self) -> None:
        for connection in (self.listening, *self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for thread in self.threads:
            thread.join(TIMEOUT)


def _chunked(file: BinaryIO) -> dict[str, Any]:
    body = b""
    while True:
        line = file.readline()
        if not line.endswith(b"\n"):
            return {"cut": True}
        size = re.fullmatch(rb"([0-9a-f]+)\r\n", line)
        if size is None:
            return {"broken": True}
        piece = file.read(int(size[1], 16) + 2)
        if len(piece) < int(size[1], 16) + 2:
            return {"cut": True}
        if not piece.endswith(b"\r\n"):
            return {"broken": True}
        if piece == b"\r\n":
            return {"body": body}
        body += piece[:-2]


@dataclass
class Doorway:
    """An open door: `ports` by listener, `keys` by kind."""

    ports: Mapping[Listener, int]
    upstreams: Mapping[Listener, Upstream]
    keys: Mapping[str, str]
    audit: Path
    secured: Callable[[socket.socket], socket.socket] = lambda connection: connection

    def bearer(self, kind: str) -> bytes:
        return b"Authorization: Bearer %b\r\n" % self.keys[kind].encode()

    def say(self, *pieces: bytes, listener: Listener = Listener.INFERENCE, reset: bool = False) -> bytes:
        """Send pieces, each in a segment of its own, and return all that comes until the guard closes.

        It must close so that all it said arrives: a reset is an error of the test, unless it may be, because the client
        goes on after it said that it would not.
        """
        raw = socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=TIMEOUT)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expected = (ConnectionResetError, BrokenPipeError) if reset else ()
        answers: list[bytes] = []
        with self.secured(raw) as connection:
            with contextlib.suppress(*expected):
                for piece in pieces:
                    connection.sendall(piece)
            with contextlib.suppress(*expected):
                answers.extend(iter(lambda: connection.recv(65536), b""))
        return b"".join(answers)

    def heard(self) -> list[Heard]:
        """Return what the upstreams heard since this was last asked, in the order of the listeners."""
        found = [request for upstream in self.upstreams.values() for request in upstream.heard]
        for upstream in self.upstreams.values():
            upstream.heard.clear()
        return found

    def entries(self, event: str) -> list[dict[str, object]]:
        entries = [json.loads(line) for line in self.audit.read_bytes().splitlines()]
        return [entry for entry in entries if entry["event"] == event]


def statuses(answers: bytes, *, to_head: bool = False) -> list[int]:
    """Return the status of each answer; raise when these are not answers, whole, one behind the other.

    `to_head` says that the first answers a HEAD, and so has no body.
    """
    found: list[int] = []
    while answers:
        head, end, answers = answers.partition(b"\r\n\r\n")
        assert end, head
        found.append(int(re.match(rb"HTTP/1\.1 ([0-9]{3}) ", head)[1]))
        length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
        if found[-1] >= 200:
            assert length, head
            size = 0 if to_head and len(found) == 1 else int(length[1])
            assert len(answers) >= size, head
            answers = answers[size:]
    return found


@contextlib.contextmanager
def opened(
    folder: Path,
    access: Access | None = None,
    *,
    shared: tuple[Listener, ...] = (),
    tls: Context | None = None,
    **limits: float,
) -> Iterator[Doorway]:
    """Open a door; the listeners in `shared` share a port. With `tls` all are `https`."""
    upstreams = {one: Upstream(one.value, str(folder / f"{one.value}.sock")) for one in Listener}
    keys = KeyFile(folder / "key_file.json", 3600, time.time)
    keys.write()
    audit = AuditLog(folder / "audit.log", time.time)

    enforcer = enforcing.enforcer(access or Access(Mode.NONE, keys_required=False), keys, audit)
    one, *others = servers.free_ports(4)
    ports = {listener: one if listener in shared else others.pop() for listener in Listener}
    specs = {
        listener: ListenerSpec(
            f"{'http' if tls is None else 'https'}://127.0.0.1:{ports[listener]}",
            f"unix:{upstream.path}",
            b"" if listener is Listener.METRICS else b"Authorization: Bearer upstream-" + listener.value.encode(),
        )
        for listener, upstream in upstreams.items()
    }
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    door = Door(specs, enforcer, Limits(**limits), tls)
    thread.start()
    try:
        for upstream in upstreams.values():
            upstream.start()
        asyncio.run_coroutine_threadsafe(door.open(), loop).result(TIMEOUT)
        shown = {kind: key["key"] for kind, key in json.loads((folder / "key_file.json").read_text()).items()}
        yield Doorway(ports, upstreams, shown, audit.path)
    finally:
        asyncio.run_coroutine_threadsafe(door.close(0), loop).result(TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT)
        loop.close()
        for upstream in upstreams.values():
            upstream.stop()
        audit.close()
