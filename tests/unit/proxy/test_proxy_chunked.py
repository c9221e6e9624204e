"""The chunked coding: laws, and llhttp as a second reader."""

from __future__ import annotations

import contextlib

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torchserve_guard.proxy.chunked import LAST_CHUNK, ChunkDecoder, chunk

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def decode(raw: bytes, cuts: list[int]) -> tuple[bytes, ChunkDecoder]:
    decoder, payload, at = ChunkDecoder(), b"", 0
    for cut in [*sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]:
        if cut > at and not decoder.done:
            payload += decoder.feed(raw[at:cut])
            at = cut
    decoder.rest += raw[at:]
    return payload, decoder


@given(st.lists(st.binary(min_size=1, max_size=300)), st.binary(max_size=20), st.lists(st.integers(0, 5000)))
def test_what_was_chunked_is_decoded_wherever_it_is_cut(pieces, behind, cuts):
    raw = b"".join(part for piece in pieces for part in chunk(piece)) + LAST_CHUNK + behind
    payload, decoder = decode(raw, cuts)
    assert (payload, decoder.done, decoder.rest) == (b"".join(pieces), True, behind)


@given(st.lists(st.binary(min_size=1, max_size=300)), st.integers(0, 400), st.lists(st.integers(0, 5000)))
def test_each_chunk_that_is_not_too_long_is_one_piece_wherever_it_is_cut(chunks, whole, cuts):
    raw = b"".join(part for one in chunks for part in chunk(one)) + LAST_CHUNK
    decoder, pieces, at = ChunkDecoder(whole), [], 0
    for cut in [*sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]:
        pieces += decoder.pieces(raw[at:cut])
        at = cut
    assert (b"".join(pieces), decoder.done, decoder.rest) == (b"".join(chunks), True, b"")
    assert all(pieces)
    if whole >= max(map(len, chunks), default=0):
        assert pieces == chunks


@pytest.mark.parametrize("size", [1, 16383, 16384, 300_000])
def test_a_long_payload_is_a_chunk_as_a_short_one_is_and_is_not_copied(size):
    payload = b"x" * size
    parts = chunk(payload)
    assert b"".join(parts) == b"%x\r\n%b\r\n" % (size, payload)
    assert size < 16384 or any(part is payload for part in parts)


class Body:
    def __init__(self) -> None:
        self.body, self.whole = b"", False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


PARTS = st.lists(
    st.sampled_from(
        [
            b"1",
            b"2",
            b"a",
            b"0",
            b"+",
            b" ",
            b"\t",
            b";",
            b"x=y",
            b'"',
            b"\r\n",
            b"\r",
            b"\n",
            b"\0",
            b"A: b",
            b"ab",
            b"0x",
        ]
    ),
    max_size=14,
).map(b"".join)


@given(PARTS)
@example(b"1;a\r\nb\r\n0\r\n\r\n")
@example(b"1\r\nb\r\n0\r\nA: b\r\n\r\n")
def test_what_is_accepted_llhttp_reads_the_same(raw):
    try:
        payload, decoder = decode(raw, [])
    except ValueError:
        return
    if decoder.done:
        body = Body()
        with contextlib.suppress(httptools.HttpParserError):  # what stands behind it is not its matter
            httptools.HttpRequestParser(body).feed_data(HEAD + raw[: len(raw) - len(decoder.rest)])
        assert (body.body, body.whole) == (payload, True)


@given(PARTS, st.lists(st.integers(0, 100)))
def test_an_accepted_body_is_accepted_wherever_it_is_cut(raw, cuts):
    try:
        payload, decoder = decode(raw, [])
    except ValueError:
        return
    if decoder.done:
        again, other = decode(raw, cuts)
        assert (again, other.done, other.rest) == (payload, True, decoder.rest)


@pytest.mark.parametrize("raw", [b"1" * 2000, b"1;" + b"a" * 2000, b"0\r\n" + b"A: b\r\n" * 2000, b"ff\r", b"\n"])
def test_memory_for_what_is_not_payload_is_bounded(raw):
    decoder = ChunkDecoder()
    with contextlib.suppress(ValueError):
        for at in range(len(raw)):
            decoder.feed(raw[at : at + 1])
    assert len(decoder._held) <= 1025
