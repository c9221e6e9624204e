"""The answer's head: what TorchServe says before the body of an answer, one way or not at all.

As strict as the head of a request: TorchServe writes it, but a handler has its say in it. A head that was read before
is a dictionary look-up.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from torchserve_guard.errors import UpstreamFailed
from torchserve_guard.proxy.head import (
    CHUNKED,
    CLOSE,
    DROPPED,
    FIELD,
    LENGTH,
    LONGEST_KEPT,
    MOST_KEPT,
    NOT_WORTH_KEEPING,
    PASS,
    Kept,
    Read,
)
from torchserve_guard.wire import parse_answer_head

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t \x21-\x7e\x80-\xff]*))?")
_new = tuple.__new__

_OWN_ID = b"\r\nx-request-id: "
_ID_LENGTH = 36


def _without_id(head: bytes, at: int) -> bytes:
    """Leave out the id that TorchServe gives each answer, which is dropped: then one answer's head is as another's."""
    value = at + len(_OWN_ID)
    end = value + _ID_LENGTH
    plain = head[value:end].replace(b"-", b"").isalnum() and head[end : end + 2] in {b"\r\n", b""}
    return head[:at] + head[end:] if plain else head


class ResponseHead(NamedTuple):
    """An answer before its body. `start` is the status line to send on, `passed` whole lines for the client."""

    status: int
    start: bytes
    keep_alive: bool
    length: int | None
    chunked: bool
    passed: list[bytes]


class ResponseReader:
    """Reads the heads that TorchServe answers with. `ValueError` when one has two framings, or is no head."""

    def __init__(self) -> None:
        self._heads: Kept[bytes, ResponseHead] = Kept(MOST_KEPT)
        self._starts: Kept[bytes, tuple[int, bytes, bool]] = Kept(MOST_KEPT)
        self._lines: Kept[bytes, Read] = Kept(MOST_KEPT)

    def read(self, head: bytes) -> ResponseHead:
        """Return what the head says."""
        own = head.find(_OWN_ID)
        if own > 0:
            head = _without_id(head, own)
        known = self._heads.get(head)
        if known is not None:
            return known
        said = self._read(head)
        # A cookie is somebody's.
        return said if len(head) > LONGEST_KEPT or b"cookie" in head.lower() else self._heads.keep(head, said)

    def _read(self, head: bytes) -> ResponseHead:
        lines = head.split(b"\r\n")
        first = lines[0]
        status, start, keep_alive = self._starts.get(first) or self._start(first)
        get = self._lines.get
        passed: list[bytes] = []
        length = None
        chunked = False
        del lines[0]
        for line in lines:
            kind, text, number = get(line) or self._line(line)
            if kind == PASS:
                passed.append(text)
            elif kind == LENGTH:
                if length is not None:
                    raise ValueError("more than one Content-Length")
                length = number
            elif kind == CLOSE:
                keep_alive = False
            elif kind == CHUNKED:
                if chunked:
                    raise ValueError("more than one Transfer-Encoding")
                chunked = True
        if chunked and length is not None:
            raise ValueError("both Content-Length and Transfer-Encoding")
        return _new(ResponseHead, (status, start, keep_alive, length, chunked, passed))

    def _start(self, line: bytes) -> tuple[int, bytes, bool]:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise ValueError("the status line is malformed")
        start = b"HTTP/1.1 %b %b\r\n" % (match[2], match[3] or b"")
        return self._starts.keep(line, (int(match[2]), start, match[1] == b"1"))

    def _line(self, line: bytes) -> Read:
        match = FIELD.fullmatch(line)
        if match is None:
            raise ValueError("a header line is malformed")
        name, value = match[1], match[2].strip(b" \t")
        lower = name.lower()
        if lower == b"x-request-id":
            return DROPPED
        read = _response_field(name, lower, value)
        if len(line) > LONGEST_KEPT or lower in NOT_WORTH_KEEPING:
            return read
        return self._lines.keep(line, read)


def _response_field(name: bytes, lower: bytes, value: bytes) -> Read:
    if lower == b"connection":
        return (CLOSE, b"", 0) if b"close" in value.lower() else DROPPED
    try:
        said = parse_answer_head([(name, value)])
    except UpstreamFailed as error:
        raise ValueError(error.reason) from error
    if said.length is not None:
        return LENGTH, b"", said.length
    if said.chunked:
        return CHUNKED, b"", 0
    return (PASS, b"%b: %b\r\n" % (name, value), 0) if said.passing else DROPPED
