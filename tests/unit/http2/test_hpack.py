"""Header blocks: the RFC's examples, a library as the second reader, and what is not a block."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.http2 import Broken, Code, encoded
from torchserve_guard.http2.hpack import Decoder

FIRST = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com"))
NAMES = st.sampled_from([b":path", b"te", b"x", b"grpc-timeout", b"authorization"]) | st.binary(min_size=1, max_size=20)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=12)


def test_the_examples_of_the_rfc_one_after_the_other():
    """RFC 7541, C.4: three requests on one connection, Huffman-coded."""
    decoder = Decoder(1 << 16)
    assert decoder.decode(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")) == FIRST
    assert decoder.changed
    second = decoder.decode(bytes.fromhex("828684be5886a8eb10649cbf"))
    assert second == (*FIRST, (b"cache-control", b"no-cache"))
    third = decoder.decode(bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"))
    assert third[1:] == ((b":scheme", b"https"), (b":path", b"/index.html"), FIRST[3], (b"custom-key", b"custom-value"))
    again = decoder.decode(bytes.fromhex("828785bf"))
    assert not decoder.changed
    assert again[3] == (b"cache-control", b"no-cache")


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([None, 0, 100, 4096])), max_size=6))
def test_what_a_library_writes_is_read_as_it_was_meant(blocks):
    peer, decoder = hpack.Encoder(), Decoder(1 << 20)
    for fields, huffman, size in blocks:
        if size is not None:
            peer.header_table_size = size
        assert decoder.decode(peer.encode(fields, huffman=huffman)) == tuple(fields)


@given(FIELDS, st.booleans())
def test_what_is_written_is_read_by_a_library_and_changes_no_table(fields, secret):
    block = encoded(fields, secret=secret)
    decoder = Decoder(1 << 20)
    assert decoder.decode(block) == tuple(fields)
    assert not decoder.changed
    peer = hpack.Decoder()
    peer.max_header_list_size = 1 << 20
    read = peer.decode(block, raw=True)
    assert [tuple(field) for field in read] == fields
    assert all(isinstance(field, hpack.NeverIndexedHeaderTuple) for field in read) or not secret


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_bytes_of_any_kind_are_read_as_a_library_does_or_refused(blocks):
    decoder, peer = Decoder(1 << 16), hpack.Decoder()
    for block in blocks:
        try:
            fields = decoder.decode(block)
        except Broken:
            return
        assert tuple(tuple(map(bytes, field)) for field in peer.decode(block, raw=True)) == fields


@pytest.mark.parametrize(
    "block",
    [
        "80",  # no field 0
        "be",  # a field of a table that is empty
        "ff",  # a number that does not end
        "ffffffffffffff7f",
        "7f8080808080808000",
        "40",
        "4003616263",
        "400a61",
        "820020",  # cut off
        "8220",  # a change of size behind a field
        "202020",  # more changes of size than there is to say: a byte that costs more than it carries
        "3fe2ff03",  # a table larger than was agreed
        "4081ff00",  # padding that is a whole byte
    ],
)
def test_what_is_no_block_ends_the_connection(block):
    with pytest.raises(Broken) as caught:
        Decoder(1 << 16).decode(bytes.fromhex(block))
    assert caught.value.code is Code.COMPRESSION


def test_a_bomb_is_found_before_it_is_large():
    """A field of 4000 bytes in the table, and then a byte for each time that it is named."""
    decoder = Decoder(1 << 16)
    decoder.decode(b"\x40\x01a\x7f\xa1\x1e" + bytes(4000))
    with pytest.raises(Broken) as caught:
        decoder.decode(b"\xbe" * 10_000)
    assert caught.value.code is Code.CALM


def test_the_table_holds_no_more_than_was_agreed():
    decoder = Decoder(1 << 20)
    for number in range(300):
        decoder.decode(b"\x40\x02%02d\x64" % (number % 100) + bytes(100))
    assert sum(len(name) + len(value) + 32 for name, value in decoder._table) <= 4096
    decoder.decode(b"\x20")
    assert decoder._table == []
