"""A gRPC door to be tested: its world, a real gRPC server in TorchServe's place, and HTTP/2 as it stands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import grpc
import messages
import servers
from grpc import aio

from torchserve_guard.access import ANONYMOUS, Mode, Principal
from torchserve_guard.audit import Entry
from torchserve_guard.errors import AuditError
from torchserve_guard.policy import Access, decide
from torchserve_guard.proxy import Enforcer, Limits
from torchserve_guard.proxy.grpc.forms import Forms
from torchserve_guard.proxy.grpc.server import GrpcDoor, GrpcSpec
from torchserve_guard.proxy.grpc.tls import GrpcTls
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.wire import Listener

PREDICT = messages.INFERENCE + "Predictions"
STREAM = messages.INFERENCE + "StreamPredictions"
CONVERSE = messages.INFERENCE + "StreamPredictions2"
REGISTER = messages.MANAGEMENT + "RegisterModel"
SCALE = messages.MANAGEMENT + "ScaleWorker"
CHANGING = ("RegisterModel", "UnregisterModel", "ScaleWorker", "SetDefault")
KEYS = {
    b"Bearer m": Principal("management-key", frozenset({"management"})),
    b"Bearer i": Principal("inference-key", frozenset({"inference"})),
}
INFER, MANAGE = (("authorization", "Bearer i"),), (("authorization", "Bearer m"),)
TOKEN = "only-the-guard-has-this"


class Upstream(grpc.GenericRpcHandler):
    """A server in TorchServe's place: what it was asked, and an answer that a test may replace."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], list[bytes]]] = []
        self.behaviour: Callable = self.echo
        self.cancelled = asyncio.Event()
        self.finished = 0
        self.server = aio.server()
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")

    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(partial(self.answer, details))

    async def answer(self, details, _requests, context) -> None:
        received: list[bytes] = []
        self.asked.append((details.method, dict(details.invocation_metadata), received))
        try:
            await self.behaviour(context, received)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.finished += 1

    async def echo(self, context, received: list[bytes]) -> None:
        while (message := await context.read()) is not aio.EOF:
            received.append(message)
            await context.write(message)


@dataclass
class World:
    """A door, what is behind it, and its record."""

    upstream: Upstream
    mode: Mode = Mode.EXPLICIT
    keys_required: bool = True
    keyless: bool = False
    broken: bool = False
    entries: list[Entry] = field(default_factory=list)
    settled: list[int | None] = field(default_factory=list)
    ports: dict[Listener, int] = field(default_factory=dict)
    door: GrpcDoor | None = None
    tls: GrpcTls | None = None
    answer: int = 1 << 22
    optional: bool = False
    forms: Forms = field(default_factory=Forms)
    turns: Turns | None = None
    notes: list[tuple] = field(default_factory=list)

    def write(self, entry: Entry) -> None:
        if self.broken:
            raise AuditError("full")
        self.entries.append(entry)

    async def record(self, entry: Entry) -> None:
        self.write(entry)

    async def prepare(self, operation):
        return operation

    async def settle(self, _operation, status) -> None:
        self.settled.append(status)

    def events(self, name: str) -> list[dict]:
        return [dict(entry.fields) for entry in self.entries if entry.event == name]

    def spec(self, listener: Listener) -> GrpcSpec:
        return GrpcSpec("127.0.0.1", self.ports[listener], self.upstream.port, TOKEN, answer=self.answer)

    def make(self, limits: Limits) -> GrpcDoor:
        both = (Listener.INFERENCE, Listener.MANAGEMENT)
        self.ports = self.ports or dict(zip(both, servers.free_ports(2), strict=True))
        enforcer = Enforcer(
            access=Access(self.mode, self.keys_required, self.keyless),
            identify=lambda key: KEYS.get(key, ANONYMOUS),
            decide=decide,
            audit=self,
            rotate=lambda _kind: None,
            prepare=self.prepare,
            settled=self.settle,
            now=time.time,
        )
        specs = {listener: self.spec(listener) for listener in self.ports}
        return GrpcDoor(
            specs,
            enforcer,
            limits,
            optional=self.optional,
            forms=self.forms,
            tls=self.tls,
            note=self.notes.append,
            turns=self.turns,
        )

    @asynccontextmanager
    async def channel(self, listener: Listener = Listener.INFERENCE, **options) -> AsyncIterator[aio.Channel]:
        given = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", value) for name, value in options.items())]
        async with aio.insecure_channel(f"127.0.0.1:{self.ports[listener]}", given) as channel:
            yield channel


@asynccontextmanager
async def opened(limits: Limits = Limits(), **settings) -> AsyncIterator[World]:
    upstream = Upstream()
    await upstream.server.start()
    world = World(upstream, **settings)
    world.door = world.make(limits)
    await world.door.open()
    try:
        yield world
    finally:
        await world.door.close(0)
        await upstream.server.stop(0)


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not met():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def prediction(model: str = "noop", data: bytes = b"x") -> bytes:
    return messages.request(PREDICT, model_name=model, input={"data": data})


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def field_block(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Header fields, each a literal that is never indexed (RFC 7541 section 6.2.3), of at most 126 bytes."""
    return b"".join(b"\x10" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)


SAID = {
    b":method": b"POST",
    b":scheme": b"http",
    b":path": SCALE.encode(),
    b":authority": b"x",
    b"te": b"trailers",
    b"content-type": b"application/grpc",
    b"authorization": b"Bearer m",
}
