"""The head: what it says, and llhttp as a second reader of all that is accepted."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchserve_guard.errors import BadRequest, HeaderTooLarge, Refusal
from torchserve_guard.proxy.answer_head import ResponseReader
from torchserve_guard.proxy.head import Kept, RequestReader
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.wire import Listener, parse_request_head
from torchserve_guard.wire.headers import HOP_BY_HOP

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


@pytest.mark.parametrize("option", sorted(HOP_BY_HOP))
@pytest.mark.parametrize("listener", list(Listener))
def test_an_option_that_names_what_is_dropped_in_any_case_is_taken(option, listener):
    value = {b"upgrade": b"h2c"}.get(option, b"1")
    request = reader(listener).read(head(b"Connection: Keep-Alive, " + option, option + b": " + value))
    assert (request.passed, request.keep_alive) == ([], True)


def test_transfer_encoding_is_no_option_for_what_frames_is_never_named_away():
    with pytest.raises(BadRequest):
        reader().read(head(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked"))


@pytest.mark.parametrize("options", [b"close, upgrade", b"Upgrade, HTTP2-Settings, close"])
def test_a_connection_that_closes_closes_beside_an_offer_too(options):
    assert reader().read(head(b"Connection: " + options, b"Upgrade: h2c")).keep_alive is False


# --- the other reader: `wire`, which has all fields at once ----------------------------------------------------------

SAID: dict[bytes, list[bytes]] = {
    b"Host": [b"x", b"y"],
    b"Content-Length": [b"1", b"3"],
    b"Transfer-Encoding": [b"chunked"],
    b"Content-Type": [b"text/plain", b"application/json", b""],
    b"Authorization": [b"Bearer a", b""],
    b"X-Request-Id": [b"a", b"b", b"no/ne", b""],
    b"Expect": [b"100-continue", b"100-Continue", b"200-ok"],
    b"Origin": [b"http://a", b"null"],
    b"Connection": [b"close", b"keep-alive"],
    b"Cookie": [b"a=1", b"b=2"],
    b"Accept": [b"*/*"],
    b"X-Any": [b"1", b""],
    b"Remote-User": [b"root"],
}
ONE = st.sampled_from(sorted(SAID)).flatmap(
    lambda name: st.tuples(st.sampled_from([name, name.lower()]), st.sampled_from(SAID[name]))
)


def twice(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Host", b"x"), (name, value), (name.lower(), value)]


@settings(deadline=None)
@given(st.sampled_from(Listener), st.sampled_from([0, 1]), st.lists(ONE, max_size=6))
@example(Listener.INFERENCE, 1, twice(b"X-Request-Id", b"a"))
@example(Listener.INFERENCE, 1, [*twice(b"X-Request-Id", b"a"), (b"X-Request-Id", b"c")])
@example(Listener.INFERENCE, 1, [(b"Host", b"x"), (b"X-Request-Id", b"no/ne"), (b"X-Request-Id", b"b")])
@example(Listener.INFERENCE, 1, twice(b"Expect", b"100-continue"))
@example(Listener.INFERENCE, 0, twice(b"Expect", b"100-continue"))
@example(Listener.MANAGEMENT, 1, twice(b"Origin", b"http://a"))
@example(Listener.MANAGEMENT, 1, twice(b"Content-Type", b"application/json"))
@example(Listener.INFERENCE, 1, twice(b"Content-Type", b""))
@example(Listener.INFERENCE, 1, twice(b"Authorization", b""))
@example(Listener.INFERENCE, 0, [(b"Host", b"x"), (b"Host", b"x")])
def test_wire_refuses_the_same_fields_and_says_the_same_of_the_others(listener, minor, fields):
    raw = b"\r\n".join([b"POST /a HTTP/1.%d" % minor, *(b"%b: %b" % field for field in fields)])
    try:
        said = parse_request_head(listener, fields, f"1.{minor}")
    except BadRequest:
        with pytest.raises(Refusal):
            reader(listener).read(raw)
        return
    request = reader(listener).read(raw)
    passed = [tuple(line.removesuffix(b"\r\n").split(b": ", 1)) for line in request.passed]
    assert [(name.lower(), value) for name, value in passed] == [(name.lower(), value) for name, value in said.passing]
    assert (request.host, request.authorization, request.content_type) == (
        said.host,
        said.authorization,
        said.content_type,
    )
    assert (request.request_id, request.length, request.chunked) == (said.request_id, said.length, said.chunked)
    assert request.expects == (said.continues and minor == 1)
    if listener is not Listener.INFERENCE:  # there it passes, and says nothing
        assert request.from_page == (said.origin is not None)


@pytest.mark.parametrize("values", [[b"a", b"b"], [b"a", b"a"], [b"a", b"b", b"c"], [b"no/ne", b"b"], [b"a", b"no/ne"]])
def test_a_request_id_that_is_given_more_than_once_is_none(values):
    again = reader()
    for _ in range(2):
        assert again.read(head(*(b"X-Request-Id: " + value for value in values))).request_id is None


@pytest.mark.parametrize("start", [b"POST /a HTTP/1.1", b"POST /a HTTP/1.0"])
def test_an_expectation_that_is_given_more_than_once_is_refused(start):
    with pytest.raises(BadRequest) as caught:
        reader().read(head(b"Expect: 100-continue", b"expect: 100-continue", start=start))
    assert caught.value.rule == "proxy.duplicate"
