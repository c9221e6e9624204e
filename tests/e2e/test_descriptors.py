"""The real TorchServe where a process may have few descriptors: who only connects keeps nobody from predictions."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
import servers

pytestmark = pytest.mark.e2e

MOST = 320
SILENT = 110
PREDICTION = b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
BEGUN = b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\nContent-Length: 6000000\r\n\r\n" + bytes(100_000)


class Confined(servers.Guarded):
    """A guard of which no process may have more descriptors than these."""

    def command(self) -> list[str]:
        return ["sh", "-c", f'ulimit -n {MOST}; exec "$@"', "sh", *super().command()]


@pytest.fixture
def confined(place, listed) -> Iterator[Confined]:
    """Make guards, not yet started; the clients of a test are all at one address, which may have all connections."""
    made: list[Confined] = []

    def make(**settings: str) -> Confined:
        named = {f"guard.{name}": value for name, value in settings.items()}
        every = {"load_models": "noop.mar", "guard.max_connections_per_address": "10000", **named}
        made.append(Confined(place / f"guard{len(made)}", listed, every))
        return made[-1]

    yield make
    for server in made:
        servers.end(server)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def predicted(client: socket.socket) -> bytes:
    """The status of a prediction on this connection, or what came instead."""
    client.sendall(PREDICTION)
    try:
        return client.recv(4096)[9:12]
    except OSError as error:
        return repr(error).encode()


def held(server: Confined) -> list[int]:
    """How many descriptors each process at the door has: the guard, and its porters."""
    guard = psutil.Process(server.process.pid)
    porters = [one for one in guard.children() if "torchserve_guard.porters" in one.cmdline()]
    return [one.num_fds() for one in (guard, *porters)]


def limit(server: Confined) -> int:
    """How many connections a listener is said to take."""
    told = re.search(r"takes ([0-9]+) connections at a time, not 10000 .*[^0-9]320 descriptors", server.output())
    return int(told[1])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_silent_connections_on_every_port_leave_what_a_prediction_needs(confined, workers):
    server = confined(workers=workers)
    with servers.serving(server), contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connected(server.inference)) for _ in range(3)]
        # On all ports together more than a process may have: they are held, or told that there is no room.
        for port in (server.inference, server.management, server.metrics, *server.grpc):
            for _ in range(SILENT):
                with contextlib.suppress(OSError):
                    stack.enter_context(connected(port))
        for _ in range(3):
            assert [predicted(one) for one in kept] == [b"200"] * 3
            assert max(held(server)) < MOST
            time.sleep(0.5)
        assert limit(server) < SILENT


def test_bodies_that_never_end_and_a_flood_over_the_limit_leave_it_too(confined):
    server = confined(workers="1")
    with servers.serving(server), contextlib.ExitStack() as stack:
        kept = stack.enter_context(connected(server.inference))
        assert predicted(kept) == b"200"
        for _ in range(limit(server) - 1):
            stack.enter_context(connected(server.inference)).sendall(BEGUN)
        for port in (server.management, server.metrics, *server.grpc):
            for _ in range(limit(server)):
                stack.enter_context(connected(port))
        # Who is turned away and does not close keeps its descriptor for a moment: a hundred a second take them all.
        for _ in range(4):
            flood = [stack.enter_context(connected(server.inference)) for _ in range(SILENT)]
            assert predicted(kept) == b"200"
            assert max(held(server)) < MOST
            for one in flood:
                one.settimeout(0)
            time.sleep(0.3)
