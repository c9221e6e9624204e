"""TLS at the door, with real sockets: what is negotiated, who is believed, and what does not hold it up."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import re
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import authority
import enforcing
import pytest
import servers
import uvloop

from torchserve_guard.access import CERTIFIED, Mode
from torchserve_guard.audit import AuditLog
from torchserve_guard.errors import ConfigError
from torchserve_guard.identity import KeyFile
from torchserve_guard.policy import Access
from torchserve_guard.proxy import Door, Limits, ListenerSpec, context_of
from torchserve_guard.renewal import Renewal
from torchserve_guard.settings.certificates import Sources, read
from torchserve_guard.wire import Listener

TIMEOUT = 10
ROOT = authority.root()
CLIENTS = authority.root("Clients")
SERVER = ROOT.issue(key=authority.rsa_key())
ELLIPTIC = ROOT.issue()


# --- a door with TLS ------------------------------------------------------------------------------------------------


class Upstream(threading.Thread):
    """Echoes each body; `/predictions/many/N` is answered with N bytes, in chunks."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self.requests: list[bytes] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as file:
            while head := self._head(file):
                self.requests.append(head)
                connection.sendall(self._answer(head, file))

    def _head(self, file) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            if not line:
                return b""
            head += line
        return head

    def _answer(self, head: bytes, file) -> bytes:
        many = re.search(rb"/predictions/many/(\d+)", head)
        if many:
            piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + piece * int(many[1]) + b"0\r\n\r\n"
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        body = file.read(int(length[1])) if length else self._chunks(file) if b"chunked" in head else b""
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def _chunks(self, file) -> bytes:
        body = b""
        while size := int(file.readline(), 16):
            body += file.read(size)
            file.readline()
        file.readline()
        return body


@dataclass
class Guard:
    door: Door
    loop: asyncio.AbstractEventLoop
    port: int
    management: int
    audit: AuditLog
    keys: dict[str, str]
    upstream: Upstream

    def client(self, *, as_: authority.Issued | None = None, folder: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=ROOT.pem.decode())
        if as_ is not None:
            context.load_cert_chain(*as_.written(folder, f"client-{as_.fingerprint[:8]}"))
        return context

    def connect(self, context: ssl.SSLContext | None = None, *, management: bool = False) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.management if management else self.port), TIMEOUT)
        try:
            return (context or self.client()).wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
        except BaseException:
            raw.close()
            raise

    def ask(self, method: str, target: str, body=None, *, management=False, context=None, **headers: str):
        connection = http.client.HTTPSConnection(
            "localhost",
            self.management if management else self.port,
            timeout=TIMEOUT,
            context=context or self.client(),
        )
        with contextlib.closing(connection):
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.read()

    def run(self, function, *arguments):
        async def call():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(TIMEOUT)

    def entries(self, event: str) -> list[dict]:
        lines = self.audit.path.read_bytes().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def close(self, grace: float) -> None:
        asyncio.run_coroutine_threadsafe(self.door.close(grace), self.loop).result(TIMEOUT + grace)


@contextlib.contextmanager
def guarded(
    folder: Path,
    shown: authority.Issued = SERVER,
    clients: bytes | None = None,
    *,
    mode: Mode = Mode.EXPLICIT,
    keys_required: bool = True,
    **limits,
) -> Iterator[Guard]:
    upstream = Upstream(str(folder / "up.sock"))
    upstream.start()
    keys = KeyFile(folder / "key_file.json", 3600, time.time)
    keys.write()
    audit = AuditLog(folder / "audit.log", time.time)

    enforcer = enforcing.enforcer(Access(mode, keys_required), keys, audit)
    ports = servers.free_ports(2)
    specs = {
        listener: ListenerSpec(f"https://127.0.0.1:{port}", f"unix:{folder / 'up.sock'}")
        for listener, port in zip((Listener.INFERENCE, Listener.MANAGEMENT), ports, strict=True)
    }
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    door = Door(specs, enforcer, Limits(**limits), context_of(shown.chain, shown.key, clients))
    try:
        asyncio.run_coroutine_threadsafe(door.open(), loop).result(TIMEOUT)
        told = {kind: key["key"] for kind, key in json.loads((folder / "key_file.json").read_text()).items()}
        yield Guard(door, loop, *ports, audit, told, upstream)
    finally:
        asyncio.run_coroutine_threadsafe(door.close(0), loop).result(TIMEOUT)
        left = door.stats().connections
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT)
        loop.close()
        upstream.listener.close()
        audit.close()
    assert left == 0


@pytest.fixture
def guard(tmp_path) -> Iterator[Guard]:
    with guarded(tmp_path, clients=CLIENTS.pem, keys_required=False) as guard:
        yield guard


@pytest.fixture
def strict(tmp_path) -> Iterator[Guard]:
    """Asks for keys, or for a certificate in their place."""
    with guarded(tmp_path, clients=CLIENTS.pem) as guard:
        yield guard


def eventually(condition, why: str = "") -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, why or "it never happened"
        time.sleep(0.01)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while piece := connection.recv(65536):
            data += piece
    return data


# --- what is negotiated: a scanner of our own -----------------------------------------------------------------------

SSL3, TLS10, TLS11, TLS12 = 0x0300, 0x0301, 0x0302, 0x0303
# Each code point that was ever given to a cipher suite of TLS before 1.3, and the two that are none (RFC 5746, 7507).
SUITES = [
    code
    for first, last in ((0x0001, 0x00FF), (0xC001, 0xC0FF), (0xCC00, 0xCCFF), (0xD000, 0xD0FF), (0xFE00, 0xFFFF))
    for code in range(first, last + 1)
    if code not in (0x00FF, 0x5600)
]
SOUND = {
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xCCA9: "ECDHE-ECDSA-CHACHA20-POLY1305",
    0xCCA8: "ECDHE-RSA-CHACHA20-POLY1305",
}


def vector(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">H", kind) + vector(data, 2)


def hello(version: int, suites: list[int], compressions: bytes = b"\x00") -> bytes:
    """A ClientHello (RFC 5246 section 7.4.1.2) that offers just this, with every curve and signature."""
    curves = b"".join(struct.pack(">H", one) for one in (29, 23, 24, 25, 30))
    signatures = b"".join(struct.pack(">H", one) for one in range(0x0101, 0x0904) if one & 0xFF < 0x0C)
    extensions = (
        extension(10, vector(curves, 2)) + extension(11, vector(b"\x00", 1)) + extension(13, vector(signatures, 2))
    )
    body = struct.pack(">H", version) + os.urandom(32) + vector(b"", 1)
    body += vector(b"".join(struct.pack(">H", one) for one in suites), 2) + vector(compressions, 1)
    body += vector(extensions, 2) if version > SSL3 else b""
    handshake = b"\x01" + vector(body, 3)
    return b"\x16" + struct.pack(">H", min(version, TLS10) if version > SSL3 else SSL3) + vector(handshake, 2)


def chosen(port: int, offer: bytes) -> tuple[int, int, int] | None:
    """The version, suite and compression of the ServerHello; None for an alert, or an end."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(offer)
        file = connection.makefile("rb")
        head = file.read(5)
        if len(head) < 5 or head[0] != 0x16:
            assert not head or head[0] == 0x15
            return None
        body = file.read(struct.unpack(">H", head[3:])[0])
    assert body[0] == 2
    behind = 4 + 2 + 32 + 1 + body[4 + 2 + 32]
    suite, compression = struct.unpack(">HB", body[behind : behind + 3])
    return struct.unpack(">H", body[4:6])[0], suite, compression


def accepted(port: int, version: int) -> set[int]:
    """Every suite that the server takes in this version: what it took is offered no more, until it takes none."""
    left, taken = list(SUITES), set()
    while (answer := chosen(port, hello(version, left))) is not None:
        assert answer[0] == version
        taken.add(answer[1])
        left.remove(answer[1])
    return taken


@pytest.mark.parametrize(("shown", "kind"), [(SERVER, "RSA"), (ELLIPTIC, "ECDSA")])
def test_of_all_suites_there_ever_were_only_the_sound_ones_are_taken(tmp_path, shown, kind):
    with guarded(tmp_path, shown) as guard:
        for port in (guard.port, guard.management):
            assert accepted(port, TLS12) == {code for code, name in SOUND.items() if kind in name}


@pytest.mark.parametrize("version", [SSL3, TLS10, TLS11])
def test_an_old_version_gets_nowhere_whatever_it_offers(guard, version):
    assert accepted(guard.port, version) == set()


def test_an_ssl2_hello_gets_nowhere(guard):
    body = b"\x01\x00\x02" + struct.pack(">HHH", 3, 0, 16) + b"\x07\x00\xc0" + os.urandom(16)
    with socket.create_connection(("127.0.0.1", guard.port), TIMEOUT) as connection:
        connection.sendall(struct.pack(">H", 0x8000 | len(body)) + body)
        assert not read_all(connection).startswith(b"\x84")


def test_nothing_is_compressed(guard):
    answer = chosen(guard.port, hello(TLS12, list(SOUND), compressions=b"\x01\x40\x00"))
    assert answer is not None
    assert answer[2] == 0


def test_tls_1_3_is_preferred_and_1_2_taken(guard):
    with guard.connect() as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.cipher()[0] in {"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"}
    context = guard.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with guard.connect(context) as connection:
        assert connection.version() == "TLSv1.2"
        assert connection.compression() is None


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the command openssl is not here")


def s_client(guard: Guard, *arguments: str, said: str) -> str:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{guard.port}", *arguments]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=TIMEOUT * 2, check=False
    ).stdout.replace("\r", "")


@needs_openssl
def test_a_client_cannot_renegotiate(guard):
    with_end = s_client(guard, "-tls1_2", said="HEAD /ping HTTP/1.1\nR\n")
    assert "Secure Renegotiation IS supported" in with_end
    process = subprocess.run(
        ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{guard.port}"],
        input="R\n",
        capture_output=True,
        text=True,
        timeout=TIMEOUT * 2,
        check=False,
    )
    assert "RENEGOTIATING" in process.stdout + process.stderr
    assert "no renegotiation" in process.stderr


@pytest.mark.parametrize(("offered", "agreed"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None)])
def test_no_other_protocol_is_agreed_on_than_is_spoken(guard, offered, agreed):
    context = guard.client()
    context.set_alpn_protocols(offered)
    with guard.connect(context) as connection:
        assert connection.selected_alpn_protocol() == agreed


def test_a_session_may_be_resumed_until_the_certificate_is_renewed(guard):
    context = guard.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with guard.connect(context) as connection:
        session = connection.session

    def resumed() -> bool:
        raw = socket.create_connection(("127.0.0.1", guard.port), TIMEOUT)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as connection:
            return connection.session_reused

    assert resumed()
    guard.run(guard.door.renew, context_of(SERVER.chain, SERVER.key, CLIENTS.pem))
    assert not resumed()


# --- what passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_bodies_pass_whole_in_both_directions(guard, size):
    body = os.urandom(size)
    assert guard.ask("POST", "/predictions/noop", body) == (200, body)


def test_a_body_of_unknown_length_streams(guard):
    pieces = [os.urandom(100_000) for _ in range(20)]
    assert guard.ask("POST", "/predictions/noop", iter(pieces)) == (200, b"".join(pieces))


def test_many_requests_share_one_connection(guard):
    connection = http.client.HTTPSConnection("localhost", guard.port, timeout=TIMEOUT, context=guard.client())
    with contextlib.closing(connection):
        for number in range(50):
            connection.request("POST", "/predictions/noop", b"%d" % number)
            assert connection.getresponse().read() == b"%d" % number
        assert guard.run(guard.door.stats).connections == 1


def test_requests_sent_ahead_with_the_end_of_the_handshake_are_answered_in_order(guard):
    request = b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    for _ in range(20):
        with guard.connect() as connection:
            connection.sendall(b"".join(request + b"%d" % number for number in range(10)))
            data = b""
            while data.count(b"HTTP/1.1 200") < 10 or not data.endswith(b"9"):
                data += connection.recv(65536)
            assert re.findall(rb"\r\n\r\n(\d)", data) == [b"%d" % number for number in range(10)]


def test_one_byte_at_a_time_is_a_request_too(guard):
    with guard.connect() as connection:
        for byte in b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
        assert b" 200 " in read_all(connection)


def test_a_client_that_does_not_read_holds_the_answer_back(guard):
    with guard.connect() as connection:
        connection.sendall(b"GET /predictions/many/1600 HTTP/1.1\r\nHost: x\r\n\r\n")  # 100 MB
        time.sleep(1)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
        time.sleep(1)
        # The upstream is a thread of this process and holds the answer once; the door must not hold it again.
        assert int(Path("/proc/self/statm").read_text().split()[1]) * 4096 - resident < 20_000_000
        total = 0
        while total < 1600 * 65536:
            total += len(connection.recv(1 << 20))
        assert guard.run(guard.door.stats).in_flight <= 1


def test_a_slow_reader_gets_the_whole_of_a_last_answer(guard):
    context = guard.client()
    with guard.connect(context) as connection:
        connection.sendall(b"GET /predictions/many/40 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(4)
        assert read_all(connection).count(b"x") == 40 * 65536
        with socket.socket(fileno=os.dup(connection.fileno())) as raw:  # and then the connection, which it does not end
            raw.settimeout(4)
            assert raw.recv(1) == b""


# --- ends -----------------------------------------------------------------------------------------------------------


def ended(connection: ssl.SSLSocket, within: float) -> bytes:
    """What still comes until an end that is told: `ssl` raises where there is no close_notify."""
    began = time.monotonic()
    data = b""
    connection.settimeout(TIMEOUT)
    while piece := connection.recv(65536):
        data += piece
    assert time.monotonic() - began < within
    return data


@pytest.fixture
def exact(guard):
    """A client that takes an end without close_notify for an error."""
    context = guard.client()
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    return context


def test_an_end_is_told_and_comes_at_once(guard, exact):
    with guard.connect(exact) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " in ended(connection, 0.5)


def test_a_refusal_is_read_whole_and_its_end_is_told(guard, exact):
    with guard.connect(exact) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost : x\r\n\r\n")
        assert b" 400 " in ended(connection, 0.5)


def test_a_refusal_in_the_middle_of_a_body_is_not_lost_to_a_reset(guard):
    for _ in range(5):
        with guard.connect() as connection:
            connection.sendall(b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(20):
                    connection.sendall(b"x" * 65536)
            assert b" 413 " in read_all(connection)


def test_a_closing_door_does_not_wait_for_idle_clients(guard):
    with guard.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in connection.recv(65536)
        began = time.monotonic()
        guard.close(8)
        assert time.monotonic() - began < 1


def test_a_closing_door_lets_what_is_in_flight_end(guard):
    with guard.connect() as connection:
        connection.sendall(b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        eventually(lambda: guard.run(guard.door.stats).in_flight == 1)
        closing = threading.Thread(target=guard.close, args=(8,))
        closing.start()
        time.sleep(0.2)
        connection.sendall(b"b")
        answer = read_all(connection)
        closing.join(TIMEOUT)
    assert b" 200 " in answer
    assert answer.endswith(b"ab")


def test_an_answer_that_cannot_be_completed_is_no_whole_one(guard, exact):
    with guard.connect(exact) as connection:
        connection.sendall(b"GET /predictions/many/1600 HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(100)
        guard.close(0)
        with pytest.raises(OSError, match=r"."):
            ended(connection, TIMEOUT)


# --- handshakes that come to nothing --------------------------------------------------------------------------------


def test_plain_http_is_answered_in_kind_goes_nowhere_and_is_recorded(guard):
    with socket.create_connection(("127.0.0.1", guard.port), TIMEOUT) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["message"] == "This port takes HTTPS only."
    (entry,) = guard.entries("refusal")
    assert entry["rule"] == "proxy.handshake"
    assert entry["reason"] == "plain HTTP"
    assert entry["peer"].startswith("127.0.0.1:")
    assert guard.upstream.requests == []


def test_a_client_is_told_why_a_handshake_fails(guard):
    context = guard.client()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        guard.connect(context)
    eventually(lambda: guard.entries("refusal"))
    assert guard.entries("refusal")[0]["reason"] == "the handshake failed: no shared cipher"


def test_a_hello_that_comes_in_pieces_is_a_hello_too(guard):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = guard.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", guard.port), TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    connection.sendall(bytes([byte]))
                incoming.write(connection.recv(65536))
        assert client.version() == "TLSv1.3"


def test_connections_that_come_at_once_are_not_taken_for_each_other(guard):
    """Each opens with bytes of its own, half of them no handshake at all; every real one succeeds."""
    failed: list[Exception] = []

    def noise() -> None:
        for _ in range(60):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", guard.port), TIMEOUT) as raw:
                raw.sendall(b"\x16\x03\x01\x00\x05" + os.urandom(5))

    def honest() -> None:
        try:
            for number in range(30):
                assert guard.ask("POST", "/predictions/noop", b"%d" % number) == (200, b"%d" % number)
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            failed.append(error)

    threads = [threading.Thread(target=target) for target in (noise, honest) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 3)
    assert failed == []


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01", b"\x00" * 100, b"\x16\x03\x01\x40\x00" + b"\x01" * 16384])
def test_half_a_handshake_and_an_end_leave_nothing(guard, said):
    with socket.create_connection(("127.0.0.1", guard.port), TIMEOUT) as connection:
        connection.sendall(said)
    eventually(lambda: guard.run(guard.door.stats).connections == 0)
    assert guard.ask("GET", "/ping")[0] == 200


def test_a_handshake_that_takes_too_long_is_ended(tmp_path):
    with guarded(tmp_path, handshake_time=0.5) as guard:
        with socket.create_connection(("127.0.0.1", guard.port), TIMEOUT) as connection:
            began = time.monotonic()
            connection.sendall(b"\x16\x03\x01")
            assert read_all(connection) == b""
            assert 0.3 < time.monotonic() - began < 3
        eventually(lambda: guard.entries("refusal"))
        eventually(lambda: guard.run(guard.door.stats).connections == 0)


def test_a_flood_of_handshakes_that_go_nowhere_does_not_keep_others_out(tmp_path):
    with guarded(tmp_path, keys_required=False, handshakes=16) as guard, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", guard.port), TIMEOUT)) for _ in range(100)]
        eventually(lambda: guard.run(guard.door.stats).connections == 16)
        began = time.monotonic()
        assert guard.ask("GET", "/ping")[0] == 200
        assert time.monotonic() - began < 1
        readable, _, _ = select.select(silent, [], [], 1)
        assert len(readable) >= 84  # the oldest were ended


def test_whoever_is_one_too_many_is_turned_away_before_a_handshake(tmp_path):
    with guarded(tmp_path, keys_required=False, connections=1) as guard:
        with guard.connect():
            eventually(lambda: guard.run(guard.door.stats).connections == 1)
            with pytest.raises(OSError, match=r"."):
                guard.connect()
            assert guard.entries("refusal")[0]["rule"] == "proxy.connections"
        eventually(lambda: guard.run(guard.door.stats).connections == 0)
        assert guard.ask("GET", "/ping")[0] == 200


def test_a_closing_door_ends_handshakes(guard):
    with socket.create_connection(("127.0.0.1", guard.port), TIMEOUT) as connection:
        eventually(lambda: guard.run(guard.door.stats).connections == 1)
        began = time.monotonic()
        guard.close(8)
        assert time.monotonic() - began < 1
        assert read_all(connection) == b""


def test_a_door_does_not_open_where_tls_is_asked_for_and_no_certificate_is_there(tmp_path):
    keys = KeyFile(tmp_path / "k", 60, time.time)
    audit = AuditLog(tmp_path / "a", time.time)
    enforcer = enforcing.enforcer(Access(Mode.NONE, keys_required=True), keys, audit)
    (port,) = servers.free_ports(1)
    spec = {Listener.INFERENCE: ListenerSpec(f"https://127.0.0.1:{port}", "unix:/nowhere")}
    with pytest.raises(ConfigError, match="without a certificate"):
        asyncio.run(Door(spec, enforcer, Limits()).open())
    audit.close()


def test_a_weak_certificate_that_openssl_does_not_serve_is_a_clear_error():
    weak = ROOT.issue(key=authority.rsa_key(1024))
    with pytest.raises(ConfigError, match="too small"):
        context_of(weak.chain, weak.key, None)
    assert context_of(weak.chain, weak.key, None, weak=True).security_level == 1
    assert context_of(SERVER.chain, SERVER.key, None, weak=True).security_level == 2
    with pytest.raises(ConfigError, match="too small"):
        context_of(weak.chain, weak.key, CLIENTS.pem, weak=True)


# --- client certificates --------------------------------------------------------------------------------------------

CHANGE = ("POST", "/models?url=noop.mar")


def test_a_client_certificate_manages_and_its_name_is_on_record(strict, tmp_path):
    context = strict.client(as_=CLIENTS.issue("alice", usage=authority.CLIENT), folder=tmp_path)
    assert strict.ask(*CHANGE, management=True, context=context)[0] == 200
    assert strict.ask("POST", "/predictions/noop", b"x", context=context) == (200, b"x")
    (entry,) = strict.entries("request")
    assert entry["principal"] == "CN=alice"
    assert entry["rules"] == [CERTIFIED]


def test_without_a_certificate_a_key_is_needed_and_is_enough(strict):
    assert strict.ask(*CHANGE, management=True)[0] == 401
    key = {"Authorization": f"Bearer {strict.keys['management']}"}
    assert strict.ask(*CHANGE, management=True, **key)[0] == 200


def test_a_change_needs_a_key_or_a_certificate_even_where_reading_needs_none(guard, tmp_path):
    assert guard.ask("GET", "/models", management=True)[0] == 200
    assert guard.ask(*CHANGE, management=True)[0] == 401
    context = guard.client(as_=CLIENTS.issue("alice", usage=authority.CLIENT), folder=tmp_path)
    assert guard.ask(*CHANGE, management=True, context=context)[0] == 200


def test_a_certificate_replaces_no_key_and_adds_to_one(strict, tmp_path):
    context = strict.client(as_=CLIENTS.issue("alice", usage=authority.CLIENT), folder=tmp_path)
    rotate = ("GET", "/token?type=inference")
    assert strict.ask(*rotate, management=True, context=context)[0] == 403
    key = {"Authorization": f"Bearer {strict.keys['API']}"}
    assert strict.ask(*rotate, management=True, context=context, **key)[0] == 200
    assert strict.entries("request")[-1]["principal"] == "CN=alice with api-key"


def test_a_certificate_changes_nothing_in_mode_none(tmp_path):
    with guarded(tmp_path, clients=CLIENTS.pem, mode=Mode.NONE) as guard:
        context = guard.client(as_=CLIENTS.issue("alice", usage=authority.CLIENT), folder=tmp_path)
        assert guard.ask(*CHANGE, management=True, context=context)[0] == 405


@pytest.mark.parametrize("origin", [{"Origin": "https://evil.example"}, {"origin": "null"}])
def test_a_web_page_cannot_use_the_certificate_of_whoever_looks_at_it(strict, tmp_path, origin):
    context = strict.client(as_=CLIENTS.issue("alice", usage=authority.CLIENT), folder=tmp_path)
    assert strict.ask(*CHANGE, management=True, context=context, **origin)[0] == 401
    connection = http.client.HTTPSConnection("localhost", strict.management, timeout=TIMEOUT, context=context)
    with contextlib.closing(connection):  # nor on a connection on which the certificate counted a moment ago
        for headers, status in (({}, 200), (origin, 401), ({}, 200)):
            connection.request(*CHANGE, headers=headers)
            response = connection.getresponse()
            response.read()
            assert response.status == status


def test_a_name_without_a_subject_is_that_of_the_workload(strict, tmp_path):
    workload = CLIENTS.issue(
        "", usage=authority.CLIENT, dns=[], addresses=[], uris=["spiffe://example/serving/deployer"]
    )
    context = strict.client(as_=workload, folder=tmp_path)
    assert strict.ask(*CHANGE, management=True, context=context)[0] == 200
    assert strict.entries("request")[0]["principal"] == "URI:spiffe://example/serving/deployer"


IMPOSTORS = {
    "of another authority": lambda: authority.root("Clients").issue("alice", usage=authority.CLIENT),
    "self-signed": lambda: authority.issue("alice", usage=authority.CLIENT),
    "of the server's own authority": lambda: ROOT.issue("alice", usage=authority.CLIENT),
    "for servers": lambda: CLIENTS.issue("alice", usage=authority.SERVER),
    "expired": lambda: CLIENTS.issue("alice", usage=authority.CLIENT, since=-9, days=-1),
    "not yet good": lambda: CLIENTS.issue("alice", usage=authority.CLIENT, since=1),
    "issued by a client": lambda: CLIENTS.issue("bob", usage=authority.CLIENT).issue("alice", usage=authority.CLIENT),
}


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_a_certificate_that_does_not_verify_ends_the_connection(strict, tmp_path, impostor):
    context = strict.client(as_=IMPOSTORS[impostor](), folder=tmp_path)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        strict.ask("GET", "/ping", context=context)
    eventually(lambda: strict.entries("refusal"))
    assert strict.entries("refusal")[0]["reason"].startswith("the handshake failed: ")
    assert strict.upstream.requests == []


def test_the_names_of_the_keys_cannot_be_taken_by_a_certificate(strict, tmp_path):
    context = strict.client(as_=CLIENTS.issue("api-key", usage=authority.CLIENT), folder=tmp_path)
    assert strict.ask("GET", "/token?type=inference", management=True, context=context)[0] == 403
    assert strict.entries("refusal")[0]["principal"] == "CN=api-key"


def test_a_certificate_that_expires_counts_no_more_on_a_connection_that_stays(strict, tmp_path):
    soon = CLIENTS.issue("alice", usage=authority.CLIENT, days=4 / 86400)
    context = strict.client(as_=soon, folder=tmp_path)
    connection = http.client.HTTPSConnection("localhost", strict.management, timeout=TIMEOUT, context=context)
    with contextlib.closing(connection):
        for wait, status in ((0, 200), (5, 401)):
            time.sleep(wait)
            connection.request(*CHANGE)
            response = connection.getresponse()
            response.read()
            assert response.status == status


# --- renewal --------------------------------------------------------------------------------------------------------


def shown(guard: Guard) -> str:
    """The fingerprint of what a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with guard.connect(context) as connection:
        return hashlib.sha256(connection.getpeercert(binary_form=True)).hexdigest()


@pytest.fixture
def renewal(guard, tmp_path):
    """A renewal of the door's certificates, whose files are `server.pem` and `server.key`; returns it and a look."""
    certificate, key = SERVER.written(tmp_path)
    said: list[str] = []

    def take(tls):
        context = context_of(tls.certificate, tls.key, tls.client_ca)
        return lambda: guard.door.renew(context)

    async def made():
        sources = Sources(certificate, key)
        return Renewal(read(sources), guard.audit, said.append, take, lambda: datetime.now(UTC))

    renewal = asyncio.run_coroutine_threadsafe(made(), guard.loop).result(TIMEOUT)

    def look(*, asked: bool = False) -> list[str]:
        said.clear()
        asyncio.run_coroutine_threadsafe(renewal.look(asked=asked), guard.loop).result(TIMEOUT)
        return said

    return renewal, look


def test_new_certificates_are_shown_and_no_connection_is_dropped(guard, renewal, tmp_path):
    _, look = renewal
    with guard.connect() as connection:
        connection.sendall(b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        eventually(lambda: guard.run(guard.door.stats).in_flight == 1)
        assert look() == []
        ELLIPTIC.written(tmp_path)
        assert ELLIPTIC.fingerprint in look()[0]
        assert shown(guard) == ELLIPTIC.fingerprint
        connection.sendall(b"b")
        assert connection.recv(65536).endswith(b"ab")
    (entry,) = guard.entries("certificate-reloaded")
    assert entry["fingerprint"] == ELLIPTIC.fingerprint
    assert look() == []


BROKEN = {
    "half replaced": lambda folder: (folder / "server.pem").write_bytes(ELLIPTIC.pem),
    "empty": lambda folder: (folder / "server.pem").write_bytes(b""),
    "gone": lambda folder: (folder / "server.key").unlink(),
    "expired": lambda folder: ROOT.issue(since=-9, days=-1).written(folder),
    "weak": lambda folder: ROOT.issue(key=authority.rsa_key(1024)).written(folder),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_bad_new_certificates_leave_the_old_ones_and_are_told_once(guard, renewal, tmp_path, broken):
    _, look = renewal
    BROKEN[broken](tmp_path)
    assert "the old ones stay in use" in look()[0]
    assert look() == []
    assert shown(guard) == SERVER.fingerprint
    assert len(guard.entries("certificate-refused")) == 1
    ELLIPTIC.written(tmp_path)
    look()
    assert shown(guard) == ELLIPTIC.fingerprint


def test_what_cannot_be_recorded_is_not_taken(guard, renewal, tmp_path):
    _, look = renewal
    guard.audit.path.unlink()
    guard.audit.path.mkdir()
    ELLIPTIC.written(tmp_path)
    assert "the old ones stay in use" in look()[0]
    assert shown(guard) == SERVER.fingerprint
    guard.audit.path.rmdir()


def test_who_asks_is_answered_when_nothing_is_new(renewal):
    _, look = renewal
    assert look(asked=True) == ["the certificates were read again; they are the same"]


def test_the_watch_looks_by_itself_and_when_asked(guard, renewal, tmp_path):
    watched, _ = renewal
    watching = asyncio.run_coroutine_threadsafe(watched.watch(every=0.05), guard.loop)
    ELLIPTIC.written(tmp_path)
    eventually(lambda: shown(guard) == ELLIPTIC.fingerprint)
    watching.cancel()
    asked = asyncio.run_coroutine_threadsafe(watched.watch(every=60), guard.loop)
    SERVER.written(tmp_path)
    guard.run(watched.ask)
    eventually(lambda: shown(guard) == SERVER.fingerprint)
    asked.cancel()


def test_a_hundred_renewals_under_load_drop_nothing(guard):
    contexts = [context_of(one.chain, one.key, CLIENTS.pem) for one in (SERVER, ELLIPTIC)]
    failed: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(25):
                assert guard.ask("POST", "/predictions/noop", b"x") == (200, b"x")
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        guard.run(guard.door.renew, contexts[number % 2])
        time.sleep(0.005)
    for thread in threads:
        thread.join(TIMEOUT * 3)
    assert failed == []
