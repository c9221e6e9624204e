"""The passage: one walk over every byte of an archive, held against its table, members handed on as they come.

Sans-IO: bytes come from an iterator, members go to a sink. What is hashed and what is unpacked are the same
buffers, so an archive that is rewritten while it is read cannot show two faces.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from torchserve_guard.archives import extras
from torchserve_guard.archives.container import DEFLATED, LOCAL, LOCAL_MARK, NEWEST, Member, Table
from torchserve_guard.archives.refusal import Fault, Reason, refuse

_PIECE = 256 << 10
_OUTPUT = 1 << 20
_DESCRIPTOR = struct.Struct("<4sIII")
_DESCRIPTOR64 = struct.Struct("<4sIQQ")
_DESCRIPTOR_MARK = b"PK\x07\x08"
_FOUR_GIB = 1 << 32

_ENDED = Fault(Reason.CHANGED, "ended while it was read: it was cut short in the meantime")

Emit = Callable[[bytes | memoryview], None]


class Sink(Protocol):
    """Who takes the members: each is opened, written in pieces, closed."""

    def expect(self, size: int) -> None:
        """Learn how many bytes will come at least, before the first of them."""

    def open(self, path: str) -> None:
        """Begin a file, or take note of a directory (its path ends in `/`)."""

    def write(self, data: bytes | memoryview) -> None:
        """Take the next piece of the open file."""

    def close(self) -> None:
        """End the open file."""


class Tape:
    """Bytes in their order, in whatever pieces they come."""

    def __init__(self, chunks: Iterator[bytes], archive: str, ended: Fault = _ENDED) -> None:
        self._chunks = chunks
        self._archive = archive
        self._ended = ended
        self._chunk = memoryview(b"")
        self.position = 0

    def pieces(self, length: int, largest: int = _PIECE) -> Iterator[memoryview]:
        """Yield the next `length` bytes in pieces; raise when the archive ends before."""
        while length:
            if not self._chunk:
                self._chunk = memoryview(next(self._chunks, b""))
            if not self._chunk:
                refuse(self._archive, None, self._ended)
            piece = self._chunk[: min(length, largest)]
            self._chunk = self._chunk[len(piece) :]
            self.position += len(piece)
            length -= len(piece)
            yield piece

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes."""
        return b"".join(self.pieces(length))

    def rest(self) -> Iterator[bytes | memoryview]:
        """Yield what is left, in pieces."""
        left, self._chunk = self._chunk, memoryview(b"")
        if left:
            self.position += len(left)
            yield left
        for chunk in self._chunks:
            self.position += len(chunk)
            yield chunk


def walk(tape: Tape, table: Table, sink: Sink, archive: str) -> None:
    """Hand every member to the sink; raise VerificationError if one byte is not as the table says.

    INVARIANT: on return, every byte of the archive was a local header, name, extra field, datum or descriptor
    of exactly one member of the table, or one of the bytes the table was made from.
    """
    sink.expect(table.unpacked)
    for member in table.members:
        if tape.position != member.offset:
            why = f"before it are {member.offset - tape.position} bytes that belong to nothing"
            refuse(archive, member.path, why, Reason.GAP)
        zip64 = _verify_local(tape, member, archive)
        sink.open(member.path)
        _content(tape, member, sink.write, archive)
        sink.close()
        if member.described:
            _verify_descriptor(tape, member, archive, zip64=zip64)
        if tape.position > table.directory:
            refuse(archive, member.path, "it reaches into the central directory", Reason.INTO_DIRECTORY)
    if tape.position != table.directory:
        why = f"before its directory are {table.directory - tape.position} bytes that belong to nothing"
        refuse(archive, None, why, Reason.GAP)
    if tape.take(len(table.tail)) != table.tail:
        refuse(archive, None, "changed while it was read", Reason.CHANGED)


def _verify_local(tape: Tape, member: Member, archive: str) -> bool:
    """Read a local header (4.3.7) that says what the directory says; return whether it has a zip64 field."""
    mark, needed, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack(
        tape.take(LOCAL.size)
    )
    if mark != LOCAL_MARK:
        refuse(
            archive, member.path, "the directory points to something that is no local header", Reason.NO_LOCAL_HEADER
        )
    name, extra = tape.take(name_length), tape.take(extra_length)
    try:
        size, packed, zip64 = extras.local_sizes(extra, size, packed)
    except extras.Unacceptable as error:
        refuse(archive, member.path, error.fault)
    if name != member.raw:
        why = f"its local header calls it `{name.decode('latin-1')!a}`: readers would disagree"
        refuse(archive, member.path, why, Reason.TWO_NAMES)
    pairs = (
        (Reason.TWO_FLAGS, "flags", flags, member.flags),
        (Reason.TWO_METHODS, "compression method", method, member.method),
    )
    numbers = (
        (Reason.TWO_CRCS, "CRC", crc, member.crc),
        (Reason.TWO_PACKED_SIZES, "packed size", packed, member.compressed_size),
        (Reason.TWO_SIZES, "size", size, member.size),
    )
    for row in (*pairs, *numbers):
        reason, what, local, central = row
        later = member.described and local == 0 and row in numbers
        if local != central and not later:
            refuse(archive, member.path, f"local header and directory give two values of its {what}", reason)
    if needed > NEWEST:
        refuse(archive, member.path, f"it needs version {needed / 10} of the format", Reason.VERSION)
    return zip64


def _content(tape: Tape, member: Member, write: Emit, archive: str) -> None:
    """Hand on a member's bytes, of exactly the size and the CRC that were declared."""
    crc = length = 0

    def emit(data: bytes | memoryview) -> None:
        nonlocal crc, length
        length += len(data)
        if length > member.size:
            refuse(
                archive,
                member.path,
                f"it unpacks to more than the {member.size} bytes it declares",
                Reason.LARGER_THAN_SAID,
            )
        crc = zlib.crc32(data, crc)
        write(data)

    try:
        (_inflate if member.method == DEFLATED else _copy)(tape, member, emit, archive)
    except zlib.error as error:
        refuse(archive, member.path, f"its deflate stream is damaged ({error})", Reason.DEFLATE_DAMAGED)
    if length != member.size:
        refuse(
            archive, member.path, f"it unpacks to {length} bytes and declares {member.size}", Reason.SMALLER_THAN_SAID
        )
    if crc != member.crc:
        why = f"its content has the CRC {crc:08x} and declares {member.crc:08x}"
        refuse(archive, member.path, why, Reason.CRC)


def _copy(tape: Tape, member: Member, emit: Emit, _archive: str) -> None:
    for piece in tape.pieces(member.compressed_size, _OUTPUT):
        emit(piece)


def _inflate(tape: Tape, member: Member, emit: Emit, archive: str) -> None:
    """Inflate a stream that ends exactly with its last byte: in the slack behind it, entries can hide."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in tape.pieces(member.compressed_size):
        if inflater.eof:
            refuse(archive, member.path, "there are bytes behind the end of its deflate stream", Reason.DEFLATE_SLACK)
        pending: bytes | memoryview = piece
        while pending and not inflater.eof:
            output = inflater.decompress(pending, _OUTPUT)
            pending = inflater.unconsumed_tail
            if output:
                emit(output)
    while not inflater.eof and (output := inflater.decompress(b"", _OUTPUT)):
        emit(output)
    if inflater.unused_data:
        refuse(archive, member.path, "there are bytes behind the end of its deflate stream", Reason.DEFLATE_SLACK)
    if not inflater.eof:
        refuse(archive, member.path, "its deflate stream does not end", Reason.DEFLATE_UNENDED)


def _verify_descriptor(tape: Tape, member: Member, archive: str, *, zip64: bool) -> None:
    """Read a data descriptor (4.3.9): with its mark, and as wide as Java's reader would take it to be."""
    wide = member.size >= _FOUR_GIB or member.compressed_size >= _FOUR_GIB
    if zip64 and not wide:
        refuse(archive, member.path, "its descriptor may be read in two widths", Reason.DESCRIPTOR_WIDTH)
    form = _DESCRIPTOR64 if wide else _DESCRIPTOR
    if form.unpack(tape.take(form.size)) != (_DESCRIPTOR_MARK, member.crc, member.compressed_size, member.size):
        refuse(archive, member.path, "its descriptor does not say what the directory says", Reason.DESCRIPTOR_LIES)
