"""The container: what a zip archive's end and central directory say, as a table of members.

Sans-IO but for the `read` it is given. TorchServe's Java reads local headers from the front and never the
central directory, everybody else the reverse: so this is half of the grammar, and `passage` holds the rest of the
archive, byte by byte, against the table made here. Section numbers are those of PKWARE's APPNOTE.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass

from torchserve_guard.archives import extras, names
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.refusal import Fault, Reason, refuse

Read = Callable[[int, int], bytes]
"""(offset, length) -> exactly so many bytes, or an error."""

LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sBBHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")

LOCAL_MARK = b"PK\x03\x04"
_CENTRAL_MARK = b"PK\x01\x02"
_END_MARK = b"PK\x05\x06"
_END64_MARK = b"PK\x06\x06"
_LOCATOR_MARK = b"PK\x06\x07"

STORED, DEFLATED = 0, 8
DESCRIPTOR = 1 << 3
UTF8 = 1 << 11
_FLAGS = 1 << 1 | 1 << 2 | DESCRIPTOR | UTF8
_SENTINEL16 = _LONGEST_COMMENT = 0xFFFF
NEWEST = 45
"""The version "needed to extract" that zip64 asks for; what asks for more is another format (4.4.3)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry as the central directory gives it; a directory's path ends in `/`."""

    path: str
    raw: bytes
    flags: int
    method: int
    crc: int
    compressed_size: int
    size: int
    offset: int

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory's entry."""
        return self.path.endswith("/")

    @property
    def described(self) -> bool:
        """Whether CRC and sizes follow the data, in a descriptor (4.4.4 bit 3)."""
        return bool(self.flags & DESCRIPTOR)


@dataclass(frozen=True, slots=True)
class Table:
    """The members in the order of their bytes, where the directory begins, and the bytes from there on."""

    members: tuple[Member, ...]
    directory: int
    tail: bytes

    @property
    def unpacked(self) -> int:
        """The bytes that the members will take."""
        return sum(member.size for member in self.members)


@dataclass(frozen=True, slots=True)
class _End:
    """The end record(s): where they start, and what they say of the directory."""

    start: int
    entries: int
    size: int
    offset: int


def read_table(read: Read, size: int, archive: str, limits: Limits) -> Table:
    """Return the table of an archive of so many bytes; raise VerificationError for the first thing wrong."""
    end = _end(read, size, archive)
    if end.offset + end.size != end.start:
        refuse(
            archive, None, "its central directory does not end where the end record begins", Reason.DIRECTORY_ELSEWHERE
        )
    why = limits.fault(end.entries, 0, size)
    if why is not None or end.size > limits.directory:
        large = f"its central directory is larger than the limit of {limits.directory} bytes"
        refuse(archive, None, why or Fault(Reason.DIRECTORY_LARGE, large))
    tail = read(end.offset, size - end.offset)
    members = sorted(_records(tail[: end.size], end.entries, archive), key=lambda member: member.offset)
    _verify_layout(members, end.offset, archive)
    why = limits.fault(len(members), sum(member.size for member in members), size)
    if why is not None:
        refuse(archive, None, why)
    return Table(tuple(members), end.offset, tail)


def _end(read: Read, size: int, archive: str) -> _End:
    """Return what the last 22 bytes say, and zip64's record directly before them (4.3.16, 4.3.14)."""
    if size < _END.size:
        refuse(archive, None, "is too short to be a zip archive", Reason.TOO_SHORT)
    start = size - _END.size
    mark, disk, first_disk, here, entries, length, offset, comment = _END.unpack(read(start, _END.size))
    if mark != _END_MARK:
        refuse(archive, None, _why_no_end(read, size))
    if comment:
        refuse(archive, None, "declares a comment that is not there", Reason.FALSE_COMMENT)
    if disk or first_disk:
        refuse(archive, None, "is part of a multi-disk archive", Reason.MULTI_DISK)
    if here != entries:
        refuse(archive, None, "counts its entries twice, differently", Reason.TWO_COUNTS)
    classic = _End(start, entries, length, offset)
    return _end64(read, classic, archive) or _without_zip64(classic, archive)


def _why_no_end(read: Read, size: int) -> Fault:
    """Return why the last 22 bytes are no end record: truncated, a comment, or something behind."""
    window = read(max(0, size - _END.size - _LONGEST_COMMENT), min(size, _END.size + _LONGEST_COMMENT))
    at = window.rfind(_END_MARK)
    if at < 0 or len(window) - at < _END.size:
        return Fault(Reason.NO_END, "has no end record: it is truncated, or no zip archive")
    comment = int(_END.unpack_from(window, at)[-1])
    behind = len(window) - at - _END.size
    if comment == behind:
        return Fault(Reason.COMMENT, "carries a comment")
    return Fault(Reason.BEHIND_END, f"has {behind} bytes behind its end record")


def _without_zip64(end: _End, archive: str) -> _End:
    if end.entries == _SENTINEL16 or extras.SENTINEL in (end.size, end.offset):
        refuse(archive, None, "points to a zip64 end record that is not there", Reason.ZIP64_ABSENT)
    return end


def _end64(read: Read, end: _End, archive: str) -> _End | None:
    """Return zip64's version of the end record, if its locator stands directly before (4.3.14, 4.3.15)."""
    at = end.start - _LOCATOR.size
    if at < 0 or read(at, 4) != _LOCATOR_MARK:
        return None
    _, disk, record_at, disks = _LOCATOR.unpack(read(at, _LOCATOR.size))
    if disk != 0 or disks != 1 or record_at != at - _END64.size or record_at < 0:
        refuse(archive, None, "has a zip64 locator that does not point directly before itself", Reason.ZIP64_LOCATOR)
    mark, length, _, needed, disk, first, here, entries, size, offset = _END64.unpack(read(record_at, _END64.size))
    if mark != _END64_MARK or length != _END64.size - 12 or needed > NEWEST or disk or first or here != entries:
        refuse(archive, None, "has a zip64 end record that is not one", Reason.ZIP64_END)
    pairs = (
        (end.entries, entries, _SENTINEL16),
        (end.size, size, extras.SENTINEL),
        (end.offset, offset, extras.SENTINEL),
    )
    if any(classic not in (real, sentinel) for classic, real, sentinel in pairs):
        why = "gives two different central directories in its two end records"
        refuse(archive, None, why, Reason.ZIP64_TWO_DIRECTORIES)
    return _End(record_at, entries, size, offset)


def _records(directory: bytes, entries: int, archive: str) -> list[Member]:
    """Return exactly so many members from exactly these bytes."""
    members: list[Member] = []
    spellings = names.Spellings()
    position = 0
    for _ in range(entries):
        member, length = _record(directory, position, archive)
        why = names.fault(member.path) or spellings.fault(member.path)
        if why is not None:
            refuse(archive, member.path, f"its name {why}", why.reason)
        members.append(member)
        position += length
    if position != len(directory):
        refuse(archive, None, "its central directory holds more than the end record counts", Reason.UNCOUNTED)
    if not members:
        refuse(archive, None, "has no members", Reason.NO_MEMBERS)
    return members


def _record(directory: bytes, at: int, archive: str) -> tuple[Member, int]:
    """Return the member at this place of the directory, and its record's length (4.3.12)."""
    if len(directory) - at < _CENTRAL.size or directory[at : at + 4] != _CENTRAL_MARK:
        refuse(archive, None, "its central directory holds less than the end record counts", Reason.MISSING_RECORDS)
    fields = _CENTRAL.unpack_from(directory, at)
    (
        _,
        _,
        _,
        needed,
        flags,
        method,
        _,
        _,
        crc,
        packed,
        size,
        name_length,
        extra_length,
        comment,
        disk,
        _,
        mode,
        offset,
    ) = fields
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_length
    end = extra_at + extra_length
    if end > len(directory):
        refuse(archive, None, "its central directory is cut short", Reason.DIRECTORY_CUT)
    raw = directory[name_at:extra_at]
    path = _decoded(raw, flags, archive)
    why = _faults(needed, flags, method, comment, disk)
    if why is not None:
        refuse(archive, path, why)
    try:
        size, packed, offset = extras.central_values(directory[extra_at:end], size, packed, offset)
    except extras.Unacceptable as error:
        refuse(archive, path, error.fault)
    member = Member(path, raw, flags, method, crc, packed, size, offset)
    _verify_kind(member, mode, archive)
    return member, end - at


def _decoded(raw: bytes, flags: int, archive: str) -> str:
    encoding = "utf-8" if flags & UTF8 else "ascii"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        reason = Reason.NOT_UTF8 if flags & UTF8 else Reason.NOT_ASCII
        refuse(archive, raw.decode("latin-1"), f"its name is not {encoding.upper()}, as its flags say", reason)


def _faults(needed: int, flags: int, method: int, comment: int, disk: int) -> Fault | None:
    rows = (
        (bool(flags & 1), Reason.ENCRYPTED, "it is encrypted"),
        (bool(flags & ~_FLAGS), Reason.FLAGS, f"its flags 0x{flags:04x} are not ones that all readers agree about"),
        (
            method not in (STORED, DEFLATED),
            Reason.METHOD,
            f"its compression method {method} is neither stored nor deflate",
        ),
        (
            bool(flags & DESCRIPTOR) and method == STORED,
            Reason.STORED_DESCRIPTOR,
            "it is stored with its size behind it, where data can pose as it",
        ),
        (needed > NEWEST, Reason.VERSION, f"it needs version {needed / 10} of the format"),
        (comment != 0, Reason.MEMBER_COMMENT, "it carries a comment"),
        (disk != 0, Reason.MEMBER_DISK, "it is on another disk"),
    )
    return next((Fault(reason, why) for wrong, reason, why in rows if wrong), None)


def _verify_kind(member: Member, attributes: int, archive: str) -> None:
    """Refuse all but regular files and empty directories; the upper half of the attributes is Unix's mode."""
    kind = stat.S_IFMT(attributes >> 16)
    if kind not in (0, stat.S_IFDIR if member.is_directory else stat.S_IFREG):
        reason, what = _KINDS.get(kind, (Reason.SPECIAL, "special file"))
        refuse(archive, member.path, f"it is a {what}, not a regular file", reason)
    if attributes & 0x10 and not member.is_directory:
        refuse(archive, member.path, "it is marked as a directory, but its name is a file's", Reason.DIRECTORY_BIT)
    if member.is_directory and member.size:
        refuse(archive, member.path, "it is a directory with content", Reason.DIRECTORY_CONTENT)
    if member.method == STORED and member.size != member.compressed_size:
        refuse(archive, member.path, "it is stored, but its two sizes differ", Reason.STORED_SIZES)


_KINDS = {
    stat.S_IFLNK: (Reason.SYMBOLIC_LINK, "symbolic link"),
    stat.S_IFDIR: (Reason.UNNAMED_DIRECTORY, "directory without the name of one"),
    stat.S_IFREG: (Reason.NAMED_DIRECTORY, "file with the name of a directory"),
    stat.S_IFIFO: (Reason.PIPE, "pipe"),
    stat.S_IFSOCK: (Reason.SOCKET, "socket"),
    stat.S_IFCHR: (Reason.DEVICE, "device"),
    stat.S_IFBLK: (Reason.DEVICE, "device"),
}


def _verify_layout(members: list[Member], directory: int, archive: str) -> None:
    """Refuse what cannot be one member after the other; `passage` shows that nothing is between them."""
    if members[0].offset != 0:
        refuse(archive, None, f"has {members[0].offset} bytes before its first member", Reason.PREFIX)
    ends = [*(member.offset for member in members[1:]), directory]
    for member, end in zip(members, ends, strict=True):
        if member.offset + LOCAL.size + len(member.raw) + member.compressed_size > end:
            refuse(archive, member.path, "it overlaps what follows it", Reason.OVERLAP)
