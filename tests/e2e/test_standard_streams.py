"""The standard streams: whoever reads them, or does not, or is gone, neither ends the guard nor holds it up."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
import servers

pytestmark = pytest.mark.e2e


@contextlib.contextmanager
def piped(server: servers.Guarded) -> Iterator[int]:
    """The server up, both its streams in one pipe; yields the end that is read, which is read until it serves."""
    reading, writing = os.pipe()
    server._launch(writing)
    os.close(writing)
    said, deadline = b"", time.monotonic() + servers.PATIENCE
    try:
        while b"the door is open" not in said:
            assert select.select([reading], [], [], deadline - time.monotonic())[0], said
            chunk = os.read(reading, 65536)
            assert chunk, said
            said += chunk
        yield reading
    finally:
        servers.end(server)


def fill(process: int) -> None:
    """Fill the pipe that a process writes to, to the last byte."""
    sink = os.open(f"/proc/{process}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while os.write(sink, b"x" * size):
                pass
    os.close(sink)


def serves_and_stops(server: servers.Guarded) -> None:
    """After it had something to say, the door is as open as it was; a stop is gentle, and on record."""
    server.signal(signal.SIGHUP)
    for _ in range(5):
        assert server.ask("POST", "/predictions/noop", b"x", timeout=5).body == b"x"
        time.sleep(0.1)
    server.signal()
    assert server.wait(20) == 0
    assert [line["event"] for line in server.audit()][-1] == "stop"


def test_a_reader_who_is_gone(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with piped(server) as reading:
        os.close(reading)
        serves_and_stops(server)


def test_a_reader_who_does_not_read(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with piped(server) as reading:
        fill(server.process.pid)
        serves_and_stops(server)
        os.close(reading)


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_were_closed(guard, listed, closed):
    server = guard(listed, {"load_models": "noop.mar"})
    server.process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *server.command()],
        cwd=server.folder,
        env=server.variables(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        answered(server)
        shown = [os.readlink(f"/proc/{server.process.pid}/fd/{number}") for number in range(3)]
        assert shown == ["/dev/null"] * 3
        serves_and_stops(server)
    finally:
        servers.end(server)


def answered(server: servers.Guarded) -> None:
    deadline = time.monotonic() + servers.PATIENCE
    while True:
        assert server.process.poll() is None, "the guard ended"
        assert time.monotonic() < deadline
        with contextlib.suppress(ConnectionError):
            if server.ask("POST", "/predictions/noop", b"x", timeout=5).status == 200:
                return
        time.sleep(0.1)
