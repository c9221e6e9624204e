"""The limits of the door: who asks for too much, too slowly or too often is in nobody's way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import enforcing
import pytest
import servers

from torchserve_guard.access import Mode
from torchserve_guard.audit import AccessLog, AuditLog
from torchserve_guard.identity import KeyFile
from torchserve_guard.policy import Access
from torchserve_guard.proxy import Door, Limits, ListenerSpec, passage
from torchserve_guard.wire import Listener

TIMEOUT = 30
GET = b"GET /predictions/noop HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
TRACE = b"0af7651916cd43dd8448eb211c80319c"
PARENT = b"00-" + TRACE + b"-b7ad6b7169203331-01"

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass
class Site:
    """An open door in front of an upstream that keeps the heads it got, and answers when `answers` are to be."""

    port: int
    management: int
    door: Door
    audit: Path
    access: AccessLog
    answers: asyncio.Event
    keys: dict[str, str]
    body: bytes = b"ok"
    heads: list[bytes] = field(default_factory=list)

    async def connect(self, local: str | None = None, *, management: bool = False) -> tuple[Reader, Writer]:
        port = self.management if management else self.port
        where = (local, 0) if local is not None else None
        return await asyncio.open_connection("127.0.0.1", port, local_addr=where)

    async def ask(self, raw: bytes = GET, local: str | None = None, *, management: bool = False) -> tuple[bytes, bytes]:
        reader, writer = await self.connect(local, management=management)
        with contextlib.closing(writer):
            writer.write(raw)
            return await answer(reader)

    def entries(self, event: str) -> list[dict]:
        entries = [json.loads(line) for line in self.audit.read_bytes().splitlines()]
        return [entry for entry in entries if entry["event"] == event]

    def lines(self) -> list[dict]:
        self.access.flush()
        return [json.loads(line) for line in self.access.path.read_bytes().splitlines()]

    async def serve(self, reader: Reader, writer: Writer) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                await self.answers.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(self.body), self.body))
                await writer.drain()


async def answer(reader: Reader) -> tuple[bytes, bytes]:
    async with asyncio.timeout(TIMEOUT):
        head = await reader.readuntil(b"\r\n\r\n")
        return head, await reader.readexactly(int(re.search(rb"Content-Length: ([0-9]+)", head)[1]))


def status(told: tuple[bytes, bytes]) -> int:
    return int(told[0].split(b" ", 2)[1])


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Site]]]:
    """Open a door with limits."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(mode: Mode = Mode.NONE, *, keys_required: bool = False, **limits: float) -> Site:
            return await stack.enter_async_context(opened(tmp_path, Access(mode, keys_required), Limits(**limits)))

        yield make


@contextlib.asynccontextmanager
async def opened(folder: Path, access: Access, limits: Limits) -> AsyncIterator[Site]:
    keys = KeyFile(folder / "key_file.json", 3600, time.time)
    keys.write()
    audit, log = AuditLog(folder / "audit.jsonl", time.time), AccessLog(folder / "access.log")

    enforcer = enforcing.enforcer(access, keys, audit)
    ports, upstream = servers.free_ports(2), str(folder / "up.sock")
    specs = {
        listener: ListenerSpec(f"http://127.0.0.1:{port}", f"unix:{upstream}")
        for listener, port in zip((Listener.INFERENCE, Listener.MANAGEMENT), ports, strict=True)
    }
    door = Door(specs, enforcer, limits, access=log)
    shown = {kind: key["key"] for kind, key in json.loads(keys.path.read_text()).items()}
    site = Site(*ports, door, audit.path, log, asyncio.Event(), shown)
    site.answers.set()
    server = await asyncio.start_unix_server(site.serve, upstream)
    await door.open()
    try:
        yield site
    finally:
        site.answers.set()
        await door.close(0)
        server.close()
        log.close()
        audit.close()


# --- connections ----------------------------------------------------------------------------------------------------


async def test_who_has_many_connections_gets_no_more_and_others_do(site):
    here = await site(source_connections=3)
    held = [await here.connect() for _ in range(3)]
    for reader, writer in held:
        writer.write(GET)
        assert status(await answer(reader)) == 200
    told = await here.ask()
    assert status(told) == 429
    assert b"\r\nRetry-After: " in told[0]
    assert status(await here.ask(local="127.0.0.2")) == 200
    held.pop()[1].close()
    await eventually(lambda: here.door.stats().connections == 2)
    assert status(await here.ask()) == 200
    for _, writer in held:
        writer.close()


async def test_so_many_are_told_that_there_is_no_room_and_a_flood_behind_them_is_not_heard(site):
    here = await site(connections=2, turned_away=3)
    held = [await here.connect() for _ in range(2)]
    for reader, writer in held:
        writer.write(GET)
        assert status(await answer(reader)) == 200
    told = [await here.connect() for _ in range(3)]
    assert [status(await answer(reader)) for reader, _ in told] == [503] * 3
    flood = [await here.connect() for _ in range(20)]
    for reader, _ in flood:
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    assert here.door.stats().refused == 23
    assert here.door.stats().connections == 5
    assert len(here.entries("refusal")) < 5  # one each second
    for _, writer in (*told, *flood):
        writer.close()
    await eventually(lambda: here.door.stats().connections == 2)
    held.pop()[1].close()
    await eventually(lambda: here.door.stats().connections == 1)
    assert status(await here.ask()) == 200
    held.pop()[1].close()


async def test_where_three_quarters_are_taken_the_idle_and_the_slow_leave_first(site, monkeypatch):
    monkeypatch.setattr(passage, "HURRIED_IDLE_S", 1.0)
    monkeypatch.setattr(passage, "HURRIED_HEAD_S", 1.0)
    here = await site(connections=40, idle_time=600.0, head_time=600.0)
    held = [await here.connect() for _ in range(40)]
    for number, (reader, writer) in enumerate(held):
        writer.write(GET if number % 2 else GET[:20])
        if number % 2:
            assert status(await answer(reader)) == 200
    await eventually(lambda: here.door.stats().connections <= 30)
    assert status(await here.ask()) == 200
    for _, writer in held:
        writer.close()


async def test_where_there_is_room_nobody_is_hurried(site, monkeypatch):
    monkeypatch.setattr(passage, "HURRIED_IDLE_S", 0.0)
    here = await site(connections=40)
    reader, writer = await here.connect()
    for _ in range(2):
        writer.write(GET)
        assert status(await answer(reader)) == 200
        await asyncio.sleep(2.1)  # two looks at the clock
    writer.close()


# --- slow ones ------------------------------------------------------------------------------------------------------


async def test_a_body_that_drips_is_ended_though_it_never_stalls(site):
    here = await site(stall_time=2.0, rate=500)
    reader, writer = await here.connect()
    writer.write(POST % 100_000)
    dripping = asyncio.create_task(drip(writer, b"x", 0.05))
    assert status(await answer(reader)) == 408
    dripping.cancel()
    writer.close()
    assert here.lines()[0]["refused_by"] == "proxy.time"


async def test_a_body_that_comes_at_the_rate_is_let_come(site):
    here = await site(stall_time=2.0, rate=500)
    reader, writer = await here.connect()
    writer.write(POST % 8000)
    for _ in range(80):
        writer.write(b"x" * 100)
        await asyncio.sleep(0.05)
    assert status(await answer(reader)) == 200
    writer.close()


async def test_without_a_rate_only_a_stall_ends_a_body(site):
    here = await site(stall_time=2.0, rate=0)
    reader, writer = await here.connect()
    writer.write(POST % 100)
    for _ in range(100):
        writer.write(b"x")
        await asyncio.sleep(0.05)
    assert status(await answer(reader)) == 200
    writer.close()


async def test_a_client_that_takes_an_answer_by_drops_is_cut(site):
    here = await site(stall_time=2.0, rate=100_000)
    here.body = b"x" * 20_000_000
    loop = asyncio.get_running_loop()
    with socket.socket() as slow, contextlib.suppress(ConnectionResetError):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(0)
        await loop.sock_connect(slow, ("127.0.0.1", here.port))
        await loop.sock_sendall(slow, GET)
        async with asyncio.timeout(TIMEOUT):
            while await loop.sock_recv(slow, 1000):  # noqa: ASYNC110 - a slow client
                await asyncio.sleep(0.1)  # 10 kB a second, where a hundred are asked for
    (line,) = here.lines()
    assert (line["status"], line["refused_by"]) == (200, "proxy.cut")
    assert line["bytes_out"] < len(here.body)


async def drip(writer: Writer, what: bytes, pause: float) -> None:
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(what)
            await asyncio.sleep(pause)


async def test_while_many_are_slow_everybody_else_is_answered(site):
    here = await site()
    here.body = b"x" * 200_000
    held, dripping = [], []
    for number in range(300):
        _, writer = await here.connect()
        held.append(writer)
        if number < 100:  # slow clients
            writer.write(POST % 1_000_000)
            dripping.append(asyncio.create_task(drip(writer, b"x", 0.2)))
        elif number < 200:  # half-open requests
            writer.write(GET[: number % 40])
        elif number < 220:  # never read: what the kernel's buffers do not hold waits here
            writer.transport.pause_reading()
            writer.write(GET * 50)
    answers = await asyncio.gather(*(many(here) for _ in range(10)))
    assert [status(one) for told in answers for one in told] == [200] * 100
    assert here.door.stats().connections >= 300
    for task in dripping:
        task.cancel()
    for writer in held:
        writer.transport.abort()


async def many(here: Site) -> list[tuple[bytes, bytes]]:
    reader, writer = await here.connect()
    told = []
    for _ in range(10):
        writer.write(GET)
        told.append(await answer(reader))
    writer.close()
    return told


# --- one model ------------------------------------------------------------------------------------------------------


async def test_a_model_has_so_many_at_once_some_wait_and_more_are_told_to_come_again(site):
    here = await site(model_concurrency=1, model_queue=1)
    here.answers.clear()
    first = asyncio.create_task(here.ask())
    await eventually(lambda: here.heads)
    second = asyncio.create_task(here.ask(POST % 3 + b"abc"))
    await eventually(lambda: here.door.stats().waiting == 1)
    told = await here.ask()
    assert status(told) == 429
    assert b"\r\nRetry-After: " in told[0]
    assert json.loads(told[1])["code"] == 429
    other = asyncio.create_task(here.ask(GET.replace(b"noop", b"other")))
    await eventually(lambda: len(here.heads) == 2)
    here.answers.set()
    assert [status(await one) for one in (first, second, other)] == [200] * 3
    assert len(here.heads) == 3
    assert here.door.turns.counts() == (0, 0)
    assert [line["refused_by"] for line in here.lines() if line["status"] == 429] == ["proxy.model-queue"]


async def test_a_body_that_still_comes_waits_outside_and_arrives_whole(site):
    here = await site(model_concurrency=1, body=None)
    here.answers.clear()
    first = asyncio.create_task(here.ask())
    await eventually(lambda: here.heads)
    reader, writer = await here.connect()
    writer.write(POST % 40_000_000)
    sending = asyncio.create_task(sent(writer, b"x" * 40_000_000))
    await eventually(lambda: here.door.stats().waiting == 1)
    await asyncio.sleep(0.1)
    assert not sending.done()
    here.answers.set()
    assert status(await first) == 200
    await sending
    assert status(await answer(reader)) == 200
    assert here.lines()[-1]["bytes_in"] == 40_000_000
    writer.close()


async def sent(writer: Writer, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_who_waits_too_long_is_told_and_who_leaves_makes_room(site):
    here = await site(model_concurrency=1, model_queue=1, queue_time=1.0)
    here.answers.clear()
    first = asyncio.create_task(here.ask())
    await eventually(lambda: here.heads)
    told = await here.ask()
    assert status(told) == 503
    assert b"\r\nRetry-After: " in told[0]
    _, writer = await here.connect()
    writer.write(GET)
    await eventually(lambda: here.door.stats().waiting == 1)
    writer.transport.abort()
    await eventually(lambda: here.door.stats().waiting == 0)
    here.answers.set()
    assert status(await first) == 200
    assert len(here.heads) == 1
    assert [line["status"] for line in here.lines()] == [503, 499, 200]


async def test_a_turn_comes_back_however_its_request_ends(site):
    here = await site(model_concurrency=1, model_queue=0, body=10)
    here.answers.clear()
    _, gone = await here.connect()
    gone.write(GET)
    await eventually(lambda: here.heads)
    gone.transport.abort()
    await eventually(lambda: here.door.turns.counts() == (0, 0))
    here.answers.set()
    assert status(await here.ask(POST % 100)) == 413
    chunked = POST.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
    assert status(await here.ask(chunked + b"ff\r\n" + b"x" * 255 + b"\r\n0\r\n\r\n")) == 413
    assert status(await here.ask(chunked + b"nonsense\r\n")) == 400
    assert here.door.turns.counts() == (0, 0)
    assert status(await here.ask()) == 200


async def test_what_asks_no_model_waits_for_none(site):
    here = await site(model_concurrency=1, model_queue=0)
    here.answers.clear()
    first = asyncio.create_task(here.ask())
    await eventually(lambda: here.heads)
    second = asyncio.create_task(here.ask(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"))
    await eventually(lambda: len(here.heads) == 2)
    here.answers.set()
    assert [status(await one) for one in (first, second)] == [200, 200]


# --- what a request is called ---------------------------------------------------------------------------------------


def header(head: bytes, name: bytes) -> list[bytes]:
    return re.findall(rb"(?im)^%b: (.*)\r$" % name, head)


async def test_a_trace_is_made_where_there_is_none_and_told_upstream_and_in_the_log(site):
    here = await site()
    for raw in (GET, GET, GET.replace(b"\r\n\r\n", b"\r\nX-Request-Id: mine\r\n\r\n")):
        assert status(await here.ask(raw)) == 200
    parents = [header(head, b"traceparent") for head in here.heads]
    assert all(len(one) == 1 and re.fullmatch(b"00-[0-9a-f]{32}-[0-9a-f]{16}-00", one[0]) for one in parents)
    told = here.lines()
    assert [line["trace_id"].encode() for line in told] == [one[0][3:35] for one in parents]
    assert len({line["trace_id"] for line in told}) == 3
    assert told[0]["trace_id"] == told[0]["request_id"]
    assert told[2]["request_id"] == "mine"


async def test_a_valid_trace_goes_on_as_it_came_and_an_invalid_one_not_at_all(site):
    here = await site()
    valid = GET.replace(b"\r\n\r\n", b"\r\ntraceparent: %b\r\ntracestate: a=1\r\ntracestate: b=2\r\n\r\n" % PARENT)
    await here.ask(valid)
    await here.ask(valid.replace(TRACE, TRACE.upper()))
    first, second = here.heads
    assert (header(first, b"traceparent"), header(first, b"tracestate")) == ([PARENT], [b"a=1,b=2"])
    assert header(second, b"tracestate") == []
    assert TRACE not in second.lower()
    assert here.lines()[0]["trace_id"] == TRACE.decode()


async def test_a_line_tells_everything_and_no_secret(site):
    here = await site(keys_required=True)
    key = here.keys["inference"].encode()
    here.access.writer.digests = {"noop": {"1.0": "cafe"}}
    raw = (POST % 3).replace(b"noop", b"noop?token=SECRET")[:-2]
    await here.ask(raw + b"Authorization: Bearer " + key + b"\r\n\r\nabc")
    await here.ask(raw + b"Authorization: Bearer SECRET\r\n\r\nabc")
    await here.ask(b"SECRET nonsense\r\n\r\n")
    await here.ask(b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n", management=True)
    text = here.access.path.read_text() if here.lines() else ""
    assert "SECRET" not in text
    assert key.decode() not in text
    served, refused, nonsense, management = here.lines()
    shown = {name: served[name] for name in served.keys() - {"time", "request_id", "trace_id", "client", "duration_us"}}
    assert shown == {
        "listener": "inference",
        "principal": "inference-key",
        "method": "POST",
        "path": "/predictions/noop",
        "operation": "infer",
        "model": "noop",
        "version": "1.0",
        "digest": "cafe",
        "status": 200,
        "bytes_in": 3,
        "bytes_out": 2,
    }
    assert (refused["status"], refused["principal"], refused["bytes_in"]) == (401, "anonymous", 0)
    assert refused["refused_by"]
    assert (nonsense["status"], nonsense["refused_by"]) == (400, "proxy.request-line")
    assert "path" not in nonsense
    assert (management["listener"], management["status"], management["operation"]) == ("management", 401, "list-models")
    entry = here.entries("refusal")[0]
    assert entry["request_id"] == refused["request_id"]


# --- refusals -------------------------------------------------------------------------------------------------------


async def test_a_flood_of_refusals_is_counted_and_fills_no_disk(site):
    here = await site(Mode.EXPLICIT)
    reader, writer = await here.connect()
    for _ in range(400):
        writer.write(GET.replace(b"/predictions/noop", b"/nothing/here"))
        assert status(await answer(reader)) == 404
    writer.close()
    assert status(await here.ask(b"DELETE /models/noop HTTP/1.1\r\nHost: x\r\n\r\n", management=True)) == 401
    await here.door.close(0)
    entries = here.entries("refusal")
    assert 100 <= len(entries) < 250
    assert entries[-1]["method"] == "DELETE"
    summaries = here.entries("refusals-summarized")
    assert len(entries) + sum(one["count"] for one in summaries) == 401
    assert summaries[0]["peers"].keys() == {"127.0.0.1"}
    assert len(here.lines()) == 401
