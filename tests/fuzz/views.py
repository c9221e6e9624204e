"""The other views of an archive: what readers that are none of ours show of the same bytes."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_MARK = b"PK\x03\x04"
_DESCRIBED = 1 << 3
_SENTINEL = 0xFFFFFFFF

View = dict[str, bytes]
"""The files of an archive, each by its path."""


def zip_by_directory(data: bytes) -> View:
    """Return what Python's zipfile shows: it goes by the central directory."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {info.filename: file.read(info) for info in file.infolist() if not info.is_dir()}


def zip_by_stream(data: bytes) -> View:
    """Return what a reader shows that goes from the front by local headers, as Java's ZipInputStream does."""
    found: View = {}
    at = 0
    while data[at : at + 4] == _MARK:
        _, _, flags, method, _, _, _, packed, size, names, extras = _LOCAL.unpack_from(data, at)
        at += _LOCAL.size
        name, extra = data[at : at + names], data[at + names : at + names + extras]
        at += names + extras
        if _SENTINEL in (packed, size):
            size, packed = _zip64_sizes(extra)
        content = data[at : at + packed]
        if method:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            content = inflater.decompress(data[at:])
            packed = len(data) - at - len(inflater.unused_data)
        at += packed + (_descriptor(data, at + packed) if flags & _DESCRIBED else 0)
        path = name.decode("utf-8")
        if not path.endswith("/"):
            found[path] = content
    return found


def tar_by_python(data: bytes) -> View:
    """Return what Python's gzip and tarfile show, without the first component of each name, which TorchServe drops."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)), mode="r:") as file:
        members = [one for one in file if not one.isdir()]
        assert all(one.isfile() for one in members)
        return {one.name.partition("/")[2]: file.extractfile(one).read() for one in members}


def _zip64_sizes(extra: bytes) -> tuple[int, int]:
    while extra:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            return struct.unpack_from("<QQ", extra, 4)
        extra = extra[4 + length :]
    raise AssertionError("a size is said to be in a field that is not there")


def _descriptor(data: bytes, at: int) -> int:
    return 16 if data[at : at + 4] == b"PK\x07\x08" else 12
