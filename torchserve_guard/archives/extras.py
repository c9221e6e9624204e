"""Extra fields: what may stand beside an entry, and the sizes that zip64 moves there. Pure.

APPNOTE 4.5. Only fields that change neither name nor content are known here; a field that some readers
obey and others skip (unicode path 0x7075, AES 0x9901) would show them different archives.
"""

from __future__ import annotations

import struct

from torchserve_guard.archives.refusal import Fault, Reason

ZIP64 = 0x0001
SENTINEL = 0xFFFFFFFF
_HEAD = struct.Struct("<HH")
_SIZES = struct.Struct("<QQ")

_LENGTHS: dict[int, frozenset[int]] = {
    ZIP64: frozenset({8, 16, 24}),
    0x5455: frozenset({1, 5, 9, 13}),  # Info-ZIP: times
    0x7875: frozenset(range(3, 36)),  # Info-ZIP: uid, gid
    0x5855: frozenset({8, 12}),  # Info-ZIP: times and ids, old
    0x000A: frozenset({32}),  # NTFS: times
    0xCAFE: frozenset({0}),  # the mark of `jar`
}


class Unacceptable(ValueError):
    """The extra fields of an entry are not acceptable; `fault` says why."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.fault = Fault(reason, words)


def zip64(extra: bytes) -> bytes | None:
    """Return the zip64 field's content, or None; every field must be known, whole, and there once."""
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        if len(extra) - position < _HEAD.size:
            raise Unacceptable(Reason.EXTRA_TAIL, "its extra fields do not end where they should")
        kind, length = _HEAD.unpack_from(extra, position)
        content = extra[position + _HEAD.size :][:length]
        if len(content) < length:
            raise Unacceptable(Reason.EXTRA_CUT, f"its extra field 0x{kind:04x} is cut short")
        if kind not in _LENGTHS:
            words = f"its extra field 0x{kind:04x} is not one that all readers agree about"
            raise Unacceptable(Reason.EXTRA_UNKNOWN, words)
        if length not in _LENGTHS[kind]:
            raise Unacceptable(Reason.EXTRA_LENGTH, f"its extra field 0x{kind:04x} has the wrong length")
        if kind in fields:
            raise Unacceptable(Reason.EXTRA_TWICE, f"its extra field 0x{kind:04x} is there twice")
        fields[kind] = content
        position += _HEAD.size + length
    return fields.get(ZIP64)


def central_values(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three values of a central record, each from zip64 exactly where the record says so."""
    content = zip64(extra)
    wanted = [value == SENTINEL for value in (size, packed, offset)]
    if content is None:
        if any(wanted):
            raise Unacceptable(Reason.ZIP64_FIELD_ABSENT, "it points to a zip64 field that is not there")
        return size, packed, offset
    if len(content) != 8 * sum(wanted):
        words = "its zip64 field does not hold exactly what the record leaves to it"
        raise Unacceptable(Reason.ZIP64_FIELD_CENTRAL, words)
    moved = iter(struct.unpack(f"<{sum(wanted)}Q", content))
    values = (next(moved) if want else value for want, value in zip(wanted, (size, packed, offset), strict=True))
    return next(values), next(values), next(values)


def local_sizes(extra: bytes, size: int, packed: int) -> tuple[int, int, bool]:
    """Return the sizes of a local header, and whether they came from zip64 (then always both of them)."""
    content = zip64(extra)
    if content is None:
        if SENTINEL in (size, packed):
            words = "its local header points to a zip64 field that is not there"
            raise Unacceptable(Reason.ZIP64_FIELD_ABSENT, words)
        return size, packed, False
    if len(content) != _SIZES.size:
        raise Unacceptable(Reason.ZIP64_FIELD_LOCAL, "its local zip64 field does not hold exactly both sizes")
    real_size, real_packed = _SIZES.unpack(content)
    if size not in (SENTINEL, real_size) or packed not in (SENTINEL, real_packed):
        raise Unacceptable(Reason.ZIP64_FIELD_SIZES, "its local header and its zip64 field give different sizes")
    return real_size, real_packed, True
