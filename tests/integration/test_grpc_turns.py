"""One gRPC connection, however much it says, takes its turn and no more: what the others wait for stays short."""

import asyncio
import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager

import authority
import hpack
import pytest
from calls import CONVERSE, PREDICT, SAID, field_block, frame, opened, prediction, until

from torchserve_guard.http2 import Code, patience
from torchserve_guard.http2.frames import PREFACE
from torchserve_guard.proxy import Limits
from torchserve_guard.proxy.grpc import link
from torchserve_guard.proxy.grpc.tls import GrpcTls
from torchserve_guard.wire import Listener

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 4, 6, 7, 8
END, END_HEADERS, ACK = 1, 4, 1
GREETING = PREFACE + frame(SETTINGS, 0, 0, b"")
ASKING = list({**SAID, b":path": PREDICT.encode(), b"authorization": b"Bearer i"}.items())
HEAD = field_block(ASKING)
ONE = (1).to_bytes(4)
LONG_WAIT_S, LONGEST_WAIT_S = 0.25, 0.9


def verify(waits: list[float]) -> None:
    """Nine of ten waits are short, and none is long: the machine may have other work, too."""
    assert sorted(waits)[len(waits) * 9 // 10] < LONG_WAIT_S
    assert max(waits) < LONGEST_WAIT_S


def large_heads() -> Iterator[bytes]:
    """Calls of nobody's, each with 15 KB of Huffman code."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    fields = [(name, value) for name, value in SAID.items() if name != b"authorization"]
    block = encoder.encode([*fields, (b"x", b"~" * 9200)], huffman=True)
    assert 14_000 < len(block) < 16_384
    for first in itertools.count(1, 40):
        yield b"".join(frame(HEADERS, END_HEADERS | END, first + at, block) for at in range(0, 40, 2))


ATTACKS = {
    "bodies in pieces of a byte": lambda: itertools.chain(
        [frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1, b"\0" + (6_000_000).to_bytes(4))],
        itertools.repeat(frame(DATA, 0, 1, b"x") * 6000),
    ),
    "windows of a call": lambda: itertools.chain(
        [frame(HEADERS, END_HEADERS, 1, HEAD)], itertools.repeat(frame(WINDOW, 0, 1, ONE) * 5000)
    ),
    "windows of all": lambda: itertools.repeat(frame(WINDOW, 0, 0, ONE) * 5000),
    "large heads": large_heads,
    "pings": lambda: itertools.repeat(frame(PING, 0, 0, bytes(8)) * 4000),
}


class Attacker(threading.Thread):
    """A client that says all it can, from outside the loop, and takes what it is told."""

    def __init__(self, port: int, said: Iterator[bytes]) -> None:
        super().__init__(daemon=True)
        assert isinstance(port, int)
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.said, self.sent, self.heard = said, 0, b""
        self.taking = threading.Thread(target=self.take, daemon=True)

    def run(self) -> None:
        self.taking.start()
        with contextlib.suppress(OSError):
            self.socket.sendall(GREETING)
            for said in self.said:
                self.socket.sendall(said)
                self.sent += len(said)

    def take(self) -> None:
        with contextlib.suppress(OSError):
            while heard := self.socket.recv(1 << 16):
                self.heard = self.heard[-1000:] + heard

    def parted(self) -> int | None:
        """The code that the connection ended with, None while it lives."""
        at = self.heard.find(bytes([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0]))
        return None if at < 0 else int.from_bytes(self.heard[at + 13 : at + 17])

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self.taking.join(10)
        self.socket.close()


@asynccontextmanager
async def attacked(world, said):
    attacker = Attacker(world.ports[Listener.INFERENCE], said)
    attacker.start()
    try:
        yield attacker
    finally:
        await asyncio.to_thread(attacker.end)


class Neighbour:
    """Another connection, which asks and waits, again and again."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def wait(self) -> float:
        """How long an answer takes."""
        began = time.perf_counter()
        self.writer.write(frame(PING, 0, 0, b"12345678"))
        while True:
            said = await self.reader.readexactly(9)
            await self.reader.readexactly(int.from_bytes(said[:3]))
            if (said[3], said[4]) == (PING, ACK):
                return time.perf_counter() - began

    async def waits(self, seconds: float) -> list[float]:
        waits, end = [], time.monotonic() + seconds
        async with asyncio.timeout(30):
            while time.monotonic() < end:
                waits.append(await self.wait())
                await asyncio.sleep(0.005)
        return waits


@asynccontextmanager
async def neighbour(world):
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[Listener.MANAGEMENT])
    writer.write(GREETING)
    try:
        yield Neighbour(reader, writer)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("said", ATTACKS.values(), ids=ATTACKS)
async def test_who_says_much_that_carries_nothing_is_parted_from_and_nobody_waits_for_it(said):
    async with opened() as world, neighbour(world) as other:
        await other.wait()
        async with attacked(world, said()) as attacker:
            waits = await other.waits(0.1)
            async with asyncio.timeout(20):
                while attacker.parted() is None:
                    waits += await other.waits(0.1)
            assert attacker.parted() == Code.CALM
        verify(waits)


@pytest.mark.parametrize("said", ATTACKS.values(), ids=ATTACKS)
async def test_who_is_let_say_what_it_wants_takes_its_turn_and_no_more(said, monkeypatch):
    """Whatever is not counted, or not enough: the connection lives, and so do the others."""
    monkeypatch.setattr(patience, "_MOST_IDLE_TALK", 1 << 60)
    monkeypatch.setattr(patience, "_MOST_RESETS", 1 << 60)
    async with opened(Limits(body=1 << 30)) as world, neighbour(world) as other:
        await other.wait()
        async with attacked(world, said()) as attacker:
            waits = await other.waits(2)
            assert attacker.parted() is None
            assert attacker.sent > 1 << 18
        verify(waits)


ROOT = authority.root()
SERVER = ROOT.issue()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ROOT.pem.decode())
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_what_is_read_at_once_is_heard_in_its_order_over_many_turns(tls, monkeypatch):
    monkeypatch.setattr(link, "_TURN_S", 0.0)  # a turn of one frame
    block = field_block(list({**dict(ASKING), b":path": CONVERSE.encode()}.items()))
    bodies = [prediction(data=b"%d" % at) for at in range(300)]
    pieces = [frame(DATA, 0, 1, b"\0" + len(one).to_bytes(4) + one) for one in bodies]
    async with opened(tls=GrpcTls(SERVER.chain, SERVER.key, None) if tls else None) as world:
        port = world.ports[Listener.INFERENCE]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting() if tls else None)
        writer.write(GREETING + frame(HEADERS, END_HEADERS, 1, block) + b"".join(pieces) + frame(DATA, END, 1, b""))
        await until(lambda: [asked[2] for asked in world.upstream.asked] == [bodies])
        await until(lambda: world.door.stats().in_flight == 0)
        # It is listened to again: the next thing is heard, too.
        writer.write(frame(HEADERS, END_HEADERS, 3, block) + pieces[0][:5] + (3).to_bytes(4) + pieces[0][9:])
        await until(lambda: [asked[2] for asked in world.upstream.asked] == [bodies, bodies[:1]])
        writer.transport.abort()
        await until(lambda: world.door.stats().connections == 0)


async def test_what_came_before_the_end_of_a_connection_is_heard_before_it(monkeypatch):
    monkeypatch.setattr(link, "_TURN_S", 0.0)
    block = field_block([(name, value) for name, value in ASKING if name != b"authorization"])
    async with opened() as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[Listener.INFERENCE])
        writer.write(GREETING + b"".join(frame(HEADERS, END_HEADERS | END, at, block) for at in range(1, 201, 2)))
        writer.write_eof()
        await until(lambda: len(world.notes) == 100)
        await until(lambda: world.door.stats().connections == 0)
        assert b"grpc-status\x0216" in await reader.read()
        writer.close()


async def test_who_takes_nothing_has_no_more_than_one_read_waiting_and_is_heard_to_the_end_when_it_does():
    """What is not read because it waits, and what is not read because nothing is taken, is one thing."""
    pings = 20_000
    async with opened(Limits(stall_time=20)) as world, neighbour(world):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[Listener.INFERENCE], limit=1024)
        await until(lambda: len(world.door._crowd.connections) == 2)
        (client,) = [one for one in world.door._crowd.connections if one.loop and one._passage.name == "grpc-inference"]
        client.patience._endless = True
        writer.transport.pause_reading()
        writer.write(GREETING + frame(PING, 0, 0, b"12345678") * pings * 20)
        await until(lambda: client._deaf)
        await asyncio.sleep(0.1)
        assert len(client._buffer) < 1 << 19
        writer.transport.resume_reading()
        heard = 0
        async with asyncio.timeout(30):
            while heard < pings * 20:
                said = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(said[:3]))
                heard += (said[3], said[4]) == (PING, ACK)
        await until(lambda: not client._behind)
        assert client._buffer == b""
        writer.transport.abort()
