"""Messages, however they are cut up and packed, and the statuses that calls end with."""

import gzip
import zlib
from urllib.parse import unquote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.errors import BadRequest, Forbidden, TooLarge, Unauthenticated
from torchserve_guard.wire.grpc.message import MessageReader, UnknownEncoding, framed
from torchserve_guard.wire.grpc.status import CODES, HTTP_OF, NAMES, printed, refusal_status

PACKERS = {b"gzip": gzip.compress, b"deflate": zlib.compress}


def packed(content: bytes) -> bytes:
    return b"\1" + len(content).to_bytes(4) + content


@given(st.lists(st.binary(max_size=200), max_size=8), st.lists(st.integers(1, 40), min_size=1))
def test_messages_are_the_same_however_they_are_cut(said, sizes):
    stream = b"".join(map(framed, said))
    reader, read, position = MessageReader(200, b"identity"), [], 0
    while position < len(stream):
        for size in sizes:
            read += reader.feed(stream[position : position + size])
            position += size
    assert read == said
    assert not reader.partial
    assert reader.held == 0


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_what_is_packed_is_unpacked(encoding):
    reader = MessageReader(1000, encoding)
    assert reader.feed(packed(PACKERS[encoding](b"x" * 1000)) + framed(b"plain")) == [b"x" * 1000, b"plain"]


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_is_refused_before_it_is_unpacked(encoding):
    with pytest.raises(TooLarge):
        MessageReader(1000, encoding).feed(packed(PACKERS[encoding](bytes(50_000_000))))
    with pytest.raises(TooLarge):
        MessageReader(1000, encoding).feed(packed(PACKERS[encoding](bytes(1001))))


def test_a_length_is_believed_to_be_too_large_before_the_message_comes():
    with pytest.raises(TooLarge):
        MessageReader(10, b"identity").feed(b"\0\0\0\0\x0b")
    assert MessageReader(None, b"identity").feed(b"\0\x7f\xff\xff\xff") == []
    with pytest.raises(TooLarge):
        MessageReader(None, b"identity").feed(b"\0\x80\0\0\0")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        (b"identity", packed(b"x")),
        (b"gzip", b"\2\0\0\0\1x"),
        (b"gzip", packed(b"not gzip")),
        (b"gzip", packed(gzip.compress(b"x", mtime=0)[:-1])),
        (b"gzip", packed(gzip.compress(b"x", mtime=0) + b"more")),
        (b"deflate", packed(gzip.compress(b"x", mtime=0))),
    ],
)
def test_what_cannot_be_unpacked_without_doubt_is_refused(encoding, said):
    with pytest.raises(BadRequest):
        MessageReader(1000, encoding).feed(said)


def test_an_encoding_that_is_not_known_is_unimplemented():
    with pytest.raises(UnknownEncoding) as caught:
        MessageReader(10, b"snappy")
    assert refusal_status(caught.value)[0] == CODES["UNIMPLEMENTED"]


def test_the_codes_are_grpcs_own():
    assert {name: code.value[0] for name, code in grpc.StatusCode.__members__.items()} == dict(CODES)
    assert len(HTTP_OF) == len(NAMES)
    assert (HTTP_OF[0], HTTP_OF[CODES["NOT_FOUND"]], HTTP_OF[CODES["UNAVAILABLE"]]) == (200, 404, 503)


def test_a_refusal_is_told_as_stock_tells_it():
    assert refusal_status(Forbidden("No.")) == (CODES["PERMISSION_DENIED"], "No.")
    code, details = refusal_status(Unauthenticated("A key."))
    assert (code, details[:27]) == (CODES["UNAUTHENTICATED"], "Token Authorization failed.")


@given(st.text())
def test_details_are_printable_and_come_back(details):
    said = printed(details)
    assert all(0x20 <= byte < 0x7F for byte in said)
    assert unquote(said.decode()) == details
