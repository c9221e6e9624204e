"""Neighbours: one connection that gives the door all the work it can holds up no other, and fills no memory."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator

import doorway
import pytest

from torchserve_guard.wire import Listener

ATTACK = 2.0
PATIENT = 0.7
"""Seconds. Beside each of these attacks a neighbour once waited for between 2 and 28; alone it waits milliseconds."""
KERNEL = 12 << 20
"""What the kernel takes of a sender whom nobody reads, at most, in both its buffers."""

ATTACKER = """
import socket, sys, threading, time
port, seconds, reads = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "reads"
first, again = (bytes.fromhex(word) for word in sys.argv[4:6])
again *= max(1, 65536 // len(again))
peer = socket.create_connection(("127.0.0.1", port), timeout=1)
heard = 0
def listen():
    global heard
    while True:
        try:
            piece = peer.recv(1 << 20)
        except TimeoutError:
            continue
        except OSError:
            return
        if not piece:
            return
        heard += piece.count(b"HTTP/1.1 ")
if reads:
    threading.Thread(target=listen, daemon=True).start()
end, sent = time.monotonic() + seconds, 0
peer.sendall(first)
while time.monotonic() < end:
    try:
        sent += peer.send(again)
    except TimeoutError:
        pass
    except OSError:
        break  # it was parted from
print(sent, heard, flush=True)
"""


@pytest.fixture
def door(tmp_path) -> Iterator[doorway.Doorway]:
    with doorway.opened(tmp_path) as opened:
        yield opened


def slowest(port: int, seconds: float) -> tuple[float, int]:
    """Return the longest that a neighbour waited, connection included, and how often it was answered."""
    longest, answered, end = 0.0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as peer:
            peer.request("GET", "/ping")
            assert peer.getresponse().read() == b"inference"
        longest, answered = max(longest, time.monotonic() - began), answered + 1
        time.sleep(0.02)
    return longest, answered


def attack(port: int, reads: str, first: bytes, again: bytes) -> tuple[float, int, int, int]:
    """Return the neighbour's longest wait and its answers, the bytes that the attacker could send, and its answers."""
    words = [str(port), str(ATTACK), reads, first.hex(), again.hex()]
    with subprocess.Popen([sys.executable, "-c", ATTACKER, *words], stdout=subprocess.PIPE, text=True) as attacker:
        longest, answered = slowest(port, ATTACK)
        sent, heard = attacker.communicate(timeout=60)[0].split()
    return longest, answered, int(sent), int(heard)


@pytest.mark.parametrize("reads", ["reads", "does not read"])
@pytest.mark.parametrize("target", ["GET /nope", "GET /ping", "OPTIONS /", "DELETE /models/noop"])
def test_who_asks_without_end(door, target, reads):
    request = b"%b HTTP/1.1\r\nHost: x\r\n\r\n" % target.encode()
    longest, answered, sent, heard = attack(door.ports[Listener.INFERENCE], reads, b"", request)
    assert longest < PATIENT
    assert answered > 5
    assert sent - heard * len(request) < KERNEL
    assert (heard > 100) == (reads == "reads")


CHUNKED = b"%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("head", [b"POST /predictions/noop", b"GET /ping"])
@pytest.mark.parametrize("again", [b"1\r\nx\r\n", b"1;a=b\r\nx\r\n"])
def test_who_sends_crumbs(door, head, again):
    longest, answered, _, _ = attack(door.ports[Listener.INFERENCE], "reads", CHUNKED % head, again)
    assert longest < PATIENT
    assert answered > 5


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_body_of_many_chunks_arrives_whole(door, size):
    pieces = [bytes([number % 251]) * size for number in range(40_000 if size < 10 else 400)]
    spelt = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = door.say(CHUNKED % b"POST /predictions/noop" + spelt + ping)
    assert doorway.statuses(answers) == [200, 200]
    heard = door.heard()
    assert [request.body for request in heard] == [b"".join(pieces), b""]


def test_many_requests_at_once_are_answered_in_order(door):
    asked = [
        b"POST /predictions/m%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" % number for number in range(999)
    ]
    last = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert doorway.statuses(door.say(b"".join(asked) + last)) == [200] * 1000
    assert [request.line for request in door.heard()][:999] == [f"POST /predictions/m{number}" for number in range(999)]
