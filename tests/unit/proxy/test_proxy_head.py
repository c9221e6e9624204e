"""The head: what it says, and llhttp as a second reader of all that is accepted."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torchserve_guard.errors import BadRequest, HeaderTooLarge, Refusal
from torchserve_guard.proxy.answer_head import ResponseReader
from torchserve_guard.proxy.head import Kept, RequestReader
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.wire import Listener

LIMITS = Limits()


def reader(listener: Listener = Listener.INFERENCE) -> RequestReader:
    return RequestReader(listener, LIMITS)


def head(*lines: bytes, start: bytes = b"GET /ping HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: x", *lines])


class Reading:
    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url, self.whole, self.keeps = b"", False, False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.whole = True
        self.keeps = self.parser.should_keep_alive()  # later it has forgotten


NAMES = st.sampled_from(
    [b"A", b"X-B", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Accept", b"transfer-encoding", b"A b", b""]
)
VALUES = st.lists(
    st.sampled_from(
        [b"1", b"chunked", b"close", b"keep-alive", b",", b" ", b"\t", b"\x0b", b"\0", b"\r", b"\n", b"\xff", b"+"]
    ),
    max_size=4,
).map(b"".join)
LINES = st.lists(st.tuples(NAMES, st.sampled_from([b":", b": ", b" :", b":\t", b""]), VALUES).map(b"".join), max_size=5)
STARTS = st.sampled_from(
    [b"GET /a HTTP/1.1", b"POST /a HTTP/1.1", b"GET /a HTTP/1.0", b"GET  /a HTTP/1.1", b"GET /a HTTP/1.2"]
)


@given(STARTS, LINES)
@example(b"POST /a HTTP/1.1", [b"Transfer-Encoding: chunked"])
@example(b"POST /a HTTP/1.1", [b"A: b", b"Content-Length: 1"])
@example(b"GET /a HTTP/1.1", [b"Transfer-Encoding:chunked\t"])
def test_what_is_accepted_llhttp_reads_the_same(start, lines):
    raw = head(*lines, start=start)
    if b"\r\n\r\n" in raw:
        return
    try:
        request = reader().read(raw)
    except Refusal:
        return
    reading = Reading()
    try:
        reading.parser.feed_data(raw + b"\r\n\r\n")
    except httptools.HttpParserError:
        pytest.fail(f"accepted, and refused by llhttp: {raw!r}")
    said = {name.lower(): value.strip() for name, value in reading.headers}
    assert (reading.url, reading.whole) == (request.target, True)
    assert request.chunked == (b"transfer-encoding" in said)
    assert request.length == (int(said[b"content-length"]) if b"content-length" in said else None)
    assert reading.keeps or request.keep_alive is False
    assert [line.partition(b": ")[0] for line in request.passed] == [
        name for name, _ in reading.headers if name in {b"A", b"X-B", b"Accept"}
    ]


def test_a_line_read_again_means_the_same():
    again = reader()
    raw = head(b"A: b", b"Content-Length: 3", b"Authorization: Bearer k", b"X-Request-Id: r", b"Expect: 100-continue")
    first = again.read(raw)
    assert again.read(raw) == first
    assert (first.length, first.authorization, first.request_id, first.expects) == (3, b"Bearer k", b"r", True)
    assert first.passed == [b"A: b\r\n"]


def test_no_secret_is_kept():
    again = reader()
    again.read(head(b"Authorization: Bearer secret", b"Cookie: secret", b"Proxy-Authorization: secret"))
    assert not [line for line in again._lines._entries if b"secret" in line]


def test_what_is_kept_is_bounded():
    kept: Kept[int, int] = Kept(10)
    for number in range(100):
        kept.keep(number, number)
    assert (len(kept), kept.get(99), kept.get(0)) == (10, 99, None)


@pytest.mark.parametrize(
    ("beginning", "error"),
    [
        (b"G", None),
        (b"GET /pi", None),
        (b"GET /ping HTTP/1.1\r", None),
        (b"GET /ping HTTP/1.1\r\nHos", None),
        (b"\x16\x03\x01", BadRequest),
        (b"\r\n", BadRequest),
        (b"GET /\r\n", BadRequest),
        (b"GET / FTP", BadRequest),
        (b"GET /ping HTTP/1.1\r\nHost: x\n", BadRequest),
        (b"GET /" + b"a" * 5000, HeaderTooLarge),
        (b"GET /ping HTTP/1.1\r\n" + b"A: b\r\n" * 5000, HeaderTooLarge),
    ],
)
def test_a_beginning_that_cannot_become_a_head_is_refused_at_once(beginning, error):
    if error is None:
        reader().verify_beginning(beginning)
    else:
        with pytest.raises(error):
            reader().verify_beginning(beginning)


def test_elsewhere_than_on_inference_few_headers_pass():
    raw = head(b"X-Mine: 1", b"Accept: */*", b"User-Agent: /token")
    assert reader(Listener.MANAGEMENT).read(raw).passed == [b"Accept: */*\r\n"]
    assert len(reader().read(raw).passed) == 3


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
        [b"Content-Length: +1"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"A : b"],
        [b"A: b\nC: d"],
        [b" folded"],
    ],
)
def test_an_answer_in_doubt_is_none(lines):
    with pytest.raises(ValueError, match=r"."):
        ResponseReader().read(b"\r\n".join([b"HTTP/1.1 200 OK", *lines]))


@pytest.mark.parametrize(
    "lines",
    [
        [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"],
        [b"Connection: Upgrade", b"Upgrade: TLS/1.2"],
        [b"Connection: upgrade", b"Upgrade: , H2C ,"],
        [b"Upgrade: "],
    ],
)
@pytest.mark.parametrize("listener", list(Listener))
def test_an_offer_of_another_protocol_is_dropped_whatever_framed_the_request(lines, listener):
    request = reader(listener).read(head(*lines, b"Content-Length: 3", start=b"POST /a HTTP/1.1"))
    assert (request.passed, request.length, request.chunked, request.keep_alive) == ([], 3, False, True)
    with pytest.raises(BadRequest):
        reader(listener).read(head(*lines, b"Content-Length: 3", b"Transfer-Encoding: chunked"))


@pytest.mark.parametrize("offer", [b"websocket", b"h2c, websocket", b"h2", b"h2c/1", b"h2c;q=1", b"TLS/1", b"CONNECT"])
def test_an_offer_that_a_client_lives_by_is_refused(offer):
    with pytest.raises(BadRequest) as caught:
        reader().read(head(b"Connection: Upgrade", b"Upgrade: " + offer))
    assert caught.value.rule == "proxy.upgrade"


@pytest.mark.parametrize("options", [b"Upgrade, X-Mine", b"Host", b"upgrade, authorization", b"http2-settings, host"])
def test_an_option_that_names_an_end_to_end_header_is_still_refused(options):
    with pytest.raises(BadRequest):
        reader().read(head(b"Connection: " + options))


@pytest.mark.parametrize("options", [b"close, upgrade", b"Upgrade, HTTP2-Settings, close"])
def test_a_connection_that_closes_closes_beside_an_offer_too(options):
    assert reader().read(head(b"Connection: " + options, b"Upgrade: h2c")).keep_alive is False
