"""The ends of an exchange: however connections end, nothing is left of them, and the door goes on.

Clients and TorchServe are broken off at random moments, reproducibly as to what they do: the seed is the test's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import authority
import enforcing
import pytest
import servers
import uvloop

from torchserve_guard.access import Mode
from torchserve_guard.audit import AccessLog, AuditLog
from torchserve_guard.identity import KeyFile, KeyKind
from torchserve_guard.policy import Access
from torchserve_guard.proxy import Door, Limits, ListenerSpec, server
from torchserve_guard.proxy.tls import context_of
from torchserve_guard.wire import Listener

TIMEOUT = 60.0
CLIENTS, AT_ONCE = 240, 12
TICK = 0.02  # a second of the door's clock
GONE = (OSError, asyncio.IncompleteReadError, RuntimeError)  # the last is uvloop's word for a closed transport
RESET = struct.pack("ii", 1, 0)
LIMITS = Limits(
    body=2000,
    management_body=500,
    connections=10,
    source_connections=8,
    model_concurrency=2,
    model_queue=2,
    queue_time=6,
    idle_time=12,
    head_time=6,
    stall_time=6,
    answer_time=8,
    linger_time=2,
    idle_upstream=2,
    handshakes=4,
    handshake_time=8,
)
POST = b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
INFERENCE = (
    b"GET /predictions/noop HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /predictions/other HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
    POST + b"Content-Length: 1500\r\n\r\n" + b"x" * 1500,
    POST + b"Content-Length: 1500\r\nExpect: 100-continue\r\n\r\n" + b"x" * 1500,
    POST + b"Content-Length: 1500\r\nConnection: close\r\n\r\n" + b"x" * 1500,
    POST + b"Content-Length: 5000\r\n\r\n" + b"x" * 5000,
    CHUNKED + b"\r\n5\r\nhello\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n",
    CHUNKED + b"\r\n5\r\nhello\r\nno size\r\n",
    CHUNKED + b"\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n" + b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n",
    b"HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /nothing/here HTTP/1.1\r\nHost: x\r\n\r\n",
    b"no request\r\n\r\n",
)
MANAGEMENT = (
    b"GET /models HTTP/1.1\r\nHost: x\r\n%b\r\n",
    b"PUT /models/noop?min_worker=1 HTTP/1.1\r\nHost: x\r\n%b\r\n",
    b"POST /models?url=noop.mar HTTP/1.1\r\nHost: x\r\n%b\r\n",
    b'POST /models HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 11\r\n%b\r\n{"url":"n"}',
    b"DELETE /models/noop HTTP/1.1\r\nHost: x\r\n%b\r\n",
    b"DELETE /models/noop HTTP/1.1\r\nHost: x\r\n\r\n",
)


@dataclass
class Torchserve:
    """Reads requests, and answers or breaks off as the dice fall; `well` for as if nothing were wrong."""

    dice: random.Random
    well: bool = False
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(*GONE), contextlib.closing(writer):
            while await self._answered(reader, writer):
                pass
        self.writers.discard(writer)

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        how = "whole" if self.well else self.dice.choice(HOWS)
        if how != "early":
            await body(head, reader)
        await asyncio.sleep(0 if self.well else self.dice.choice((0, 0, TICK, 4 * TICK)))
        if how == "reset":
            writer.transport.abort()
            return False
        empty = head.startswith(b"HEAD ")
        writer.write(ANSWERS[how] if not empty else ANSWERS[how].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        await writer.drain()
        if how == "never":
            await reader.read()
        return how in {"whole", "chunked", "large"}


ANSWERS = {
    "whole": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "large": b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000,
    "early": b"HTTP/1.1 507 No\r\nContent-Length: 2\r\n\r\nno",
    "to the end": b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok",
    "torn": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2",
    "nonsense": b"HTTP/1.1 999\r\n\r\n",
    "never": b"",
    "nothing": b"",
}
HOWS = (*ANSWERS, "reset", *("whole",) * 8)


async def body(head: bytes, reader: asyncio.StreamReader) -> None:
    if b"chunked" in head:
        await reader.readuntil(b"\r\n0\r\n\r\n")
    elif b"Content-Length: " in head:
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))


@dataclass
class Site:
    """An open door, whose clock runs fast."""

    door: Door
    torchserve: Torchserve
    keys: KeyFile
    ports: dict[Listener, int]
    tls: ssl.SSLContext | None

    def bearer(self) -> bytes:
        return b"Authorization: Bearer %b\r\n" % self.keys._keys[KeyKind.MANAGEMENT].secret

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[Listener.INFERENCE], ssl=self.tls)
        with contextlib.closing(writer):
            writer.write(request)
            return await reader.readuntil(b"\r\n\r\n")

    def left(self) -> dict[str, object]:
        """Everything that is counted, where it is not zero."""
        door, stats = self.door, self.door.stats()
        passages, turns = door._passages.values(), door.turns
        assert turns is not None
        pools = [way.upstream for passage in passages for way in passage.ways]
        found = {
            "connections": stats.connections,
            "in flight": stats.in_flight,
            "turns": turns.counts() if turns.counts() != (0, 0) else 0,
            "models": len(turns._models),
            "present": sum(abs(passage.present) for passage in passages),
            "sources": sum(len(passage._sources) for passage in passages),
            "tasks": len(door._crowd.tasks),
            "handshakes": len(door._handshakes) if door._handshakes is not None else 0,
            "upstream, not idle": sum(len(pool.opened) - len(pool._idle) for pool in pools),
            "upstream, too many": sum(len(pool._idle) > LIMITS.idle_upstream for pool in pools),
        }
        return {what: count for what, count in found.items() if count}


@contextlib.asynccontextmanager
async def opened(folder: Path, dice: random.Random, *, tls: bool) -> AsyncIterator[Site]:
    keys = KeyFile(folder / "key_file.json", 3600, time.time)
    keys.write()
    audit, access = AuditLog(folder / "audit.log", time.time), AccessLog(folder / "access.log")

    async def prepare(operation):
        await asyncio.sleep(dice.choice((0, TICK)))
        return operation

    enforcer = enforcing.enforcer(Access(Mode.EXPLICIT, keys_required=False), keys, audit, prepare=prepare)
    torchserve, path = Torchserve(dice), str(folder / "up.sock")
    ports = dict(zip((Listener.INFERENCE, Listener.MANAGEMENT), servers.free_ports(2), strict=True))
    specs = {
        listener: ListenerSpec(f"{'https' if tls else 'http'}://127.0.0.1:{port}", f"unix:{path}")
        for listener, port in ports.items()
    }
    certificate = authority.root().issue() if tls else None
    served = context_of(certificate.chain, certificate.key, None) if certificate is not None else None
    door = Door(specs, enforcer, LIMITS, served, access=access)
    trusting = None
    if tls:
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    upstream = await asyncio.start_unix_server(torchserve.serve, path)
    await door.open()
    try:
        yield Site(door, torchserve, keys, ports, trusting)
    finally:
        await door.close(0)
        upstream.close()
        for writer in tuple(torchserve.writers):
            writer.transport.abort()
        access.close()
        audit.close()


async def one_client(site: Site, dice: random.Random) -> None:
    """Send some requests, or parts of them, at once or in pieces, and end in one of many ways."""
    listener = dice.choice((Listener.INFERENCE, Listener.INFERENCE, Listener.MANAGEMENT))
    menu = INFERENCE if listener is Listener.INFERENCE else tuple(m.replace(b"%b", site.bearer()) for m in MANAGEMENT)
    said = b"".join(dice.choice(menu) for _ in range(dice.randint(1, 4)))
    if dice.random() < 0.4:
        said = said[: dice.randrange(len(said))]
    secured = site.tls if dice.random() < 0.8 else None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.ports[listener], ssl=secured)
    except OSError:  # turned away in the handshake
        return
    with contextlib.suppress(*GONE):
        while said:
            piece = dice.choice((len(said), 1, 40, 700))
            writer.write(said[:piece])
            said = said[piece:]
            await asyncio.sleep(dice.choice((0, 0, 0, TICK)))
        ending = dice.choice(("reset", "close", "half", "read", "read a little", "wait"))
        if ending == "half" and writer.can_write_eof():
            writer.write_eof()
        if ending in {"half", "read"}:
            await asyncio.wait_for(reader.read(), TIMEOUT)
        elif ending != "close":
            await asyncio.wait_for(reader.read(1), dice.choice((TICK, 10 * TICK)))
    if dice.random() < 0.5:
        raw = writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(TICK)


async def nothing_is_left(folder: Path, seed: str, *, tls: bool) -> None:
    dice = random.Random(seed)  # noqa: S311 - reproducible
    room = asyncio.Semaphore(AT_ONCE)

    async def let_in() -> None:
        async with room:
            await one_client(site, dice)

    async with opened(folder, dice, tls=tls) as site:
        descriptors = len(os.listdir("/proc/self/fd"))
        await asyncio.gather(*(let_in() for _ in range(CLIENTS)))
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: not site.left())
        assert site.left() == {}
        stats = site.door.stats()
        assert stats.served
        assert stats.refused
        assert stats.upstream_failures
        site.torchserve.well = True
        for _ in range(2 * (LIMITS.model_concurrency or 0)):
            assert b" 200 " in await site.ask(INFERENCE[0])
        await eventually(lambda: not site.left())
        # Two kept connections for each way, and their other ends.
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2 * 2 * LIMITS.idle_upstream)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_of_connections_that_end_at_any_moment(tmp_path, monkeypatch, seed, tls):
    monkeypatch.setattr(server, "_SWEEP_S", TICK)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(nothing_is_left(tmp_path, f"{seed}-{tls}", tls=tls))


# --- what is said of those that ended -------------------------------------------------------------------------------


async def spoken(site: Site, *pieces: bytes, listener: Listener = Listener.INFERENCE) -> bytes:
    """Send pieces on one connection, each when the one before was answered, and return all that came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.ports[listener])
    told = b""
    with contextlib.closing(writer):
        for piece in pieces:
            writer.write(piece)
            told += await reader.readuntil(b"\r\n\r\n")
            length = int(told.rpartition(b"Content-Length: ")[2].partition(b"\r\n")[0])
            told += await reader.readexactly(length)
    return told


@pytest.fixture
async def site(tmp_path):
    async with opened(tmp_path, random.Random(0), tls=False) as site:  # noqa: S311
        site.torchserve.well = True
        yield site


def lines(site: Site) -> list[dict]:
    assert site.door.access is not None
    site.door.access.flush()
    return [json.loads(line) for line in site.door.access.path.read_text().splitlines()]


async def test_what_cannot_be_read_is_not_said_of_who_asked_before(site):
    good = POST + site.bearer() + b"Content-Length: 5\r\n\r\nhello"
    for bad in (b"no request\r\n\r\n", b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"):
        told = await spoken(site, good, bad)
        assert told.startswith(b"HTTP/1.1 200 ")
        served, refused = lines(site)[-2:]
        assert (served["principal"], served["bytes_in"]) == ("management-key", 5)
        assert (refused["principal"], refused["bytes_in"]) == ("anonymous", 0)


async def hung_up_before(folder: Path) -> str:
    """Return whom the log names for a request whose connection was reset before it was accepted."""
    async with opened(folder, random.Random(0), tls=False) as site:  # noqa: S311 - nothing random about it
        connection = socket.create_connection(("127.0.0.1", site.ports[Listener.MANAGEMENT]))
        connection.sendall(b"DELETE /models/noop HTTP/1.1\r\nHost: attacker.example\r\n\r\n")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()  # the door, on this very loop, has not accepted it yet
        await eventually(lambda: lines(site))
        return lines(site)[0]["client"]


def test_who_hung_up_before_it_was_let_in_is_not_taken_for_a_local_peer(tmp_path):
    """Such a connection has no address; a unix socket's has none either, and no browser is behind that one."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(hung_up_before(tmp_path)) == "gone"


async def test_a_body_may_not_stall_because_one_before_it_was_held_back(site, monkeypatch):
    """Whom TorchServe answers before it took the whole body, nobody tells that it takes more."""
    monkeypatch.setattr(server, "_SWEEP_S", TICK)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.ports[Listener.INFERENCE])
    writer.write(INFERENCE[0])
    await reader.readuntil(b"ok")
    (connection,) = site.door._crowd.connections
    connection.upstream_full(full=True)
    connection._transport.resume_reading()
    writer.write(POST + b"Content-Length: 100\r\n\r\nhello")
    async with asyncio.timeout(TIMEOUT):
        assert b" 408 " in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_what_a_handler_sends_piece_by_piece_arrives_piece_by_piece(site, monkeypatch):
    """However many came at once: TorchServe's own client of streamed answers reads one object from each chunk."""
    sent = (b'{"a": 1}', b'{"a": 22}', *[b"x" * 60_000] * 8)  # more than is read at once
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in sent) + b"0\r\n\r\n"
    monkeypatch.setitem(ANSWERS, "whole", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.ports[Listener.INFERENCE])
    writer.write(INFERENCE[0])
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(pieces)) == pieces
    writer.close()
