"""The frames: how they are written, what their numbers mean, and how a breach of the protocol is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from struct import Struct

from torchserve_guard.errors import BadRequest

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER = 9
"""Bytes before each payload."""
LARGEST = 16384
"""The longest payload that may be sent without asking (section 4.2); nobody is asked for more."""
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65535

PRIORITY_SIZE, PING_SIZE, GOAWAY_SIZE = 5, 8, 8

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20

HEAD = Struct(">HBBBL")
NUMBER = Struct(">L")
_SETTING = Struct(">HL")
SETTING_SIZE = _SETTING.size


class Code(IntEnum):
    """Why a stream or a connection ends (section 7)."""

    NONE = 0
    PROTOCOL = 1
    INTERNAL = 2
    FLOW_CONTROL = 3
    STREAM_CLOSED = 5
    FRAME_SIZE = 6
    REFUSED = 7
    CANCEL = 8
    COMPRESSION = 9
    CALM = 11


class Setting(IntEnum):
    """What the ends of a connection tell each other of themselves (section 6.5.2)."""

    TABLE = 1
    PUSH = 2
    STREAMS = 3
    WINDOW = 4
    FRAME = 5
    HEAD = 6


class Broken(BadRequest):
    """The peer broke the protocol, or asked for more than anybody needs; the connection ends, with this code."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__("The connection is not HTTP/2 as it should be.", reason=reason, rule="http2")
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    length = len(payload)
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def head_frames(stream: int, block: bytes, *, end: bool) -> bytes:
    """Return what carries a header block: one frame, or several when it is long."""
    flags = END_STREAM if end else 0
    if len(block) <= LARGEST:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + LARGEST] for at in range(0, len(block), LARGEST)]
    last = frame(CONTINUATION, END_HEADERS, stream, pieces[-1])
    between = [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    return b"".join((frame(HEADERS, flags, stream, pieces[0]), *between, last))


def settings_frame(settings: Mapping[Setting, int]) -> bytes:
    """Return the frame that tells these."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in settings.items()))


def goaway_frame(last: int, code: Code) -> bytes:
    """Return the frame that says which stream was the last to be looked at, and why no more are."""
    return frame(GOAWAY, 0, 0, NUMBER.pack(last) + NUMBER.pack(code))


def window_frame(stream: int, more: int) -> bytes:
    """Return the frame that lets so many bytes more come; stream 0 is the connection."""
    return frame(WINDOW, 0, stream, NUMBER.pack(more))


def parse_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield what the peer tells, unknown settings included. Raises `Broken` (section 6.5.2)."""
    if len(payload) % _SETTING.size:
        raise Broken(Code.FRAME_SIZE, "a SETTINGS frame is cut off")
    for name, value in _SETTING.iter_unpack(payload):
        if name == Setting.WINDOW and value > LARGEST_WINDOW:
            raise Broken(Code.FLOW_CONTROL, "the initial window is too large")
        if name == Setting.PUSH and value > 1:
            raise Broken(Code.PROTOCOL, "ENABLE_PUSH is neither 0 nor 1")
        if name == Setting.FRAME and not LARGEST <= value < 1 << 24:
            raise Broken(Code.PROTOCOL, "the largest frame is not a size that a frame may have")
        yield name, value


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS frame without its padding. Raises `Broken`."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Broken(Code.PROTOCOL, "a frame is padded beyond its end")
    return payload[1 : len(payload) - payload[0]]
