"""The header blocks: fields out of the bytes that stand for them, and bytes for fields (RFC 7541).

What is written never refers to the dynamic table: literals only, so a block means the same on every connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from torchserve_guard.http2.frames import Broken, Code
from torchserve_guard.http2.huffman import decode as unpacked

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

LARGEST_TABLE = 4096
"""Bytes of the dynamic table: the size that holds until another is agreed upon, and none is."""
NO_TABLE = b"\x20"
"""What a block begins with from which on no table is used: its size is nothing (section 6.3)."""
_OVERHEAD = 32  # section 4.1
# What the first byte of a field says (section 6), which bits of a byte a number begins in, and whether more follow.
_INDEXED, _KEPT, _RESIZED = 0x80, 0x40, 0x20
_BITS_7, _BITS_6, _BITS_5, _BITS_4 = 0x7F, 0x3F, 0x1F, 0x0F
_MORE = 0x80
_MOST_RESIZED = 2
_LONGEST_INTEGER = 4  # bytes after the first: more than any length that fits into a block

_STATIC: Fields = tuple(
    (name.encode(), value.encode())
    for name, _, value in (
        line.partition(" ")
        for line in """
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
""".strip().splitlines()
    )
)


class Decoder:
    """What reads the blocks of one direction of one connection.

    `most` is how large the fields of a block may be together, names and values and 32 bytes for each. It bounds the
    work: a byte that names a large field of the table is a large field.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._table: list[Field] = []
        self._size = 0
        self._limit = LARGEST_TABLE
        self.changed = False
        """Whether the last block changed the table: until one does, the same bytes are the same fields."""
        self.unpacked = 0
        """How large the fields of the last block are together, as `most` counts."""

    def decode(self, block: bytes) -> Fields:
        """Return the fields. Raises `Broken`."""
        self.changed = False
        try:
            return self._fields(block)
        except (IndexError, ValueError) as error:
            raise Broken(Code.COMPRESSION, "a header block cannot be read") from error

    def _fields(self, block: bytes) -> Fields:
        fields: list[Field] = []
        position, end, left, resized = 0, len(block), self._most, 0
        while position < end:
            first = block[position]
            if first & _INDEXED:
                index, position = _integer(block, position, _BITS_7)
                field = self._known(index)
            elif first & (_KEPT | _RESIZED) == _RESIZED:
                resized += 1
                # A smallest and a last size are all that there is to say (section 4.2).
                if fields or resized > _MOST_RESIZED:
                    raise ValueError("the size of the table changes within a block, or again and again")
                position = self._resize(block, position)
                continue
            else:
                field, position = self._literal(block, position, _BITS_6 if first & _KEPT else _BITS_4)
                if first & _KEPT:
                    self._insert(field)
            left -= len(field[0]) + len(field[1]) + _OVERHEAD
            if left < 0:
                raise Broken(Code.CALM, "the fields of a header block are too large")
            fields.append(field)
        self.unpacked = self._most - left
        return tuple(fields)

    def _known(self, index: int) -> Field:
        if not index:
            raise ValueError("there is no field 0")
        return _STATIC[index - 1] if index <= len(_STATIC) else self._table[index - len(_STATIC) - 1]

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[Field, int]:
        index, position = _integer(block, position, mask)
        if index:
            name = self._known(index)[0]
        else:
            name, position = _text(block, position)
        value, position = _text(block, position)
        return (name, value), position

    def _insert(self, field: Field) -> None:
        self.changed = True
        self._size += len(field[0]) + len(field[1]) + _OVERHEAD
        self._table.insert(0, field)
        self._evict()

    def _resize(self, block: bytes, position: int) -> int:
        self._limit, position = _integer(block, position, _BITS_5)
        if self._limit > LARGEST_TABLE:
            raise ValueError("the table is larger than was agreed")
        self.changed = True
        self._evict()
        return position

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._table.pop()
            self._size -= len(name) + len(value) + _OVERHEAD


def encoded(fields: Iterable[Field], *, secret: bool = False) -> bytes:
    """Return the block of these fields; with `secret`, no hop on the way may keep them (section 7.1.3)."""
    first = 0x10 if secret else 0
    return b"".join(bytes((first,)) + _string(name) + _string(value) for name, value in fields)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < _BITS_7:
        return bytes((length,)) + text
    parts = bytearray((_BITS_7,))
    length -= _BITS_7
    while length >= _MORE:
        parts.append(length & _BITS_7 | _MORE)
        length >>= 7
    parts.append(length)
    return bytes(parts) + text


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """Return the number that begins in the bits of `mask` (section 5.1), and where it ends."""
    number = block[position] & mask
    position += 1
    if number < mask:
        return number, position
    for at in range(_LONGEST_INTEGER):
        byte = block[position + at]
        number += (byte & _BITS_7) << 7 * at
        if byte < _MORE:
            return number, position + at + 1
    raise ValueError("a number does not end")


def _text(block: bytes, position: int) -> tuple[bytes, int]:
    packed = block[position] & _MORE
    length, position = _integer(block, position, _BITS_7)
    text = block[position : position + length]
    if len(text) < length:
        raise ValueError("a text is cut off")
    return (unpacked(text) if packed else text), position + length
