"""The choices: bytes read as decisions, of which archives are made that are almost right.

A fuzzer that turns single bits seldom gets past the first checksum. Here every sequence of bytes spells an archive
whose checksums and offsets are right, but where the bytes say otherwise.
"""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator, Sequence
from typing import TypeVar

from corpus import archives, tarballs

T = TypeVar("T")

NAMES = (
    "handler.py", "Handler.py", "a", "a/", "a/b", "a/b/", "A/c", "../x", "/x", "a//b", "a/./b", "a\\b", "c:x", "", "/",
    "modèle.txt", "e\u0301", "é", ".tsguard", "x" * 256, "d/" * 40, "nul\0x", "MAR-INF/MANIFEST.json", "mar-inf/x",
)  # fmt: skip
DATA = (b"", b"x", archives.HANDLER, archives.EVIL, bytes(70_000), archives.good(), archives.manifest(handler="other"))
NUMBERS = (0, 1, 7, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFFFE, 0xFFFFFFFF)
FLAGS = (0, 0, 1 << 11, 1 << 3, 1 << 3 | 1 << 11, 1, 1 << 6, 1 << 13, 0xFFFF)
MODES = (stat.S_IFREG | 0o644, 0, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFBLK, 0xFFFF)
WIDTHS = {
    "needed": 0xFFFF, "flags": 0xFFFF, "method": 0xFFFF, "crc": 0xFFFFFFFF, "csize": 0xFFFFFFFF, "size": 0xFFFFFFFF,
    "disk": 0xFFFF, "attributes": 0xFFFFFFFF, "offset": 0xFFFFFFFF,
}  # fmt: skip
EXTRAS = (b"\xfe\xca\0\0", b"UT\5\0\3abcd", b"\x75\x70\1\0\1", b"\1\0\0\0", b"\1\0", b"ux\x0b\0\1\4abcd\4abcd")
ENDS = {"disk": 0xFFFF, "here": 0xFFFF, "count": 0xFFFF, "size": 0xFFFFFFFF, "offset": 0xFFFFFFFF, "comment": 0xFFFF}


class Choices:
    """Decisions, one after the other; behind the last byte each is the first of its choices."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def one(self, of: Sequence[T]) -> T:
        return of[self.byte() % len(of)]

    def rarely(self) -> bool:
        return self.byte() % 8 == 7

    def raw(self, most: int) -> bytes:
        length = self.byte() % (most + 1)
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self, below: int) -> int:
        return (self.one(NUMBERS) if self.byte() % 2 else int.from_bytes(self.raw(8), "little")) & below


def zip_of(data: bytes) -> bytes:
    """Return the zip archive that the bytes choose."""
    choices = Choices(data)
    entries = list(archives.GOOD) if not choices.rarely() else []
    for _ in range(choices.byte() % 5):
        entries.insert(choices.byte() % (len(entries) + 1), _entry(choices))
    options = {key: choices.raw(8) for key in ("prefix", "gap", "suffix", "hidden") if choices.rarely()}
    end = {key: choices.number(most) for key, most in ENDS.items() if choices.rarely()}
    zip64 = {}
    if choices.rarely():
        zip64["zip64"] = {key: choices.number(0xFFFFFFFF) for key in ("count", "size", "offset") if choices.rarely()}
    return archives.archive(*entries, **options, **end, **zip64)


def _entry(choices: Choices) -> archives.Entry:
    name = choices.one(NAMES) if choices.byte() % 4 else choices.raw(24)
    content = choices.one(DATA) if choices.byte() % 4 else choices.raw(64)
    method = choices.one((archives.DEFLATED, archives.STORED))
    flags = choices.one(FLAGS)
    packed = archives.deflated(content) if method == archives.DEFLATED else content
    more: dict[str, object] = {}
    if choices.rarely():
        more["packed"] = packed = packed[: len(packed) - choices.byte() % 4] + choices.raw(40)
    if flags & 1 << 3 and not choices.rarely():
        more["descriptor"] = archives.descriptor(content, mark=choices.one((b"PK\7\x08", b"PK\7\x08", b"")))
        more["local"] = {"crc": 0, "csize": 0, "size": 0} if choices.byte() % 2 else {}
    local = more.pop("local", {}) | _overrides(choices, content, packed)
    central = _overrides(choices, content, packed)
    if choices.rarely():
        central |= local
    before = choices.raw(40) if choices.rarely() else b""
    return archives.Entry(
        name, content, method, flags, choices.one(MODES), before=before, local=local, central=central, **more
    )


def _overrides(choices: Choices, content: bytes, packed: bytes) -> dict[str, object]:
    if not choices.rarely():
        return {}
    found: dict[str, object] = {key: choices.number(most) for key, most in WIDTHS.items() if choices.rarely()}
    if choices.rarely():
        found["name"] = choices.raw(16)
    if choices.byte() % 2:
        found["extra"] = choices.one(EXTRAS)
    elif choices.rarely():
        found |= {"extra": archives.zip64_extra(len(content), len(packed)), "size": 0xFFFFFFFF, "csize": 0xFFFFFFFF}
    return found


def changed(data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Return one of the JSON documents, with the changes that the bytes choose, inside of what is in base64 too."""
    choices = Choices(data)
    whole = json.loads(choices.one(seeds))
    others = [found for seed in seeds for found in _leaves(json.loads(seed))]
    for _ in range(1 + choices.byte() % 3):
        holder, key = choices.one(list(_places(whole)))
        holder[key] = choices.one(others) if choices.rarely() else _changed(choices, holder[key])
    return json.dumps(whole).encode()


def _places(value: object) -> Iterator[tuple[dict[str, object] | list[object], str | int]]:
    """Yield where something stands in a document."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield value, key
        yield from _places(inner)


def _leaves(value: object) -> Iterator[object]:
    return (holder[key] for holder, key in _places(value) if not isinstance(holder[key], dict | list))


def _changed(choices: Choices, value: object) -> object:
    if not isinstance(value, str):
        return choices.one((None, [], {}, 7, "", [value, value], {"value": value}))
    try:
        inner = base64.b64decode(value, validate=True)
        return base64.b64encode(_edited(choices, inner)).decode()
    except ValueError:
        return _edited(choices, value.encode()).decode("utf-8", "replace")


def _edited(choices: Choices, data: bytes) -> bytes:
    at = int.from_bytes(choices.raw(3), "little") % (len(data) + 1)
    return data[:at] + choices.raw(20) + data[at + choices.byte() % 4 :]


def tarball_of(data: bytes) -> bytes:
    """Return the tarball of these bytes, taken for a tar; what looks like a header gets the checksum that it needs."""
    mended = bytearray(data)
    for at in range(0, len(mended) - tarballs.BLOCK + 1, tarballs.BLOCK):
        block = mended[at : at + tarballs.BLOCK]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            mended[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return tarballs.zipped(bytes(mended))
