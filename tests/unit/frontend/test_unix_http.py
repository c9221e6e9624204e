"""One request over a unix socket, against peers that behave and peers that do not."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from torchserve_guard.unix_http import Response, request

Answer = Callable[[Callable[[bytes], None]], None]


def whole_request(peer: socket.socket) -> bytes:
    text = b""
    while b"\r\n\r\n" not in text or (b"Content-Length: 3" in text and not text.endswith(b"\r\n\r\nxyz")):
        more = peer.recv(65536)
        if not more:
            break
        text += more
    return text


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], tuple[Path, list[bytes]]]]:
    """Start a peer that reads one request and answers by hand; return its path and what it read."""
    threads: list[threading.Thread] = []
    with tempfile.TemporaryDirectory(prefix="tsg", dir="/tmp") as directory:

        def start(answer: Answer) -> tuple[Path, list[bytes]]:
            path, read = Path(directory) / "s.sock", []
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(0.5)

            def work() -> None:
                with listener, suppress(OSError):
                    peer, _ = listener.accept()
                    with peer:
                        read.append(whole_request(peer))
                        answer(peer.sendall)

            threads.append(threading.Thread(target=work, daemon=True))
            threads[-1].start()
            return path, read

        yield start
        for thread in threads:
            thread.join(5)


def test_an_answer_is_returned_whole(serve):
    path, read = serve(lambda send: send(b"HTTP/1.1 201 x\r\nContent-Length: 5\r\n\r\nhello"))
    assert request(path, "POST", "/a?b=c", {"X-A": "1"}, 5, body=b"xyz") == Response(201, b"hello")
    assert read[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert b"X-A: 1\r\n" in read[0]
    assert read[0].endswith(b"\r\n\r\nxyz")


def test_a_chunked_answer_is_returned_whole(serve):
    path, _ = serve(
        lambda send: send(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    )
    assert request(path, "GET", "/", {}, 5) == Response(200, b"abc")


def test_more_than_the_limit_is_an_error(serve):
    path, _ = serve(lambda send: send(b"HTTP/1.1 200 x\r\nContent-Length: 11\r\n\r\nhello world"))
    with pytest.raises(OSError, match="more than 10 bytes"):
        request(path, "GET", "/", {}, 5, limit=10)


def test_an_answer_that_stops_in_the_middle_is_an_error(serve):
    path, _ = serve(lambda send: send(b"HTTP/1.1 200 x\r\nContent-Length: 11\r\n\r\nhello"))
    with pytest.raises(OSError, match="middle"):
        request(path, "GET", "/", {}, 5)


def test_an_answer_that_comes_too_slowly_is_an_error(serve):
    def drip(send: Callable[[bytes], None]) -> None:
        send(b"HTTP/1.1 200 x\r\nContent-Length: 100\r\n\r\n")
        for _ in range(40):
            send(b"x")
            time.sleep(0.05)

    path, _ = serve(drip)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        request(path, "GET", "/", {}, 0.4)
    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize(
    "text", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 x\r\n" + b"a: b\r\n" * 200]
)
def test_what_is_not_http_is_an_error(serve, text):
    path, _ = serve(lambda send: send(text))
    with pytest.raises(OSError, match=r"did not answer in HTTP|reset"):
        request(path, "GET", "/", {}, 5)


def test_silence_is_an_error(serve):
    path, _ = serve(lambda _: time.sleep(0.6))
    with pytest.raises(TimeoutError):
        request(path, "GET", "/", {}, 0.2)


@pytest.mark.parametrize("path", ["/nonexistent/x.sock", "/" + "x" * 200])
def test_nobody_there_is_an_error(path):
    with pytest.raises(OSError, match=r"No such file|too long"):
        request(Path(path), "GET", "/", {}, 1)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/\0"])
def test_a_target_that_would_be_another_request_is_not_sent(serve, target):
    path, read = serve(lambda send: send(b"HTTP/1.1 200 x\r\n\r\n"))
    with pytest.raises(OSError, match="URL can't contain control characters"):
        request(path, "GET", target, {}, 1)
    assert all(not sent for sent in read)
