"""Several processes at one door: real porters and sockets, a plain upstream, and what happens when one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import authority
import enforcing
import psutil
import pytest
import servers

from torchserve_guard.access import Mode, Operation
from torchserve_guard.audit import AuditLog
from torchserve_guard.errors import GuardError, VerificationError
from torchserve_guard.identity import KeyFile, KeyKind
from torchserve_guard.policy import Access, Closures
from torchserve_guard.policy.closure import Closure
from torchserve_guard.porters.desk import Desk
from torchserve_guard.porters.lodge import Lodge
from torchserve_guard.porters.orders import Material, Post
from torchserve_guard.porters.porting import Pace
from torchserve_guard.proxy import Limits, ListenerSpec
from torchserve_guard.proxy.vacancy import bind
from torchserve_guard.wire import Listener

PATIENCE = 30.0
PREDICT = b"POST /predictions/noop HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n%b\r\nhi"


class Upstream:
    """Answers every request with what it was asked; one for `/predictions/slow` only when the test says so."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
                self.heads.append(head)
                if b"/slow" in head:
                    self.waiting.set()
                    await self.go.wait()
                line = head.split(b"\r\n")[0]
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(line), line)
                )
                await writer.drain()
        writer.close()


@dataclass
class Client:
    """One kept connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self.writer.write(request)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return int(head.split()[1]), await self.reader.readexactly(length)


@dataclass
class World:
    """A lodge at one port, with everything that the guard has beside it."""

    lodge: Lodge
    keys: KeyFile
    audit: Path
    log: AuditLog
    upstream: Upstream
    address: str
    said: list[str]
    closures: Closures
    calls: list[tuple[str, object]] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def pids(self) -> list[int]:
        return [int(one["pid"]) for one in self.lodge.listed() if one["state"] == "serving"]

    def entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    async def client(self, tls=None) -> Client:
        if self.address.startswith("unix:"):
            made = await asyncio.open_unix_connection(self.address.removeprefix("unix:"))
        else:
            port = int(self.address.rpartition(":")[2])
            made = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        self.clients.append(Client(*made))
        return self.clients[-1]

    async def client_of(self, pid: int) -> Client:
        """A client whose connection that porter has."""
        for _ in range(200):
            one = await self.client()
            assert (await one.ask(self.predict()))[0] == 200
            if owner(one) == pid:
                return one
        raise AssertionError(f"process {pid} takes no connections")

    def predict(self, name: bytes = b"noop", key: KeyKind = KeyKind.INFERENCE) -> bytes:
        return PREDICT.replace(b"noop", name) % self.bearer(key)

    def bearer(self, kind: KeyKind) -> bytes:
        return b"Authorization: Bearer %b\r\n" % self.keys._keys[kind].secret

    async def until(self, found, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not found():
            assert time.monotonic() < deadline, (what, self.said)
            await asyncio.sleep(0.01)


def owner(client: Client) -> int:
    """The process at the other end of a TCP connection."""
    return owners([client])[0]


def owners(clients: list[Client]) -> list[int]:
    """The processes at the other ends."""
    names = ("peername", "sockname")
    return holders([tuple(client.writer.get_extra_info(name) for name in names) for client in clients])


def holders(connections: list[tuple[object, object]]) -> list[int]:
    """The processes that have the first end of each connection, as far as it was taken, by their descriptors."""
    held = {}
    for process in servers._children(os.getpid()):
        with contextlib.suppress(OSError):
            held |= dict.fromkeys(names_of(process.pid), process.pid)
    cells = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {(each[1], each[2]): f"socket:[{each[9]}]" for each in cells}
    found = [inodes.get((shown(there), shown(here))) for there, here in connections]
    return [held[inode] for inode in found if inode in held]


def shown(address: tuple[str, int]) -> str:
    return f"{int.from_bytes(socket.inet_aton(address[0]), 'little'):08X}:{address[1]:04X}"


def names_of(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


@pytest.fixture
def place():
    with servers.folder("tsg-p-") as folder:
        yield folder


@pytest.fixture
async def world(place: Path):
    """Make worlds: `await world(size=2)`; ended afterwards."""
    worlds: list[World] = []
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            *,
            size: int = 2,
            mode: Mode = Mode.EXPLICIT,
            listeners: tuple[Listener, ...] = (Listener.INFERENCE,),
            address: str = "",
            tls: Material | None = None,
            pace: Pace | None = None,
            limits: Limits | None = None,
            opened: bool = True,
            broken: bool = False,
        ) -> World:
            upstream = Upstream()
            path = str(place / "upstream.sock")
            server = await asyncio.start_unix_server(upstream.serve, path)
            stack.callback(server.close)
            address = address or f"http://127.0.0.1:{servers.free_ports(1)[0]}"
            specs = {one: ListenerSpec(address, f"unix:{path}", b"Authorization: Bearer theirs") for one in listeners}
            keys = KeyFile(place / "key_file.json", 3600, time.time)
            log = AuditLog(place / "audit.jsonl", time.time)
            stack.callback(log.close)
            calls: list[tuple[str, object]] = []
            access = Access(mode, keys_required=True)

            async def prepare(operation: Operation) -> Operation:
                calls.append(("prepare", operation.parameter("url")))
                if operation.parameter("url") == "evil.mar":
                    raise VerificationError("evil.mar: not what the manifest promises")
                return operation

            async def settled(operation: Operation, status: int | None) -> None:
                calls.append((operation.action.value, status))

            enforcer = enforcing.enforcer(
                access,
                keys,
                log,
                prepare=prepare,
                settled=settled,
                spread=lambda: made.lodge.tell_keys(keys.hashed()),
            )
            said: list[str] = []
            limits = limits or Limits()
            post = Post(specs, {}, limits, access, keys.hashed(), tls)
            if broken:
                post = replace(post, listeners={one: replace(specs[one], upstream="nowhere") for one in specs})
            desk = Desk(enforcer, log, specs, limits.connections, certified=False, now=time.time)
            bound = {address: bind(listeners[0], address)}
            lodge = Lodge(
                size=size,
                post=post,
                bound=bound,
                desk=desk,
                log=log,
                say=said.append,
                environment=os.environ,
                pace=pace,
            )
            closures = Closures()
            lodge.follow(closures)
            made = World(lodge, keys, log.path, log, upstream, address, said, closures, calls)
            worlds.append(made)
            if opened:
                await lodge.open()
            return made

        yield make
        for one in worlds:
            for client in one.clients:
                client.writer.close()
            one.upstream.go.set()
            await one.lodge.close(0)


async def test_every_process_takes_connections_and_the_status_lists_them(world):
    here = await world(size=2)
    clients = [await here.client() for _ in range(32)]
    for client in clients:
        assert await client.ask(here.predict()) == (200, b"POST /predictions/noop HTTP/1.1")
    assert set(owners(clients)) == set(here.pids())
    assert len(here.pids()) == 2
    await here.until(lambda: here.lodge.stats().served == 32, "all requests are counted")
    for one in here.lodge.listed():
        assert one["requests"] > 0
        assert one["restarts"] == 0
        assert 10 << 20 < one["memory"] < 120 << 20


async def test_connections_that_come_at_once_are_shared_out_evenly(world):
    here = await world(size=2)
    shares = []
    for _ in range(5):  # who has more waits a moment for the others, which on a busy machine may not do
        with contextlib.ExitStack() as stack:
            address = ("127.0.0.1", int(here.address.rpartition(":")[2]))
            burst = [stack.enter_context(socket.create_connection(address)) for _ in range(40)]
            await here.until(lambda: len(held_of(burst)) == 40, "all are taken")  # noqa: B023
            found = held_of(burst)
            shares.append(min(found.count(pid) for pid in here.pids()))
        if shares[-1] >= 16:
            return
        await here.until(lambda: here.lodge.stats().connections == 0, "all are gone")
    raise AssertionError(shares)


def held_of(sockets: list[socket.socket]) -> list[int]:
    return holders([(each.getpeername(), each.getsockname()) for each in sockets])


async def test_a_killed_porter_takes_nobody_with_it_and_another_takes_its_place(world):
    here = await world(size=2)
    doomed, spared = here.pids()
    beside, with_it = await here.client_of(spared), await here.client_of(doomed)
    answered: list[int] = []
    lost: list[Client] = []
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            answered.append((await beside.ask(here.predict()))[0])

    async def newcomers() -> None:
        while not done.is_set():
            one = await here.client()
            try:
                answered.append((await one.ask(here.predict()))[0])
            except (asyncio.IncompleteReadError, ConnectionError):
                lost.append(one)
            one.writer.close()

    loads = asyncio.gather(load(), newcomers())
    await here.until(lambda: len(answered) > 20, "load runs")
    os.kill(doomed, signal.SIGKILL)
    await here.until(lambda: doomed not in here.pids() and len(here.pids()) == 2, "another takes its place")
    before = len(answered)
    await here.until(lambda: len(answered) > before + 20, "load runs on")
    done.set()
    await loads
    assert set(answered) == {200}
    assert len(lost) <= 1  # who was inside the one that died; newcomers come one after the other
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await with_it.ask(here.predict())
    assert any(f"process {doomed} at the door has ended: killed by signal 9" in line for line in here.said)
    ended = [entry for entry in here.entries() if entry["event"] == "porter-ended"]
    assert [entry["process"] for entry in ended] == [doomed]
    assert sorted(one["restarts"] for one in here.lodge.listed()) == [0, 1]


async def test_what_a_porter_refused_is_on_record_in_one_order_even_when_it_dies_at_once(world):
    here = await world(size=2)
    clients = [await here.client_of(pid) for pid in here.pids() for _ in range(3)]
    wrong = PREDICT % b"Authorization: Bearer wrong\r\n"
    for _ in range(10):
        for client in clients:
            assert (await client.ask(wrong))[0] == 401
    for pid in here.pids():
        os.kill(pid, signal.SIGKILL)
    refusals = lambda: [entry for entry in here.entries() if entry["event"] == "refusal"]  # noqa: E731
    await here.until(lambda: len(refusals()) == 60, "all are on record")
    assert len({entry["process"] for entry in refusals()}) == 2
    assert all(entry["rule"] == "inference-key-required" for entry in refusals())
    sequence = [entry["sequence"] for entry in here.entries()]
    assert sequence == list(range(len(sequence)))


async def test_a_porter_that_stands_still_is_replaced_and_keeps_no_newcomer_waiting(world):
    here = await world(size=2, pace=Pace(beat=0.05, sign=1.0, second_look=0.1))
    stuck = here.pids()[0]
    os.kill(stuck, signal.SIGSTOP)
    for _ in range(10):
        one = await here.client()
        assert (await one.ask(here.predict()))[0] == 200
        assert owner(one) != stuck
    await here.until(lambda: stuck not in here.pids() and len(here.pids()) == 2, "it is replaced")
    assert any(f"process {stuck} at the door has ended: it does not answer within 1 s" in line for line in here.said)


async def test_a_rotated_key_is_void_everywhere_when_the_rotation_returns(world):
    here = await world(size=2)
    clients = [await here.client_of(pid) for pid in here.pids()]
    old = here.predict()
    here.keys.rotate(KeyKind.INFERENCE)
    await here.lodge.tell_keys(here.keys.hashed())
    for client in clients:
        assert (await client.ask(old))[0] == 401
        assert (await client.ask(here.predict()))[0] == 200


async def test_a_closed_model_is_closed_at_every_porter_and_at_those_that_come_later(world):
    here = await world(size=2)
    clients = [await here.client_of(pid) for pid in here.pids()]

    async def answers() -> set[int]:
        return {(await client.ask(here.predict()))[0] for client in clients}

    await asyncio.to_thread(here.closures.close, "noop", "1.0", Closure("changed on the disk", lasting=True))
    deadline = time.monotonic() + PATIENCE
    while await answers() != {503}:
        assert time.monotonic() < deadline
    assert (await clients[0].ask(here.predict(b"other")))[0] == 200
    for pid in here.pids():
        os.kill(pid, signal.SIGKILL)
    await here.until(lambda: sum(one["restarts"] for one in here.lodge.listed()) == 2 and len(here.pids()) == 2, "new")
    clients = [await here.client() for _ in range(4)]
    assert await answers() == {503}
    here.closures.open("noop", "1.0")
    while await answers() != {200}:
        assert time.monotonic() < deadline + PATIENCE


async def test_a_porter_that_does_not_take_a_new_key_does_not_live_to_take_the_old_one(world):
    here = await world(size=2, pace=Pace(beat=60, answer=0.5, second_look=0.1))
    stuck = here.pids()[0]
    client = await here.client_of(stuck)
    os.kill(stuck, signal.SIGSTOP)
    here.keys.rotate(KeyKind.INFERENCE)
    await here.lodge.tell_keys(here.keys.hashed())
    assert dead(stuck)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.ask(PREDICT % b"")


async def test_a_porter_that_does_not_listen_any_more_does_not_live_to_take_a_void_key(world, monkeypatch):
    deaf = f"{IMPOSTOR}os.close(0); lines.close(); channel.close(); time.sleep(600)"
    monkeypatch.setattr("torchserve_guard.porters.porting.COMMAND", ("-c", deaf))
    here = await world(size=1, pace=Pace(first_pause=600, longest_pause=600))
    pid = int(here.lodge.listed()[0]["pid"])
    await here.lodge.tell_keys(here.keys.hashed())
    assert dead(pid)


def dead(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_certificates_are_renewed_in_every_process_and_connections_stay(world):
    root = authority.root()
    first, second = root.issue(), root.issue()
    port = servers.free_ports(1)[0]
    here = await world(address=f"https://127.0.0.1:{port}", tls=Material(first.chain, first.key, None, weak=False))
    trusting = ssl.create_default_context(cadata=root.pem.decode())
    stays = [await here.client(trusting) for _ in range(4)]
    for client in stays:
        assert (await client.ask(here.predict()))[0] == 200
    await here.lodge.tell_certificates(Material(second.chain, second.key, None, weak=False))
    os.kill(here.pids()[0], signal.SIGKILL)
    await here.until(lambda: len(here.pids()) == 2 and here.lodge.listed()[0]["restarts"] == 1, "another stands there")
    for _ in range(8):
        one = await here.client(trusting)
        shown = one.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert shown == ssl.PEM_cert_to_DER_cert(second.pem.decode())
        assert (await one.ask(here.predict()))[0] == 200
    answers = await asyncio.gather(*(client.ask(here.predict()) for client in stays), return_exceptions=True)
    assert [answer for answer in answers if not isinstance(answer, Exception)]


async def test_what_is_in_flight_is_finished_when_the_crew_closes_and_nobody_else_comes_in(world):
    here = await world(size=2)
    clients = [await here.client_of(pid) for pid in here.pids()]
    for client in clients:
        here.upstream.waiting.clear()
        client.writer.write(here.predict(b"slow"))
        await here.upstream.waiting.wait()
    pids = here.pids()
    closing = asyncio.create_task(here.lodge.close(PATIENCE))
    await here.until(lambda: not accepts(here.address), "the port is closed")
    here.upstream.go.set()
    for client in clients:
        assert await client.answer() == (200, b"POST /predictions/slow HTTP/1.1")
    await closing
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert here.said == []


def accepts(address: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0


async def test_what_does_not_end_in_time_is_cut_when_the_crew_closes(world):
    here = await world(size=2)
    client = await here.client()
    client.writer.write(here.predict(b"slow"))
    await here.upstream.waiting.wait()
    closing = asyncio.create_task(here.lodge.close(PATIENCE))
    await asyncio.sleep(0)
    await here.lodge.close(0)
    await closing
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.answer()


async def test_a_unix_socket_is_served_by_all_and_removed_at_the_end(world, place):
    path = place / "door.sock"
    here = await world(address=f"unix:{path}")
    for _ in range(4):
        assert (await (await here.client()).ask(here.predict()))[0] == 200
    os.kill(here.pids()[0], signal.SIGKILL)
    assert (await (await here.client()).ask(here.predict()))[0] == 200
    await here.until(lambda: len(here.pids()) == 2, "another takes its place")
    assert path.is_socket()
    await here.lodge.close(1)
    assert not path.exists()


async def test_changes_that_come_in_at_a_porter_are_decided_recorded_and_settled_by_the_guard(world):
    here = await world(listeners=(Listener.INFERENCE, Listener.MANAGEMENT))
    client = await here.client()
    assert (await client.ask(register(b"good.mar", here.bearer(KeyKind.MANAGEMENT))))[0] == 200
    await here.until(lambda: ("register-model", 200) in here.calls, "it is settled")
    assert (await client.ask(register(b"good.mar", here.bearer(KeyKind.INFERENCE))))[0] == 403
    assert (await client.ask(register(b"evil.mar", here.bearer(KeyKind.MANAGEMENT))))[0] == 403
    assert (await client.ask(register(b"good.mar", b"")))[0] == 401
    assert here.calls == [("prepare", "good.mar"), ("register-model", 200), ("prepare", "evil.mar")]
    assert len([head for head in here.upstream.heads if b"POST /models" in head]) == 1
    events = [entry["event"] for entry in here.entries()]
    assert events == ["request", "outcome", "refusal", "request", "refusal", "refusal"]


def register(archive: bytes, bearer: bytes) -> bytes:
    return b"POST /models?url=%b HTTP/1.1\r\nHost: here\r\n%bContent-Length: 0\r\n\r\n" % (archive, bearer)


async def test_a_key_rotated_at_a_porter_is_void_at_every_porter(world):
    here = await world(listeners=(Listener.INFERENCE, Listener.MANAGEMENT))
    clients = [await here.client_of(pid) for pid in here.pids()]
    old = here.predict()
    rotate = b"GET /token?type=inference HTTP/1.1\r\nHost: here\r\n%b\r\n" % here.bearer(KeyKind.API)
    assert (await clients[0].ask(rotate))[0] == 200
    for client in clients:
        assert (await client.ask(old))[0] == 401
        assert (await client.ask(here.predict()))[0] == 200


async def test_a_change_whose_porter_dies_is_settled_as_one_whose_end_nobody_knows(world):
    here = await world(listeners=(Listener.INFERENCE, Listener.MANAGEMENT))
    pid = here.pids()[0]
    client = await here.client_of(pid)
    scale = b"PUT /models/slow?min_worker=1 HTTP/1.1\r\nHost: here\r\n%bContent-Length: 0\r\n\r\n"
    client.writer.write(scale % here.bearer(KeyKind.MANAGEMENT))
    await here.upstream.waiting.wait()
    os.kill(pid, signal.SIGKILL)
    await here.until(lambda: ("scale-model", None) in here.calls, "it is settled")
    outcomes = [entry for entry in here.entries() if entry["event"] == "outcome"]
    assert len(outcomes) == 1
    assert "status" not in outcomes[0]


async def test_a_change_that_cannot_be_recorded_is_not_forwarded_from_a_porter_either(world):
    here = await world(listeners=(Listener.INFERENCE, Listener.MANAGEMENT))
    client = await here.client()
    os.dup2(os.open("/dev/full", os.O_WRONLY), here.log._descriptor)
    here.log._follow = lambda: None
    assert (await client.ask(register(b"good.mar", here.bearer(KeyKind.MANAGEMENT))))[0] == 503
    assert here.calls == []
    assert here.upstream.heads == []


async def test_when_no_porter_can_be_kept_the_lodge_says_so(world):
    here = await world(opened=False, broken=True, pace=Pace(first_pause=0.01, hopeless=2))
    with pytest.raises(GuardError, match="no process at the door can be kept"):
        await here.lodge.open()
    assert any("another takes its place" in line for line in here.said)


async def test_nothing_secret_is_in_a_porters_arguments_or_environment(world):
    here = await world()
    secrets = [key.secret for key in here.keys._keys.values()] + [b"theirs"]
    for pid in here.pids():
        process = psutil.Process(pid)
        shown = repr((process.cmdline(), process.environ()))
        assert not [secret for secret in secrets if secret.decode() in shown]


async def test_a_porter_has_no_descriptor_that_is_not_its_own(world):
    here = await world(size=2)
    kinds = [descriptors(pid) for pid in here.pids()]
    for pid in here.pids():
        os.kill(pid, signal.SIGKILL)
    await here.until(
        lambda: [one["restarts"] for one in here.lodge.listed()] == [1, 1] and len(here.pids()) == 2, "new"
    )
    ours = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        gone = here.pids()
        os.kill(gone[0], signal.SIGKILL)
        await here.until(lambda: gone[0] not in here.pids() and len(here.pids()) == 2, "new")  # noqa: B023
    assert len(os.listdir("/proc/self/fd")) == ours
    assert [descriptors(pid) for pid in here.pids()] == kinds
    audit = str(here.audit)
    assert not [name for pid in here.pids() for name in names_of(pid) if audit in name]


def descriptors(pid: int) -> int:
    return len(names_of(pid))


# --- porters that are not themselves any more -------------------------------------------------------------------------

IMPOSTOR = """
import json, os, socket, sys, time
channel = socket.socket(fileno=os.dup(0))
lines = channel.makefile("rb")
say = lambda **told: channel.sendall(json.dumps(told).encode() + b"\\n")
CERTIFICATE = dict(principal="CN=root", names=[], not_before=0, not_after=9e9)
took = lambda: say(report="took", number=json.loads(lines.readline())["number"])
ask = dict(report="wanted", ticket=1, peer="x", method="POST", target="/models?url=good.mar", request_id="1")
refusal = dict(report="entry", event="refusal", fields={"reason": "x"})
took()
"""

MISUSES = {
    "no JSON": "channel.sendall(b'hello\\n')",
    "no object": "channel.sendall(b'[]\\n')",
    "a line without an end": "channel.sendall(b'x' * (3 << 20))",
    "deep nesting": "channel.sendall(b'[' * 200000 + b'\\n')",
    "a report of no kind": "say(report='stop')",
    "an event that is the guard's": "say(report='entry', event='authorized', fields={})",
    "a time of its own": "say(report='entry', event='refusal', fields={'time': '1970', 'sequence': 0})",
    "a process of its own": "say(report='entry', event='refusal', fields={'process': 1})",
    "a field that is no word": "say(report='entry', event='refusal', fields={'a': [['deep']]})",
    "a number that is none": 'channel.sendall(b\'{"report":"entry","event":"refusal","fields":{"a":NaN}}\\n\')',
    "a flood": "[say(**refusal) for _ in range(12000)]",
    "another listener": "say(**ask, listener='management')",
    "a client certificate": "say(**ask, listener='inference', certificate=CERTIFICATE)",
    "an outcome of nothing": "say(report='outcome', ticket=7, status=200)",
    "a ticket twice": "channel.sendall(2 * (json.dumps(dict(ask, listener='inference')).encode() + b'\\n'))",
    "its channel closed": "os.close(0); lines.close(); channel.close()",
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES.keys())
async def test_a_porter_that_says_what_no_porter_says_is_ended_and_changes_nothing(world, monkeypatch, misuse):
    script = f"{IMPOSTOR}{misuse}\ntime.sleep(600)"
    monkeypatch.setattr("torchserve_guard.porters.porting.COMMAND", ("-c", script))
    here = await world(size=1, pace=Pace(beat=600, longest_pause=600, first_pause=600, last_words=0.2))
    await here.until(lambda: "at the door has ended" in "".join(here.said), "it is ended")
    assert [entry for entry in here.entries() if entry["event"] not in {"refusal", "porter-ended"}] == []
    assert here.calls == []
    assert here.audit.stat().st_size < 4 << 20


async def test_a_porter_cannot_have_a_change_made_without_a_key(world, monkeypatch):
    asks = "say(**ask, listener='management', host='localhost'); say(report=lines.readline().decode())"
    monkeypatch.setattr("torchserve_guard.porters.porting.COMMAND", ("-c", f"{IMPOSTOR}{asks}\ntime.sleep(600)"))
    pace = Pace(beat=600, longest_pause=600, first_pause=600, last_words=0.2)
    here = await world(size=1, listeners=(Listener.INFERENCE, Listener.MANAGEMENT), pace=pace)
    await here.until(lambda: "at the door has ended" in "".join(here.said), "it was answered")
    assert here.calls == []
    assert "request" not in {entry["event"] for entry in here.entries()}
