"""The messages of a call: cut out of the pieces that they come in, and unpacked no further than they may be long."""

from __future__ import annotations

import zlib

from torchserve_guard.errors import BadRequest, Refusal, TooLarge

PREFIX = 5
"""Bytes before each message: whether it is packed, and its length."""
LARGEST = 2**31 - 1
# What zlib is to expect: a gzip header, or its own, which is what gRPC calls deflate.
_PACKED = {b"gzip": 31, b"deflate": 15}
_PLAIN = b"identity"
ACCEPTED = b"identity,deflate,gzip"


class UnknownEncoding(Refusal):
    """A message is packed in a way that is not known here (HTTP 501, UNIMPLEMENTED)."""

    status = 501
    kind = "NotImplementedException"


class MessageReader:
    """What cuts the messages out of one stream; `most` is the longest that one may be, unpacked."""

    __slots__ = ("_buffer", "_encoding", "_most")

    def __init__(self, most: int | None, encoding: bytes) -> None:
        if encoding != _PLAIN and encoding not in _PACKED:
            raise UnknownEncoding("The message encoding is not known.", rule="wire.encoding")
        self._most = LARGEST if most is None else min(most, LARGEST)
        self._encoding = encoding
        self._buffer = bytearray()

    def feed(self, payload: bytes) -> list[bytes]:
        """Return the messages that are whole now. Raises TooLarge, BadRequest."""
        if not self._buffer:
            size = int.from_bytes(payload[1:PREFIX])
            if len(payload) == PREFIX + size and not payload[0] and size <= self._most:
                return [payload[PREFIX:]]
        self._buffer += payload
        return self._cut()

    def _cut(self) -> list[bytes]:
        messages: list[bytes] = []
        buffer, position = self._buffer, 0
        while len(buffer) - position >= PREFIX:
            size = int.from_bytes(buffer[position + 1 : position + PREFIX])
            if size > self._most:
                raise too_large()
            start = position + PREFIX
            if len(buffer) - start < size:
                break
            messages.append(self._plain(buffer[position], bytes(buffer[start : start + size])))
            position = start + size
        del buffer[:position]
        return messages

    def _plain(self, packed: int, message: bytes) -> bytes:
        if not packed:
            return message
        if packed != 1 or self._encoding == _PLAIN:
            raise BadRequest("A message is packed, and nothing says how.", rule="wire.encoding")
        unpacking = zlib.decompressobj(_PACKED[self._encoding])
        try:
            plain = unpacking.decompress(message, self._most + 1)
        except zlib.error as error:
            raise BadRequest("A message cannot be unpacked.", rule="wire.encoding") from error
        # INVARIANT: no more is ever unpacked than a message may be long.
        if len(plain) > self._most:
            raise too_large()
        if not unpacking.eof or unpacking.unused_data:
            raise BadRequest("A message cannot be unpacked.", rule="wire.encoding")
        return plain

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """How many bytes there are of a message that is not whole yet."""
        return len(self._buffer)


def framed(message: bytes) -> bytes:
    """Return a message as it stands in a stream."""
    return b"\0" + len(message).to_bytes(4) + message


def too_large() -> TooLarge:
    """Return the refusal of a message that is too long."""
    return TooLarge("The message is too large.", rule="proxy.body-size")
