"""The protobuf: a message as its fields, read strictly, and written in one way.

Only what TorchServe's requests are made of: numbers and truth values as varints, text and bytes with their length
(protobuf.dev/programming-guides/encoding). Protobuf itself takes the last of two values, skips fields that it does
not know, and cuts numbers that are too long. Here each of these is refused, so that no two readers of what is
accepted can differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from torchserve_guard.errors import BadRequest

Value = str | int | bool

MOST_FIELDS = 4096
"""A message of nothing but empty fields would keep the door busy for seconds otherwise."""

_VARINT, _LENGTH = 0, 2  # wire types
_MORE = 0x80
_LONGEST_VARINT = 10
_BITS = 64
_INT32 = range(-(2**31), 2**31)


class Kind(Enum):
    """What a field holds; PASSED is bytes, text or messages that go on unread, as often as they come."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    PASSED = "passed"

    @property
    def wire_type(self) -> int:
        """How the value is framed."""
        return _VARINT if self in {Kind.INTEGER, Kind.BOOLEAN} else _LENGTH


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    number: int
    name: str
    kind: Kind

    @property
    def tag(self) -> int:
        """What stands before each of its values."""
        return self.number << 3 | self.kind.wire_type


def fields_by_tag(fields: Iterable[Field]) -> dict[int, Field]:
    """Return the fields as `parse` wants them."""
    return {field.tag: field for field in fields}


def parse(message: bytes, fields: Mapping[int, Field]) -> dict[str, Value]:
    """Return the values that are given, by name, but for those that are passed on. Raises BadRequest.

    A value that is the default of its kind (empty, 0, false) is the same as none, as it is to protobuf.
    """
    found: dict[str, Value] = {}
    position, end, count = 0, len(message), 0
    while position < end:
        count += 1
        if count > MOST_FIELDS:
            raise refused(f"the message has more than {MOST_FIELDS} fields")
        tag, position = _varint(message, position)
        field = fields.get(tag)
        if field is None:
            raise refused(f"the message has a field {tag >> 3} of wire type {tag & 7}, which is not known")
        number, position = _varint(message, position)
        if field.kind.wire_type == _LENGTH:
            start, position = position, position + number
            if position > end:
                raise refused("the message is cut off")
            if field.kind is Kind.PASSED:
                continue
            value: Value = _text(message[start:position])
        else:
            value = _number(field, number)
        if field.name in found:
            raise refused(f"the field {field.name} is given more than once")
        found[field.name] = value
    return {name: value for name, value in found.items() if value}


def render(values: Iterable[tuple[Field, Value]]) -> bytes:
    """Return the message of these values, in the order of their numbers, without those that are defaults."""
    parts: list[bytes] = []
    for field, value in sorted(values, key=lambda pair: pair[0].number):
        if not value:
            continue
        parts.append(_encoded(field.tag))
        if isinstance(value, str):
            text = value.encode()
            parts += [_encoded(len(text)), text]
        else:
            parts.append(_encoded(int(value) % 2**_BITS))
    return b"".join(parts)


def refused(reason: str) -> BadRequest:
    """Return the refusal of a message."""
    return BadRequest("The message is not acceptable.", reason=reason, rule="wire.message")


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return the number that stands there, and where the next thing does."""
    number = shift = 0
    for byte in message[position : position + _LONGEST_VARINT]:
        position += 1
        number |= (byte & ~_MORE) << shift
        if byte < _MORE:
            if number >> _BITS or (shift and not byte):
                raise refused("a number is written longer than it is")
            return number, position
        shift += 7
    raise refused("the message is cut off, or a number does not end")


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number >= _MORE:
        encoded.append(number & 0x7F | _MORE)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refused("a text is not UTF-8") from error


def _number(field: Field, number: int) -> Value:
    if field.kind is Kind.BOOLEAN:
        if number > 1:
            raise refused(f"the field {field.name} is neither true nor false")
        return bool(number)
    # int32 is written as the 64 bits of the same number (two's complement).
    signed = number - 2**_BITS if number >> (_BITS - 1) else number
    if signed not in _INT32:
        raise refused(f"the field {field.name} is beyond 32 bits")
    return signed
