"""The heads of answers that are remembered: each says what it says when it is read anew."""

import pytest

from torchserve_guard.proxy.answer_head import ResponseReader

HEAD = b"HTTP/1.1 200 OK\r\nx-request-id: %b\r\ncontent-length: 5\r\nX-Mine: a"
OWN = b"0a9d6f4e-8c3b-4f1e-9b52-1d2c3b4a5f60"


@pytest.mark.parametrize(
    "head",
    [
        HEAD % OWN,
        HEAD % OWN[::-1],
        HEAD % b"short",
        HEAD % (OWN + b"more"),
        HEAD % b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-request-id: " + OWN,
        b"HTTP/1.1 200 OK\r\nx-request-id: %b\r\nx-request-id: %b\r\nX: y" % (OWN, OWN),
        b"HTTP/1.1 404 Not Found\r\nX: y",
    ],
)
def test_an_answer_says_the_same_however_often_its_head_was_read(head):
    reader = ResponseReader()
    said = [reader.read(head) for _ in range(3)]
    assert said[0] == said[1] == said[2] == ResponseReader()._read(head)
    assert not any(b"x-request-id" in line.lower() for line in said[0].passed)


@pytest.mark.parametrize(
    "own", [OWN[:17] + b"\r" + OWN[18:], OWN[:17] + b"\n" + OWN[18:], OWN + b"\r", OWN[:17] + b"\0" + OWN[18:]]
)
def test_an_id_that_is_none_hides_no_malformed_line(own):
    reader = ResponseReader()
    reader.read(HEAD % OWN)
    with pytest.raises(ValueError, match="malformed"):
        reader.read(HEAD % own)


def test_ids_that_differ_are_one_head_and_lengths_that_differ_are_two():
    reader = ResponseReader()
    for number in range(100):
        assert reader.read(HEAD % OWN.replace(b"0a9d", b"%04d" % number)).length == 5
    assert reader.read((HEAD % OWN).replace(b"5\r\nX", b"6\r\nX")).length == 6
    assert len(reader._heads) == 2


def test_nobodys_cookie_is_kept_and_what_is_kept_is_bounded():
    reader = ResponseReader()
    reader.read(HEAD % OWN + b"\r\nSet-Cookie: secret=1")
    reader.read(HEAD % OWN + b"\r\nX-Long: " + b"x" * 600)
    assert len(reader._heads) == 0
    for number in range(3000):
        reader.read(b"HTTP/1.1 200 OK\r\ncontent-length: %d" % number)
    assert len(reader._heads) == 1024
