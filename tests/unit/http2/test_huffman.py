"""The Huffman code, held against a library's, and against what no encoder writes."""

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.http2.huffman import decode

PEER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.binary(max_size=300))
def test_what_a_library_encodes_is_read_back(text):
    assert decode(PEER.encode(text)) == text


@given(st.binary(max_size=40))
def test_what_is_read_is_what_its_text_is_encoded_as_or_it_is_refused(coded):
    """There is one encoding of each text: nothing can be said in a second way, past somebody who compares bytes."""
    try:
        text = decode(coded)
    except ValueError:
        return
    assert PEER.encode(text) == coded


def test_the_example_of_the_rfc():
    assert decode(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == b"www.example.com"
    assert decode(b"") == b""


@pytest.mark.parametrize("coded", ["ff", "ffff", "ffffffff", "fffffffc", "f1e3c2e5f23a6ba0ab90f4ffff", "00", "1e"])
def test_wrong_padding_and_an_end_within_are_refused(coded):
    with pytest.raises(ValueError, match=r"padded|within"):
        decode(bytes.fromhex(coded))
