"""The chunked coding: bytes as they come off a connection to payload, and payload to our own chunks.

Strictly RFC 9112 section 7.1, sans-IO. Extensions and trailers are read, bounded, and dropped. What is not in
the grammar (`+5`, `0x5`, `5 `, a bare LF, seventeen digits) raises `ValueError`: no two readers agree on it.
"""

from __future__ import annotations

import re
import sys

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t \x21-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t \x21-\x7e\x80-\xff]*")
_LONGEST_LINE = 1024
_LONGEST_TRAILERS = 8192
_WORTH_A_PART = 16 * 1024

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)
LAST_CHUNK = b"0\r\n\r\n"


def chunk(payload: bytes) -> tuple[bytes, ...]:
    """Return the payload, which is not empty, as one chunk, in parts: no long payload is copied."""
    if len(payload) < _WORTH_A_PART:
        return (b"%x\r\n%b\r\n" % (len(payload), payload),)
    return b"%x\r\n" % len(payload), payload, b"\r\n"


class ChunkDecoder:
    """The reading of one chunked body. `done` is set by the end of its trailers, `rest` holds what came after.

    What of a chunk is not more than `whole` bytes is given in one piece, once all of it is there. Of `most` lines and
    chunks no more are read in one go; then `more` says that something is left, which is read when nothing is fed.
    """

    __slots__ = ("_held", "_left", "_most", "_state", "_trailers", "_whole", "done", "more", "rest")

    def __init__(self, whole: int = 0, most: int = sys.maxsize) -> None:
        self._whole = whole
        self._most = most
        self.done = self.more = False
        self.rest = b""
        self._state = _SIZE
        self._left = 0
        self._held = b""
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        """Return the payload in `data`. Raises `ValueError` on what is not in the grammar."""
        pieces = self.pieces(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pieces(self, data: bytes) -> list[bytes]:
        """Return the payload in `data` chunk by chunk. Raises `ValueError` on what is not in the grammar."""
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        at, steps = 0, self._most
        self.more = False
        while at < len(data) and not self.done:
            steps -= 1
            if steps < 0:
                self._held, self.more = data[at:], True
                break
            if self._state == _DATA:
                if len(data) - at < self._left <= self._whole:
                    self._held = data[at:]
                    break
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._state = _DATA if self._left else _DATA_END
            else:
                end = self._line_end(data, at)
                if end < 0:
                    break
                self._line(data[at:end])
                at = end + 2
        self.rest = data[at:] if self.done else b""
        return pieces

    def _line_end(self, data: bytes, at: int) -> int:
        """Return where the line at `at` ends, or -1 after keeping its beginning for the next time."""
        end = data.find(b"\r\n", at, at + _LONGEST_LINE + 2)
        if end < 0:
            self._held = data[at:]
            if len(self._held) > _LONGEST_LINE or b"\n" in self._held or b"\r" in self._held[:-1]:
                raise ValueError("a line of the chunked coding does not end in CRLF, or never ends")
        return end

    def _line(self, line: bytes) -> None:
        if self._state == _SIZE:
            self._size(line)
        elif self._state == _DATA_END:
            if line:
                raise ValueError("a chunk is longer than its size says")
            self._state = _SIZE
        else:
            self._trailer(line)

    def _size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ValueError("a chunk size is not hexadecimal digits")
        self._left = int(match[1], 16)
        self._state = _DATA if self._left else _TRAILERS

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line)
        if not line:
            self.done = True
        elif self._trailers > _LONGEST_TRAILERS or _TRAILER_LINE.fullmatch(line) is None:
            raise ValueError("the trailers of a chunked body are too long, or none")
