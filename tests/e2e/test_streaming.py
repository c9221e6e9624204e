"""What is long, large, cut off or killed: through the guard and the real TorchServe."""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import servers

from torchserve_guard.frontend import find_java

pytestmark = pytest.mark.e2e

MIB = 1 << 20
LARGE = 256
FLAT = 48 * MIB
LIMIT = 1_000_000
SOON = 5.0


@pytest.fixture(scope="module")
def large(listed):
    """A guarded server that takes, and answers with, as much as TorchServe can count."""
    settings = {
        "load_models": "noop.mar",
        "max_request_size": "2147483647",
        "max_response_size": "2147483647",
        "vmargs": "-Xmx6g -XX:MaxDirectMemorySize=6g",
    }
    with servers.folder("tsg-l-") as folder, servers.serving(servers.Guarded(folder, listed, settings)) as server:
        yield server


@pytest.fixture(scope="module")
def server(listed):
    """A guarded server with a fast model and a slow one, and a small limit."""
    settings = {"load_models": "noop.mar,slow.mar", "max_request_size": str(LIMIT)}
    with servers.folder("tsg-c-") as folder, servers.serving(servers.Guarded(folder, listed, settings)) as server:
        yield server


def connected(server: servers.Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.inference), timeout=30)


def head(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def answer_of(connection: socket.socket) -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response, response.read()


def eventually(condition, seconds: float):
    """The condition's value, once it is true; it must be in so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return value


def serves(server: servers.Server) -> bool:
    return server.ask("POST", "/predictions/noop", b"still here").body == b"still here"


# --- large bodies -----------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """The resident memory of one process, its children not counted: at the beginning, and the most seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.over = psutil.Process(pid), threading.Event()
        self.idle = self.peak = self.process.memory_info().rss

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def pieces(count: int, digest):
    """Yield mebibytes that all differ, and count them into the digest."""
    noise = os.urandom(MIB - 8)
    for number in range(count):
        piece = number.to_bytes(8, "big") + noise
        digest.update(piece)
        yield piece


@pytest.mark.timeout(900)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_body_streams_through_both_ways_and_the_guard_does_not_grow(large, framing, record_property):
    sent, came, length = hashlib.sha256(), hashlib.sha256(), 0
    connection = http.client.HTTPConnection("127.0.0.1", large.inference, timeout=300)
    headers = {"Content-Type": "application/octet-stream"}
    if framing == "length":
        headers["Content-Length"] = str(LARGE * MIB)
    with contextlib.closing(connection), Memory(large.process.pid) as memory:
        connection.request("POST", "/predictions/noop", pieces(LARGE, sent), headers)
        response = connection.getresponse()
        while piece := response.read(MIB):
            came.update(piece)
            length += len(piece)
    record_property("guard_rss_idle_mib", memory.idle / MIB)
    record_property("guard_rss_peak_mib", memory.peak / MIB)
    sys.stdout.write(f"{LARGE} MiB, {framing}: guard {memory.idle / MIB:.1f} MiB idle, {memory.peak / MIB:.1f} peak\n")
    assert (response.status, length) == (200, LARGE * MIB)
    assert came.digest() == sent.digest()
    assert memory.peak - memory.idle < FLAT


def test_chunks_of_every_size_reach_the_model_as_one_body_without_extensions_and_trailers(large):
    body = os.urandom(3 * MIB)
    sizes = [1, 2, 15, 16, 17, 255, 4096, 16383, 16384, 65537, MIB]
    with connected(large) as connection:
        connection.sendall(head("/predictions/noop", "Transfer-Encoding: chunked", "Connection: close"))
        at = turn = 0
        while at < len(body):
            piece = body[at : at + sizes[turn % len(sizes)]]
            connection.sendall(b"%X;ext=1\r\n%b\r\n" % (len(piece), piece))
            at, turn = at + len(piece), turn + 1
        connection.sendall(b"0\r\nX-Trailer: 1\r\n\r\n")
        response, answer = answer_of(connection)
    assert response.status == 200
    assert hashlib.sha256(answer).digest() == hashlib.sha256(body).digest()


def test_a_client_that_waits_to_be_told_to_go_on_is_told(large):
    with connected(large) as connection:
        connection.sendall(head("/predictions/noop", "Expect: 100-continue", "Content-Length: 5", "Connection: close"))
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        response, answer = answer_of(connection)
    assert (response.status, answer) == (200, b"hello")


# --- too large --------------------------------------------------------------------------------------------------------


def verify_too_large(connection: socket.socket) -> None:
    """The refusal is all that comes, it is whole, and it is followed by an end, not by a reset."""
    response, body = answer_of(connection)
    assert (response.status, response.headers["Content-Type"]) == (413, "application/json")
    refusal = json.loads(body)
    assert set(refusal) == {"code", "type", "message"}
    assert refusal["code"] == 413
    assert response.headers["Connection"] == "close"
    assert connection.recv(1) == b""


@pytest.mark.parametrize("expects", [[], ["Expect: 100-continue"]])
def test_a_body_said_to_be_too_large_is_refused_before_it_is_sent(server, expects):
    with connected(server) as connection:
        connection.sendall(head("/predictions/noop", f"Content-Length: {LIMIT + 1}", *expects))
        verify_too_large(connection)
    assert serves(server)


def test_who_sends_it_all_the_same_can_read_why_not(server):
    with connected(server) as connection:
        connection.sendall(head("/predictions/noop", f"Content-Length: {8 * LIMIT}") + b"x" * (8 * LIMIT))
        verify_too_large(connection)
    assert serves(server)


def test_a_chunked_body_is_refused_when_it_passes_the_limit(server):
    before = door(server)
    with connected(server) as connection:
        connection.sendall(head("/predictions/noop", "Transfer-Encoding: chunked"))
        for _ in range(12):
            connection.sendall(b"%x\r\n%b\r\n" % (100_000, b"x" * 100_000))
        verify_too_large(connection)
    assert door(server)["served"] == before["served"]
    assert serves(server)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_of_exactly_the_limit_passes(server, framing):
    body = b"y" * LIMIT
    given = iter([body[: LIMIT // 2], body[LIMIT // 2 :]]) if framing == "chunked" else body
    assert server.ask("POST", "/predictions/noop", given).body == body


# --- clients that go away ---------------------------------------------------------------------------------------------


def door(server: servers.Guarded) -> dict[str, int]:
    return server.status()["door"]


def verify_let_go(server: servers.Guarded, leave) -> None:
    """While the request is in flight it holds one connection each way; soon after the client left, neither."""
    during = eventually(lambda: (now := door(server))["in_flight"] and now, SOON)
    assert (during["in_flight"], during["connections"]) == (1, 1)
    assert during["upstream_connections"] >= 1
    leave()
    gone = {"in_flight": 0, "connections": 0, "upstream_connections": during["upstream_connections"] - 1}
    eventually(lambda: gone.items() <= door(server).items(), SOON)
    assert serves(server)


@pytest.mark.parametrize("framing", [f"Content-Length: {LIMIT}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("manner", ["end", "reset"])
def test_a_client_that_disappears_in_its_body_is_let_go(server, framing, manner):
    connection = connected(server)
    connection.sendall(head("/predictions/noop", framing))
    connection.sendall(b"%x\r\n" % LIMIT if "chunked" in framing else b"")
    connection.sendall(b"x" * (LIMIT // 2))
    if manner == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    verify_let_go(server, connection.close)


def test_a_client_that_disappears_while_it_waits_is_let_go(server):
    connection = connected(server)
    connection.sendall(head("/predictions/slow", "Content-Length: 1") + b"8")
    verify_let_go(server, connection.close)
    # TorchServe does not know, and ends what it began.
    assert server.ask("POST", "/predictions/slow", b"0").body == b"slept"


# --- a worker that dies -----------------------------------------------------------------------------------------------


def worker_of(server: servers.Server, model: str) -> psutil.Process | None:
    """The one worker of a model when it is ready, found among what the server started."""
    (worker,) = server.manage("GET", f"/models/{model}").json[0]["workers"]
    if worker["status"] != "READY":
        return None
    family = psutil.Process(server.process.pid).children(recursive=True)
    return next((child for child in family if child.pid == worker["pid"]), None)


def answer_when_the_worker_dies(server: servers.Server) -> servers.Answer:
    """What a client is told whose request was with a worker that is killed; another worker is ready when we return."""
    victim = eventually(lambda: worker_of(server, "slow"), 60)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.ask, "POST", "/predictions/slow", b"30")
        time.sleep(1.0)  # until it is with the worker: stock tells nobody
        assert not asked.done()
        victim.kill()
        answer = asked.result(30)
    eventually(lambda: (worker := worker_of(server, "slow")) and worker.pid != victim.pid, 120)
    assert server.ask("POST", "/predictions/slow", b"0").body == b"slept"
    return answer


def test_a_worker_that_dies_with_a_request_gives_what_it_gives_in_stock(server, listed):
    with servers.folder("tsg-s-") as folder:
        stock = servers.Stock(folder, listed, {"load_models": "slow.mar"})
        with servers.serving(stock, ("slow",)):
            theirs = answer_when_the_worker_dies(stock)
    ours = answer_when_the_worker_dies(server)
    assert theirs.status >= 500
    assert ours.status == theirs.status
    assert ours.json == theirs.json
    assert serves(server)


# --- the end ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_flight(server: servers.Guarded, seconds: bytes):
    """A request that takes so long, on its way."""
    with connected(server) as connection:
        connection.sendall(head("/predictions/slow", f"Content-Length: {len(seconds)}") + seconds)
        eventually(lambda: door(server)["in_flight"] == 1, SOON)
        yield connection


def refuses(server: servers.Server) -> bool:
    with contextlib.suppress(ConnectionRefusedError), connected(server):
        return False
    return True


def test_what_is_in_flight_is_answered_before_the_end_and_nobody_else_is_let_in(guard, listed):
    server = guard(listed, {"load_models": "slow.mar"})
    server.launch()
    server.wait_serving()
    with in_flight(server, b"6") as connection, connected(server) as silent:
        server.signal(signal.SIGTERM)
        eventually(lambda: refuses(server), 3)
        assert silent.recv(1) == b""
        assert server.process.poll() is None
        response, answer = answer_of(connection)
        assert (response.status, answer) == (200, b"slept")
        assert response.headers["Connection"] == "close"
        assert connection.recv(1) == b""
    assert server.wait(30) == 0


def test_asked_twice_it_ends_at_once_and_the_cut_request_looks_cut(guard, listed):
    server = guard(listed, {"load_models": "slow.mar"})
    server.launch()
    server.wait_serving()
    family = psutil.Process(server.process.pid).children(recursive=True)
    with in_flight(server, b"60") as connection:
        server.signal(signal.SIGTERM)
        eventually(lambda: refuses(server), 3)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        assert server.wait(10) == 0
        assert time.monotonic() - began < 10
    assert not psutil.wait_procs(family, timeout=5)[1]


# --- many connections -------------------------------------------------------------------------------------------------


def some_requests(server: servers.Server, number: int) -> None:
    """A kept connection with a few requests; every third leaves in the middle of one."""
    connection = http.client.HTTPConnection("127.0.0.1", server.inference, timeout=30)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("POST", "/predictions/noop", b"x")
            assert connection.getresponse().read() == b"x"
        if number % 3 == 0:
            connection.sock.sendall(head("/predictions/noop", "Content-Length: 1000") + b"half")


def test_connections_that_come_and_go_leave_no_descriptor_behind(server):
    def held() -> int:
        """Descriptors of the guard beyond those of the connections that it knows of."""
        now = door(server)
        return process.num_fds() - now["connections"] - now["upstream_connections"]

    process = psutil.Process(server.process.pid)
    some_requests(server, 0)
    before = eventually(lambda: door(server)["connections"] == 0 and held(), SOON)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: some_requests(server, number), range(400)))
    eventually(lambda: door(server)["connections"] == 0, SOON)
    eventually(lambda: held() == before, SOON)
    assert door(server)["upstream_connections"] <= 32


# --- a client that offers HTTP/2 --------------------------------------------------------------------------------------

JAVA = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Client {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int turn = 0; turn < 3; turn++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .POST(HttpRequest.BodyPublishers.ofString("from Java " + turn)).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
        }
    }
}
"""
# What that sends, word for word (Java 17).
OFFER = (
    b"POST /predictions/noop HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 11\r\n"
    b"Host: 127.0.0.1\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\n\r\nfrom Java 0"
)


def compiling_java() -> Path | None:
    """A Java that can launch a source file: a runtime alone cannot."""
    found = [find_java(os.environ).path, *map(Path, filter(None, [shutil.which("java")]))]
    for java in found:
        listed = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=True, timeout=60).stdout
        if "jdk.compiler@" in listed and "java.net.http@" in listed:
            return java
    return None


@contextlib.contextmanager
def listening():
    """A plain server that answers each request with 200 and keeps what it was sent."""
    said: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            while data := connection.recv(65536):
                said.append(data)
                if b"from Java" in data:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], said
    thread.join(10)


def test_a_client_that_offers_http_2_is_served_in_http_1_as_by_stock(server, stock, place):
    for each in (server, stock):
        with connected(each) as connection:
            for _ in range(2):
                connection.sendall(OFFER)
                response, answer = answer_of(connection)
                assert (response.status, answer) == (200, b"from Java 0")
                assert "Upgrade" not in response.headers
    java = compiling_java()
    if java is None:
        return
    source = place / "Client.java"
    source.write_text(JAVA)

    def run(port: int) -> str:
        command = [java, source, f"http://127.0.0.1:{port}/predictions/noop"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    with listening() as (port, said):
        run(port)
    assert b"Upgrade: h2c" in said[0]
    assert b"HTTP2-Settings" in said[0]
    expected = "".join(f"HTTP_1_1 200 from Java {turn}\n" for turn in range(3))
    assert run(stock.inference) == expected
    assert run(server.inference) == expected
