"""What is believed of a call's head, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.wire.grpc.metadata import (
    NotACall,
    parse_answer_head,
    parse_call_head,
    rendered_timeout,
)

HEAD = {
    b":method": b"POST",
    b":scheme": b"http",
    b":path": b"/service/Method",
    b":authority": b"x",
    b"te": b"trailers",
    b"content-type": b"application/grpc",
}
TRACE = b"0af7651916cd43dd8448eb211c80319c"


def parsed(*more: tuple[bytes, bytes], largest: int = 16_384, **replaced: bytes | None):
    head = {**HEAD, **{f":{name}".encode(): value for name, value in replaced.items()}}
    return parse_call_head((*((name, value) for name, value in head.items() if value is not None), *more), largest)


def test_of_a_clients_metadata_only_credential_request_id_time_and_trace_are_read():
    read = parsed(
        (b"authorization", b"Bearer k"),
        (b"authorization-bin", b"x"),
        (b"x-request-id", b"night-1"),
        (b"explain", b"True"),
        (b"grpc-timeout", b"1500m"),
        (b"grpc-encoding", b"gzip"),
        (b"traceparent", b"00-" + TRACE + b"-b7ad6b7169203331-01"),
        (b"origin", b"http://page"),
    )
    assert (read.refusal, read.path, read.authorization) == (None, "/service/Method", b"Bearer k")
    assert (read.request_id, read.timeout, read.encoding) == (b"night-1", 1.5, b"gzip")
    assert (read.trace, read.from_page) == (TRACE, True)


def test_a_request_id_that_is_odd_or_repeated_is_none_and_so_is_a_trace():
    assert parsed((b"x-request-id", b"a b")).request_id is None
    assert parsed((b"x-request-id", b"a"), (b"x-request-id", b"b")).request_id is None
    assert parsed((b"traceparent", b"00-nonsense")).trace == b""
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert parsed((b"traceparent", parent)).trace == parent[3:35]
    assert parsed((b"traceparent", parent), (b"traceparent", parent)).trace == b""
    plain = parsed()
    assert (plain.refusal, plain.authorization, plain.timeout, plain.from_page) == (None, None, None, False)


@pytest.mark.parametrize(
    ("more", "replaced"),
    [
        ([(b"authorization", b"Bearer k"), (b"authorization", b"Bearer k")], {}),
        ([(b"te", b"trailers")], {}),
        ([(b"content-type", b"application/grpc")], {}),
        ([(b"grpc-timeout", b"1S"), (b"grpc-timeout", b"1S")], {}),
        ([(b"grpc-timeout", b"1x")], {}),
        ([(b"grpc-timeout", b"-1S")], {}),
        ([(b"grpc-timeout", b"123456789S")], {}),
        ([(b"grpc-timeout", b"")], {}),
        ([(b"transfer-encoding", b"chunked")], {}),
        ([(b"connection", b"close")], {}),
        ([(b"upgrade", b"h2c")], {}),
        ([(b"X", b"y")], {}),
        ([(b"", b"y")], {}),
        ([(b"a b", b"y")], {}),
        ([(b"a\r\nb", b"y")], {}),
        ([(b"a", b"y\r\nz: 1")], {}),
        ([(b"a", b"\0")], {}),
        ([(b"a", b"\xff")], {}),
        ([(b":path", b"/service/Other")], {}),
        ([(b":status", b"200")], {}),
        ([(b":protocol", b"websocket")], {}),
        ([], {"path": None}),
        ([], {"scheme": None}),
        ([], {"method": None}),
        ([], {"path": b""}),
        ([], {"path": b"*"}),
        ([], {"path": b"service/Method"}),
        ([], {"path": b"/service/ Method"}),
        ([], {"path": b"/\xc3\xa4"}),
        ([], {"scheme": b"file"}),
    ],
    ids=str,
)
def test_what_is_repeated_malformed_or_of_another_protocol_is_refused(more, replaced):
    refusal = parsed(*more, **replaced).refusal
    assert refusal is not None
    assert (refusal.status, refusal.rule) == (400, "wire.metadata")


def test_what_asks_with_a_credential_given_twice_asks_with_none():
    assert parsed((b"authorization", b"Bearer k"), (b"authorization", b"Bearer l")).authorization is None


def test_trailers_must_be_taken_and_what_is_not_grpc_is_told_so_in_http():
    for name, status in ((b"te", 400), (b"content-type", 415), (b":method", 405)):
        for value in (b"GET", None):
            head = tuple((one, value if one == name else kept) for one, kept in HEAD.items() if one != name or value)
            refusal = parse_call_head(head, 16_384).refusal
            assert refusal is not None
            if value is not None:
                assert refusal.status == status
            assert isinstance(refusal, NotACall) or status == 400 or value is None
    for content in (b"application/json", b"application/grpc-web", b"application/grpc+json", b"application/grpcx", b""):
        head = tuple((one, content if one == b"content-type" else kept) for one, kept in HEAD.items())
        assert isinstance(parse_call_head(head, 16_384).refusal, NotACall)
    for content in (b"application/grpc+proto", b"application/grpc;charset=utf-8"):
        head = tuple((one, content if one == b"content-type" else kept) for one, kept in HEAD.items())
        assert parse_call_head(head, 16_384).refusal is None


def test_a_pseudo_header_field_behind_others_is_refused():
    fields = tuple(HEAD.items())
    assert parse_call_head((*fields[1:], fields[0]), 16_384).refusal is not None


def test_metadata_that_is_too_large_is_refused():
    assert parsed((b"a", bytes(1000).replace(b"\0", b"x")), largest=1200).refusal.status == 431
    assert parsed(*((b"a%d" % at, b"") for at in range(101))).refusal.status == 431


@given(st.floats(0, 1e12))
def test_a_time_goes_on_as_at_most_what_it_was(seconds):
    said = rendered_timeout(seconds)
    assert len(said) <= 9
    again = parsed((b"grpc-timeout", said)).timeout
    assert again is not None
    assert again <= seconds * (1 + 1e-12)
    assert again >= min(seconds, 99_999_999) * 0.999 - 1e-6


def test_what_frames_a_call_does_not_come_back_as_metadata():
    told = parse_answer_head(
        (
            (b":status", b"200"),
            (b"content-type", b"application/grpc"),
            (b"grpc-status", b"9"),
            (b"grpc-message", b"no%20way"),
            (b"grpc-status-details-bin", b"CAk"),
            (b"grpc-encoding", b"identity"),
            (b"x-request-id", b"theirs"),
            (b"detail-bin", b"AQ"),
            (b"a", b"b"),
        )
    )
    assert (told.is_grpc, told.code, told.details) == (True, 9, b"no%20way")
    assert told.trailing == ((b"grpc-status-details-bin", b"CAk"), (b"detail-bin", b"AQ"), (b"a", b"b"))


@pytest.mark.parametrize("status", [b"", b"17", b"-1", b"0x1", b"00", b"99999999999999999999"])
def test_a_code_that_is_none_is_none(status):
    assert parse_answer_head(((b"grpc-status", status),)).code is None


def test_an_answer_that_is_not_grpc_is_known():
    assert not parse_answer_head(((b":status", b"502"), (b"content-type", b"text/html"))).is_grpc
    assert not parse_answer_head(((b":status", b"200"), (b"content-type", b"text/html"))).is_grpc


@pytest.mark.parametrize(
    "field",
    [
        (b"grpc-message", b"no\r\nset-cookie: a=b"),
        (b"x-more", b"\x00"),
        (b"x-more", b"a\nb"),
        (b"x-more\r\nset-cookie", b"a"),
        (b"X-More", b"a"),
        (b"", b"a"),
        (b":path", b"/"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
    ],
)
def test_an_answer_with_what_would_be_another_field_or_frame_elsewhere_does_not_go_on(field):
    """Where a client's proxy speaks HTTP/1 to it, an end of line in a field would begin another."""
    assert not parse_answer_head(((b"grpc-status", b"3"), field)).is_grpc


def test_details_that_are_not_ascii_go_on_as_they_came():
    told = parse_answer_head(((b"grpc-status", b"3"), (b"grpc-message", "Modell %C3%BC \u00fc".encode())))
    assert told.is_grpc
    assert told.details == "Modell %C3%BC \u00fc".encode()


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"12", 12), (b"", None), (b"+1", None), (b"1, 1", None)])
def test_a_length_is_digits(value, length):
    fields = parsed((b"content-length", value))
    assert fields.length == length
    assert (fields.refusal is None) == (length is not None)
