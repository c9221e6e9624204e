"""The door, with real sockets on both sides: a raw client, and a plain upstream that does as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import enforcing
import pytest
import servers
import uvloop

from torchserve_guard.access import Mode
from torchserve_guard.audit import AuditLog
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.identity import KeyFile
from torchserve_guard.policy import Access
from torchserve_guard.proxy import Door, Limits, ListenerSpec, Stats
from torchserve_guard.wire import METHOD_NOT_ALLOWED, Listener

PREDICT = b"/predictions/noop"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
TIMEOUT = 10


# --- the upstream ---------------------------------------------------------------------------------------------------


@dataclass
class Request:
    head: bytes
    body: bytes
    chunked: bool

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n")[0]

    def header(self, name: bytes) -> list[bytes]:
        lines = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        return [value.strip() for key, _, value in lines if key.lower() == name.lower()]


def read_request(file) -> Request | None:
    """Read one request as strictly as the guard must write it; anything else is an error of the test."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            assert not head
            return None
        assert line.endswith(b"\r\n")
        head += line
    request = Request(head[:-4], b"", chunked=False)
    lengths, encodings = request.header(b"content-length"), request.header(b"transfer-encoding")
    assert len(lengths) + len(encodings) <= 1
    if lengths:
        request.body = file.read(int(lengths[0]))
    elif encodings:
        assert encodings == [b"chunked"]
        request.chunked = True
        while size := chunk_size(file.readline()):
            request.body += file.read(size)
            assert file.read(2) == b"\r\n"
        assert file.readline() == b"\r\n"
    return request


def chunk_size(line: bytes) -> int:
    if not line:
        raise ConnectionError("the guard hung up")
    return int(re.fullmatch(rb"([0-9a-f]+)\r\n", line)[1], 16)


@dataclass
class Upstream:
    """Serves each connection in a thread; `script` may be changed by the test at any time."""

    path: str
    script: Callable[[socket.socket, object, Request], bytes | None]
    requests: list[Request] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    on_connect: Callable[[socket.socket], None] | None = None

    def start(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as file:
            if self.on_connect is not None:
                self.on_connect(connection)
                return
            while (request := read_request(file)) is not None:
                self.requests.append(request)
                answer = self.script(connection, file, request)
                if answer is None:
                    return
                connection.sendall(answer)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


# --- the guard ------------------------------------------------------------------------------------------------------


@dataclass
class Guard:
    door: Door
    loop: asyncio.AbstractEventLoop
    port: int
    management_port: int
    audit: Path
    keys: dict[str, str]
    upstream: Upstream
    settled: list[tuple[str, int | None]]
    prepared: list[str]
    prepare_error: list[Exception] = field(default_factory=list)

    def connect(self, *, management: bool = False) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.management_port if management else self.port))
        connection.settimeout(TIMEOUT)
        return connection

    def say(self, *raw: bytes, management: bool = False, pause: float = 0.0) -> bytes:
        """Send raw bytes, return all that comes until the guard closes."""
        with self.connect(management=management) as connection:
            for piece in raw:
                connection.sendall(piece)
                time.sleep(pause)
            return read_all(connection)

    def ask(self, method: str, target: str, body: bytes | None = None, *, management: bool = False, **headers: str):
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.management_port if management else self.port, timeout=TIMEOUT)
        ) as connection:
            connection.request(method, target, body, {key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            return response, response.read()

    def stats(self) -> Stats:
        async def stats() -> Stats:
            return self.door.stats()

        return asyncio.run_coroutine_threadsafe(stats(), self.loop).result(TIMEOUT)

    def close(self, grace: float) -> None:
        asyncio.run_coroutine_threadsafe(self.door.close(grace), self.loop).result(TIMEOUT + grace)

    def entries(self, event: str | None = None) -> list[dict]:
        entries = [json.loads(line) for line in self.audit.read_bytes().splitlines()]
        return [entry for entry in entries if event in {None, entry["event"]}]


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    return data


def eventually(condition: Callable[[], object], why: str = "") -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, why or "it never happened"
        time.sleep(0.01)


def a_door(folder: Path, specs: dict[Listener, ListenerSpec]) -> Door:
    """Return a door through which nothing is asked."""
    keys = KeyFile(folder / "other_keys.json", 3600, time.time)
    audit = AuditLog(folder / "other_audit.log", time.time)
    return Door(specs, enforcing.enforcer(Access(Mode.NONE, keys_required=True), keys, audit), Limits())


@contextlib.contextmanager
def guarded(folder: Path, *, mode: Mode = Mode.NONE, keys_required: bool = False, **limits) -> Iterator[Guard]:
    upstream = Upstream(str(folder / "up.sock"), lambda _connection, _file, _request: OK)
    upstream.start()
    keys = KeyFile(folder / "key_file.json", 3600, time.time)
    keys.write()
    audit = AuditLog(folder / "audit.log", time.time)
    settled, prepared, prepare_error = [], [], []

    async def prepare(operation):
        prepared.append(operation.parameter("url"))
        if prepare_error:
            raise prepare_error[0]
        return operation

    async def settle(operation, status) -> None:
        settled.append((operation.action.value, status))

    enforcer = enforcing.enforcer(Access(mode, keys_required), keys, audit, prepare=prepare, settled=settle)
    ports = servers.free_ports(2)
    line = b"Authorization: Bearer upstream-token"
    specs = {
        listener: ListenerSpec(f"http://127.0.0.1:{port}", f"unix:{upstream.path}", line)
        for listener, port in zip((Listener.INFERENCE, Listener.MANAGEMENT), ports, strict=True)
    }
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    door = Door(specs, enforcer, Limits(**limits))
    try:
        asyncio.run_coroutine_threadsafe(door.open(), loop).result(TIMEOUT)
        shown = {kind: key["key"] for kind, key in json.loads((folder / "key_file.json").read_text()).items()}
        guard = Guard(door, loop, *ports, audit.path, shown, upstream, settled, prepared, prepare_error)
        yield guard
        guard.close(0)
        assert guard.stats().connections == 0
        eventually(lambda: guard.stats().upstream_connections == 0)
    finally:
        asyncio.run_coroutine_threadsafe(door.close(0), loop).result(TIMEOUT)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT)
        loop.close()
        upstream.stop()
        audit.close()


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with guarded(tmp_path) as guard:
        yield guard


def get(target: bytes = PREDICT, *headers: bytes, close: bool = True) -> bytes:
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: x", *headers, *([b"Connection: close"] if close else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# --- what passes ----------------------------------------------------------------------------------------------------


def test_a_request_arrives_in_the_guards_own_words_and_its_answer_comes_back(guard):
    response, body = guard.ask("GET", "/%70redictions/noop/", X_Mine="1", Authorization="Bearer theirs")
    assert (response.status, response.reason, body) == (200, "OK", b"ok")
    (request,) = guard.upstream.requests
    assert request.line == b"GET /predictions/noop HTTP/1.1"
    assert request.header(b"host") == [b"localhost"]
    assert request.header(b"authorization") == [b"Bearer upstream-token"]
    assert request.header(b"x-mine") == [b"1"]


def test_a_well_formed_request_id_is_kept_and_another_is_made(guard):
    response, _ = guard.ask("GET", "/ping", X_Request_Id="mine-1")
    assert response.headers.get_all("X-Request-Id") == ["mine-1"]
    response, _ = guard.ask("GET", "/ping", X_Request_Id="a b/c")
    made = response.headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert [request.header(b"x-request-id") for request in guard.upstream.requests] == [[b"mine-1"], [made.encode()]]


def test_each_request_on_a_kept_connection_has_its_own_id(guard):
    with guard.connect() as connection:
        ids = set()
        for _ in range(5):
            connection.sendall(get(close=False))
            ids.add(re.search(rb"X-Request-Id: (\w+)", connection.recv(4096))[1])
    assert len(ids) == 5
    assert len(guard.upstream.connections) == 1


def test_upstreams_own_request_id_and_hop_by_hop_headers_do_not_come_back(guard):
    guard.upstream.script = lambda *_: (
        b"HTTP/1.1 200 Fine\r\nx-request-id: theirs\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Mine: yes\r\nContent-Length: 0\r\n\r\n"
    )
    response, _ = guard.ask("GET", "/ping", X_Request_Id="mine")
    assert response.reason == "Fine"
    assert response.headers.get_all("X-Request-Id") == ["mine"]
    assert response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert response.headers["X-Mine"] == "yes"
    assert "Keep-Alive" not in response.headers


@pytest.mark.parametrize("size", [0, 1, 17, 65536, 3_000_000])
def test_bodies_pass_whole_in_both_directions_by_length(guard, size):
    body = os.urandom(size)
    guard.upstream.script = lambda _c, _f, request: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.body), request.body)
    )
    response, answer = guard.ask("POST", "/predictions/noop", body)
    assert (response.status, answer) == (200, body)
    assert not guard.upstream.requests[0].chunked


@pytest.mark.parametrize("split", [1, 7, 4096])
def test_chunked_bodies_pass_without_extensions_and_trailers(guard, split):
    guard.upstream.script = lambda _c, _f, request: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n%x\r\n%b\r\n0\r\nTrailer: t\r\n\r\n"
        % (len(request.body), request.body)
    )
    raw = (
        b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    with guard.connect() as connection:
        for at in range(0, len(raw), split):
            connection.sendall(raw[at : at + split])
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.read() == b"abchello world"
    (request,) = guard.upstream.requests
    assert (request.chunked, request.body) == (True, b"hello world")
    assert b"railer" not in request.head


def test_pipelined_requests_are_answered_in_order(guard):
    guard.upstream.script = lambda _c, _f, request: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.line), request.line)
    )
    names = [b"/predictions/m%d" % number for number in range(50)]
    post = b"POST /predictions/p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    answer = guard.say(b"".join(get(name, close=False) for name in names) + post + get(b"/ping"))
    found = re.findall(rb"(?:GET|POST) (\S+) HTTP", answer)
    assert found == [*names, b"/predictions/p", b"/ping"]


def test_pipelined_refusals_stand_between_answers(guard):
    many = get(b"/nowhere", close=False) * 2000
    answer = guard.say(many + get())
    assert answer.count(b"HTTP/1.1 404") == 2000
    assert answer.endswith(b"ok")


def test_a_client_of_http_1_0_gets_one_answer_and_an_end(guard):
    guard.upstream.script = lambda *_: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    answer = guard.say(b"GET /predictions/noop HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nok")
    assert b"Transfer-Encoding" not in answer
    guard.upstream.script = lambda *_: OK
    with guard.connect() as connection:
        for _ in range(2):
            connection.sendall(b"GET /predictions/noop HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert b"Connection: keep-alive" in connection.recv(4096)


def test_head_has_the_length_and_no_body(guard):
    guard.upstream.script = lambda *_: b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"
    answer = guard.say(b"HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\n" + get(b"/nowhere"))
    first, _, rest = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: 12345" in first
    assert rest.startswith(b"HTTP/1.1 404")


def test_an_answer_that_ends_with_the_connection_is_framed_for_the_client(guard):
    def script(connection, _file, _request):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    guard.upstream.script = script
    response, body = guard.ask("GET", "/predictions/noop")
    assert body == b"until the end"
    assert response.headers["Transfer-Encoding"] == "chunked"


def test_a_reset_after_a_complete_error_is_normal_and_the_connection_is_not_used_again(guard):
    def script(connection, _file, _request):
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    guard.upstream.script = script
    for _ in range(20):
        response, body = guard.ask("GET", "/predictions/noop")
        assert (response.status, body) == (503, b"busy")
    assert len(guard.upstream.connections) == 20
    assert guard.entries() == []


# --- Expect ---------------------------------------------------------------------------------------------------------

EXPECTING = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"


def test_an_expectation_is_met_by_the_guard_and_not_forwarded(guard):
    with guard.connect() as connection:
        connection.sendall(EXPECTING % PREDICT)
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert read_all(connection).endswith(b"ok")
    assert guard.upstream.requests[0].header(b"expect") == []
    assert guard.upstream.requests[0].body == b"body"


def test_who_is_refused_is_not_told_to_continue_and_the_body_is_never_a_request(guard):
    smuggled = b"PUT /models/noop?min_worker=0 HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = guard.say(EXPECTING % b"/nowhere", smuggled, pause=0.05)
    assert status_of(answer) == 404
    assert answer.count(b"HTTP/1.1 ") == 1
    assert guard.upstream.requests == []


def test_another_expectation_is_417(guard):
    answer = guard.say(get(PREDICT, b"Expect: 200-maybe") + get())
    assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (417, 1)


# --- Upgrade --------------------------------------------------------------------------------------------------------

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"
OFFERS = {
    "Java": H2C,
    "Apache": b"Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
    "behind nginx": b"Connection: upgrade\r\n",
    "in capitals, in two lines": b"CONNECTION: UPGRADE\r\nConnection: keep-alive\r\nUPGRADE: H2C\r\n",
}


@pytest.mark.parametrize("offer", [pytest.param(offer, id=name) for name, offer in OFFERS.items()])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_an_offer_that_clients_make_by_default_is_ignored_and_goes_nowhere(guard, offer, framing):
    with guard.connect() as connection:
        for _ in range(2):
            connection.sendall(P + offer + framing)
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"pgrade" not in answer
    assert len(guard.upstream.requests) == 2
    for request in guard.upstream.requests:
        assert request.body == b"hello"
        for name in (b"upgrade", b"http2-settings", b"connection"):
            assert request.header(name) == []


def test_what_follows_an_offer_is_a_request_in_http_1_or_nothing(guard):
    frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    answer = guard.say(b"GET /ping HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\n" + frames)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"400"]
    assert len(guard.upstream.requests) == 1
    refused = b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + H2C + b"Content-Length: 3\r\n\r\nabc"
    answer = guard.say(refused + get())
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"404", b"200"]


# --- what is refused ------------------------------------------------------------------------------------------------
P = b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\n"
CHUNKED = P + b"Transfer-Encoding: chunked\r\n\r\n"


# What can be read in two ways is in tests/corpus/smuggling.yaml.
@pytest.mark.parametrize("endless", [b"1;" + b"a" * 5000, b"0\r\n" + b"A: b\r\n" * 5000], ids=["extension", "trailers"])
def test_what_never_ends_is_refused_before_it_is_kept(guard, endless):
    answer = guard.say(CHUNKED + endless)
    assert status_of(answer) == 400
    assert guard.entries("refusal")[0]["status"] == 400
    assert not [request for request in guard.upstream.requests if request.body]


def test_limits_come_before_buffers(guard):
    assert status_of(guard.say(b"GET /" + b"a" * 5000)) == 431
    assert status_of(guard.say(get(PREDICT, b"A: " + b"a" * 17000))) == 431
    assert status_of(guard.say(b"GET /ping HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 17000)) == 431
    assert status_of(guard.say(get(PREDICT, *[b"A: b"] * 101))) == 431


def test_a_long_run_of_blanks_costs_no_time(guard):
    started = time.monotonic()
    for _ in range(20):
        assert status_of(guard.say(get(PREDICT, b"A: a" + b" " * 15000 + b"\x01"))) == 400
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(P + b"Content-Length: 1001\r\n\r\n", id="by length, before the body"),
        pytest.param(CHUNKED + b"3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n", id="by chunks"),
    ],
)
def test_a_body_over_the_limit_is_413(tmp_path, raw):
    with guarded(tmp_path, body=1000) as guard:
        answer = guard.say(raw)
        assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (413, 1)
        assert guard.upstream.requests == []
        response, _ = guard.ask("POST", "/predictions/noop", b"a" * 1000)
        assert response.status == 200


def test_no_cache_keeps_a_refusal_said_as_stock_says_it(guard):
    response, body = guard.ask("GET", "/nowhere")
    said = {name.lower(): value for name, value in response.getheaders() if name.lower() != "x-request-id"}
    assert said == {
        "content-type": "application/json",
        "pragma": "no-cache",
        "cache-control": "no-cache; no-store, must-revalidate, private",
        "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
        "content-length": str(len(body)),
    }


def test_refusals_keep_the_connection_when_the_request_is_whole(guard):
    with guard.connect() as connection:
        connection.sendall(P.replace(b"/predictions/noop", b"/nowhere") + b"Content-Length: 3\r\n\r\nabc" + get())
        answer = read_all(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"404", b"200"]


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_slow_head_is_ended_and_a_silent_connection_too(tmp_path):
    with guarded(tmp_path, head_time=1.0, idle_time=2.0) as guard:
        with guard.connect() as slow, guard.connect() as silent:
            started = time.monotonic()
            slow.sendall(b"GET /ping HT")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while not select.select([slow], [], [], 0.2)[0] and time.monotonic() - started < 8:
                    slow.sendall(b"T"[:0] or b"")
            assert status_of(read_all(slow)) == 408
            assert read_all(silent) == b""
            assert time.monotonic() - started < 6
        assert guard.entries("refusal")[0]["rule"] == "proxy.time"


def test_a_head_that_drips_is_ended_too(tmp_path):
    with guarded(tmp_path, head_time=1.0) as guard, guard.connect() as slow:
        raw = b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 1000
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for at in range(len(raw)):
                if select.select([slow], [], [], 0.05)[0]:
                    break
                slow.sendall(raw[at : at + 1])
        assert status_of(read_all(slow)) == 408


def test_an_idle_connection_is_closed_without_a_word(tmp_path):
    with guarded(tmp_path, idle_time=1.0) as guard, guard.connect() as connection:
        connection.sendall(get(close=False))
        assert read_all(connection).endswith(b"ok")
        assert guard.entries() == []


def test_a_body_that_stalls_is_408_and_its_upstream_connection_closed(tmp_path):
    with guarded(tmp_path, stall_time=1.0) as guard, guard.connect() as connection:
        connection.sendall(P + b"Content-Length: 100\r\n\r\nabc")
        assert status_of(read_all(connection)) == 408
        eventually(lambda: guard.stats().upstream_connections == 0)


def test_an_answer_that_takes_too_long_is_502_when_a_limit_is_set(tmp_path):
    with guarded(tmp_path, answer_time=1.0) as guard:
        guard.upstream.script = lambda *_: time.sleep(30)
        assert status_of(guard.say(get())) == 502


# --- peers that vanish ----------------------------------------------------------------------------------------------


def test_no_upstream_is_502_in_torchserves_shape(guard):
    guard.upstream.stop()
    response, body = guard.ask("GET", "/predictions/noop")
    assert (response.status, json.loads(body)["type"]) == (502, "BadGatewayException")
    assert guard.stats().upstream_failures == 1
    assert guard.entries("refusal")[0]["status"] == 502


@pytest.mark.parametrize("partial", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"])
def test_an_upstream_that_hangs_up_before_its_head_is_502(guard, partial):
    def script(connection, _file, _request):
        connection.sendall(partial)

    guard.upstream.script = script
    assert status_of(guard.say(get())) == 502
    response, _ = guard.ask("POST", "/predictions/noop", b"abc")
    assert response.status == 502
    assert len(guard.upstream.requests) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nabcde\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70000,
    ],
)
def test_an_answer_that_can_be_read_in_two_ways_is_502(guard, raw):
    guard.upstream.script = lambda *_: raw
    assert status_of(guard.say(get())) == 502


def test_interim_answers_are_passed_over(guard):
    guard.upstream.script = lambda *_: b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK
    assert guard.ask("POST", "/predictions/noop", b"abc")[1] == b"ok"


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_cut_off_upstream_never_looks_whole(guard, head, version):
    def script(connection, _file, _request):
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n5\r\nabcde\r\n")
        time.sleep(0.1)

    guard.upstream.script = script
    with guard.connect() as connection:
        connection.sendall(get().replace(b"HTTP/1.1", b"HTTP/" + version))
        answer = b""
        with pytest.raises(ConnectionResetError):  # noqa: PT012 - however many pieces it takes
            while piece := connection.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\n0\r\n\r\n" not in answer


def test_bytes_behind_an_answer_are_never_the_next_answer(guard):
    guard.upstream.script = lambda *_: OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    with guard.connect() as connection:
        for _ in range(5):
            connection.sendall(get(close=False))
            assert connection.recv(4096).endswith(b"\r\n\r\nok")
    assert len(guard.upstream.connections) == 5


def test_bytes_on_an_idle_upstream_connection_are_never_an_answer(guard):
    guard.ask("GET", "/ping")
    guard.upstream.connections[0].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    eventually(lambda: guard.stats().upstream_connections == 0)
    assert guard.ask("GET", "/ping")[1] == b"ok"


def test_a_kept_connection_that_upstream_closed_is_noticed_at_once(guard):
    guard.ask("GET", "/ping")
    assert guard.stats().upstream_connections == 1
    guard.upstream.connections[0].shutdown(socket.SHUT_RDWR)
    eventually(lambda: guard.stats().upstream_connections == 0)
    assert guard.ask("POST", "/predictions/noop", b"abc")[1] == b"ok"


def test_a_kept_connection_that_dies_under_a_request_is_replaced_once_for_a_safe_method_only(guard):
    def script(connection, file, request):
        # answers once on each connection, then hangs up on the next request
        return None if len(guard.upstream.requests) % 2 == 0 else OK

    guard.upstream.script = script
    guard.ask("GET", "/ping")
    response, _ = guard.ask("GET", "/ping")
    assert (response.status, len(guard.upstream.requests)) == (200, 3)
    response, _ = guard.ask("POST", "/predictions/noop", b"abc")
    assert (response.status, len(guard.upstream.requests)) == (502, 4)


@pytest.mark.parametrize("stage", ["head", "body", "waiting", "answer"])
def test_a_client_that_vanishes_leaves_nothing_behind(guard, stage):
    arrived, gone = threading.Event(), threading.Event()

    def script(connection, file, _request):
        arrived.set()
        # What was not read when the door hung up comes back as a reset; it may have hung up before the answer.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            if stage == "answer":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nabc")
            while connection.recv(1):
                pass
        gone.set()

    guard.upstream.script = script
    with guard.connect() as connection:
        if stage == "head":
            connection.sendall(b"GET /ping HTT")
        elif stage == "body":
            connection.sendall(P + b"Content-Length: 1000\r\n\r\nabc")
            eventually(lambda: guard.stats().upstream_connections == 1)
        else:
            connection.sendall(get(close=False))
            assert arrived.wait(TIMEOUT)
    if stage in {"waiting", "answer"}:
        assert gone.wait(TIMEOUT)
    eventually(lambda: (stats := guard.stats()).connections == 0 and stats.upstream_connections == 0)
    assert guard.stats().in_flight == 0


def test_an_early_answer_reaches_a_client_that_is_still_sending(guard):
    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 507 No\r\nContent-Length: 5\r\n\r\nearly")
        connection.close()

    guard.upstream.on_connect = refuse
    for _ in range(10):
        with guard.connect() as connection:
            connection.sendall(P + b"Content-Length: 5000000\r\n\r\n")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(b"a" * 2_000_000)
            answer = read_all(connection)
            assert (status_of(answer), answer[-5:]) == (507, b"early")
            assert b"Connection: close" in answer


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_client_that_never_reads_holds_upstream_back_and_is_ended(tmp_path):
    sent = []

    def script(connection, _file, _request):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            sent.append(connection.send(b"x" * 65536))

    with guarded(tmp_path, stall_time=2.0) as guard, guard.connect() as connection:
        guard.upstream.script = script
        connection.sendall(get(close=False))
        eventually(lambda: guard.stats().upstream_connections == 0)
        assert sum(sent) < 16_000_000
        eventually(lambda: guard.stats().connections == 0)


def test_a_client_that_pipelines_and_never_reads_is_not_served_without_end(tmp_path):
    with guarded(tmp_path, stall_time=2.0) as guard, guard.connect() as connection:
        big = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
        guard.upstream.script = lambda *_: big
        connection.settimeout(0)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            for _ in range(100_000):
                connection.send(get(close=False))
        time.sleep(1)
        assert len(guard.upstream.requests) < 20
        eventually(lambda: guard.stats().connections == 0)


def test_a_slow_upstream_holds_the_client_back(tmp_path):
    release, size = threading.Event(), 200_000_000

    def slow(connection: socket.socket) -> None:
        release.wait(TIMEOUT)
        connection.close()

    sent = 0
    with guarded(tmp_path, body=None) as guard, guard.connect() as connection:
        guard.upstream.on_connect = slow
        connection.sendall(P + b"Content-Length: %d\r\n\r\n" % size)
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += connection.send(b"a" * 65536)
        release.set()
    # what the kernel's buffers and one of ours hold, not the whole body
    assert sent < 20_000_000


# --- the door -------------------------------------------------------------------------------------------------------


def test_one_connection_too_many_is_503(tmp_path):
    with guarded(tmp_path, connections=3) as guard:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(guard.connect()).sendall(get(close=False))
            eventually(lambda: guard.stats().served == 3)
            answers = [guard.say(b"") for _ in range(5)]
            assert {status_of(answer) for answer in answers} == {503}
            assert b"Retry-After" in answers[0]
        eventually(lambda: guard.stats().connections == 0)
        assert len(guard.entries("refusal")) <= 3
        assert guard.ask("GET", "/ping")[0].status == 200


def test_closing_finishes_what_is_in_flight_and_says_so(guard):
    asked = threading.Event()

    def script(*_):
        asked.set()
        time.sleep(0.5)
        return OK

    guard.upstream.script = script
    with guard.connect() as idle, guard.connect() as busy:
        busy.sendall(get(close=False))
        assert asked.wait(TIMEOUT)
        started = time.monotonic()
        guard.close(5)
        assert 0.2 < time.monotonic() - started < 3
        answer = read_all(busy)
        assert answer.endswith(b"ok")
        assert b"Connection: close" in answer
        assert read_all(idle) == b""
    with pytest.raises(ConnectionRefusedError):
        guard.connect()


def test_closing_cuts_at_the_deadline(guard):
    asked = threading.Event()

    def script(*_):
        asked.set()
        time.sleep(30)

    guard.upstream.script = script
    with guard.connect() as busy:
        busy.sendall(get(close=False))
        assert asked.wait(TIMEOUT)
        started = time.monotonic()
        guard.close(0.3)
        assert time.monotonic() - started < 2
        assert read_all(busy) == b""
    assert guard.stats().upstream_connections == 0


def test_a_second_close_hurries_the_first(guard):
    asked = threading.Event()

    def script(*_):
        asked.set()
        time.sleep(30)

    guard.upstream.script = script
    with guard.connect() as busy:
        busy.sendall(get(close=False))
        assert asked.wait(TIMEOUT)
        started = time.monotonic()
        first = asyncio.run_coroutine_threadsafe(guard.door.close(30), guard.loop)
        eventually(lambda: all(passage.closing for passage in guard.door._passages.values()))
        guard.close(0)
        first.result(TIMEOUT)
        assert time.monotonic() - started < 3
        assert read_all(busy) == b""


def test_a_unix_listener_replaces_an_old_socket_and_nothing_else(tmp_path):
    spec = ListenerSpec(f"unix:{tmp_path}/in.sock", f"unix:{tmp_path}/up.sock")
    (tmp_path / "in.sock").write_text("precious")

    async def opened() -> bool:
        door = a_door(tmp_path, {Listener.INFERENCE: spec})
        await door.open()
        there = (tmp_path / "in.sock").is_socket()
        await door.close(0)
        return there

    with pytest.raises(ConfigError, match="something else"):
        uvloop.run(opened())
    assert (tmp_path / "in.sock").read_text() == "precious"
    (tmp_path / "in.sock").unlink()
    old = socket.socket(socket.AF_UNIX)
    old.bind(str(tmp_path / "in.sock"))
    old.close()
    assert uvloop.run(opened())
    assert not (tmp_path / "in.sock").exists()


def test_an_address_in_use_is_a_configuration_error_and_nothing_stays_open(guard, tmp_path):
    (free,) = servers.free_ports(1)
    specs = {
        Listener.INFERENCE: ListenerSpec(f"http://127.0.0.1:{free}", "unix:/nowhere"),
        Listener.MANAGEMENT: ListenerSpec(f"http://127.0.0.1:{guard.port}", "unix:/nowhere"),
    }

    async def opened() -> None:
        await a_door(tmp_path, specs).open()

    with pytest.raises(ConfigError, match="management_address"):
        uvloop.run(opened())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free))


# --- management -----------------------------------------------------------------------------------------------------


def test_reading_is_recorded_with_its_outcome_and_predictions_are_not(guard):
    assert guard.ask("GET", "/models", management=True, X_Request_Id="r1", X_Mine="1")[0].status == 200
    guard.ask("GET", "/predictions/noop")
    eventually(lambda: len(guard.entries()) == 2)
    request, outcome = guard.entries()
    assert [request["event"], outcome["event"]] == ["request", "outcome"]
    assert (outcome["status"], outcome["request_id"], request["action"]) == (200, "r1", "list-models")
    assert guard.upstream.requests[0].header(b"x-mine") == []


CHANGES = [
    ("POST", "/models?url=x.mar", 405),
    ("DELETE", "/models/noop", 405),
    ("PUT", "/models/noop?min_worker=0", 403),
    ("PUT", "/%6dodels/noop?min_worker=0", 403),
    ("PUT", "/models/noop/1.0/set-default", 403),
    ("POST", "/workflows?url=x.war", 403),
    ("DELETE", "/workflows/w", 403),
    ("GET", "/token?type=management", 403),
]


@pytest.mark.parametrize(("method", "target", "status"), CHANGES)
def test_in_none_every_change_is_refused_recorded_and_never_forwarded(guard, method, target, status):
    for kind in (None, *guard.keys.values()):
        headers = {"Authorization": f"Bearer {kind}"} if kind else {}
        response, body = guard.ask(method, target, management=True, **headers)
        assert response.status == status
        if status == 405:
            assert json.loads(body)["message"] == METHOD_NOT_ALLOWED
        assert "mode" not in body.decode()
    assert guard.upstream.requests == []
    assert {entry["rule"] for entry in guard.entries("refusal")} == {"mode-none"}
    assert guard.entries("refusal")[0]["target"] == target


def test_in_explicit_a_change_needs_the_key(tmp_path):
    with guarded(tmp_path, mode=Mode.EXPLICIT) as guard:
        response, _ = guard.ask("PUT", "/models/noop?min_worker=1", management=True)
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        wrong = f"Bearer {guard.keys['inference']}"
        response, _ = guard.ask("PUT", "/models/noop?min_worker=1", management=True, Authorization=wrong)
        assert response.status == 403
        assert guard.upstream.requests == []
        right = f"Bearer {guard.keys['management']}"
        response, _ = guard.ask("PUT", "/models/noop?min_worker=1", b"junk", management=True, Authorization=right)
        assert response.status == 200
        (request,) = guard.upstream.requests
        assert (request.line, request.body) == (b"PUT /models/noop?min_worker=1 HTTP/1.1", b"")
        assert request.header(b"content-length") == [b"0"]
        eventually(lambda: guard.settled == [("scale-model", 200)])
        entry, outcome = guard.entries()[-2:]
        assert (entry["principal"], entry["decision"], outcome["status"]) == ("management-key", "permit", 200)
        assert not any(guard.keys["management"] in line for line in guard.audit.read_text().splitlines())


def test_a_registration_is_prepared_first_and_a_json_body_becomes_its_query(tmp_path):
    with guarded(tmp_path, mode=Mode.EXPLICIT) as guard:
        headers = {"Authorization": f"Bearer {guard.keys['management']}", "Content-Type": "Application/JSON; a=b"}
        response, _ = guard.ask("POST", "/models", b'{"url": "a.mar", "batch_size": 4}', management=True, **headers)
        assert response.status == 200
        assert guard.prepared == ["a.mar"]
        (request,) = guard.upstream.requests
        assert request.line == b"POST /models?url=a.mar&batch_size=4 HTTP/1.1"
        assert request.body == b""
        guard.prepare_error.append(VerificationError("a.mar: digest 12 is not 34"))
        response, body = guard.ask("POST", "/models?url=a.mar", management=True, **headers)
        assert response.status == 403
        assert b"digest" not in body
        assert guard.entries("refusal")[-1]["reason"] == "a.mar: digest 12 is not 34"
        assert len(guard.upstream.requests) == 1
        response, _ = guard.ask("POST", "/workflows?url=a.war", management=True, **headers)
        assert response.status == 403
        assert len(guard.upstream.requests) == 1


def test_a_management_body_is_bounded(guard):
    response, _ = guard.ask("GET", "/models", b"a" * 70000, management=True)
    assert response.status == 413
    answer = guard.say(
        b"GET /models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"ffff\r\n" + b"a" * 65535 + b"\r\n" + b"2\r\naa\r\n",
        management=True,
    )
    assert status_of(answer) == 413
    assert guard.upstream.requests == []


def test_a_token_is_rotated_by_the_guard_itself(tmp_path):
    with guarded(tmp_path, mode=Mode.EXPLICIT, keys_required=True) as guard:
        headers = {"Authorization": f"Bearer {guard.keys['API']}"}
        response, body = guard.ask("GET", "/token?type=inference", management=True, **headers)
        assert (response.status, body) == (200, b"")
        assert guard.upstream.requests == []
        old = {"Authorization": f"Bearer {guard.keys['inference']}"}
        assert guard.ask("GET", "/predictions/noop", **old)[0].status == 401
        new = json.loads((tmp_path / "key_file.json").read_text())["inference"]["key"]
        assert guard.ask("GET", "/predictions/noop", Authorization=f"Bearer {new}")[0].status == 200
        assert guard.ask("GET", "/ping")[0].status == 200


def test_on_one_connection_each_request_is_judged_by_its_own_key(tmp_path):
    with guarded(tmp_path, keys_required=True) as guard:
        key = b"Authorization: Bearer " + guard.keys["inference"].encode()
        good, bad = get(PREDICT, key, close=False), get(PREDICT, key[:-1] + b"!", close=False)
        none = get(PREDICT, close=False)
        answer = guard.say(good + good + bad + none + good + bad + get(PREDICT, key))
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"401", b"401", b"200", b"401", b"200"]


def test_what_cannot_be_recorded_is_not_forwarded(tmp_path):
    with guarded(tmp_path, mode=Mode.EXPLICIT) as guard:
        headers = {"Authorization": f"Bearer {guard.keys['management']}"}
        # a full disk: the same descriptor, on a device that takes nothing
        full = os.open("/dev/full", os.O_WRONLY)
        descriptor = next(
            int(name) for name in os.listdir("/proc/self/fd") if _points_to(f"/proc/self/fd/{name}", guard.audit)
        )
        os.dup2(full, descriptor)
        os.close(full)
        for method, target in [("PUT", "/models/noop?min_worker=1"), ("GET", "/models"), ("GET", "/nowhere")]:
            response, _ = guard.ask(method, target, management=True, **headers)
            assert response.status == 503
        assert guard.upstream.requests == []
        assert guard.ask("GET", "/predictions/noop")[0].status == 200


def _points_to(link: str, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(link) == str(path)
    return False


def test_the_outcome_of_a_change_is_known_even_when_its_client_has_gone(tmp_path):
    with guarded(tmp_path, mode=Mode.EXPLICIT) as guard:
        asked = threading.Event()

        def script(*_):
            asked.set()
            time.sleep(0.5)
            return OK

        guard.upstream.script = script
        with guard.connect(management=True) as connection:
            key = guard.keys["management"].encode()
            connection.sendall(
                b"PUT /models/noop?min_worker=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key + b"\r\n\r\n"
            )
            assert asked.wait(TIMEOUT)
        eventually(lambda: guard.settled == [("scale-model", 200)])
        assert guard.entries("outcome")[0]["status"] == 200
