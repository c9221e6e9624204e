"""The tarball: one walk over a gzipped tar as torch-model-archiver writes it, members handed on as they come.

Sans-IO: bytes come from an iterator, members go to a sink. TorchServe takes the first component off every name,
whatever it is, and reads one gzip member; tar's extensions let one member have two names, sizes or kinds, of which
each reader takes another. So: one gzip member, one top directory, files and directories, and of pax only what changes
nothing or what ustar has no room for. Section numbers of gzip are those of RFC 1952.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torchserve_guard.archives import mar, names
from torchserve_guard.archives.limits import Limits
from torchserve_guard.archives.passage import Sink, Tape
from torchserve_guard.archives.refusal import Fault, Reason, refuse

_OUTPUT = 1 << 20
_GZIP_HEAD = struct.Struct("<3sBIBB")
_GZIP_TAIL = struct.Struct("<II")
_GZIP_MARK = b"\x1f\x8b\x08"
_FNAME = 1 << 3

BLOCK = 512
LARGEST_PAX = 8192
LONGEST_END = 64 << 10
"""Bytes of zeros at the end: tar fills up its last record, of 10 KiB unless told otherwise."""

_POSIX, _GNU = b"ustar\x0000", b"ustar  \x00"
_USTAR_LARGEST = 8**11
_CUT = Fault(Reason.TAR_CUT, "ends in the middle of its tar archive")
_NUMBER = re.compile(rb"([0-7]+)[ \0]+")
_TEXTS = (slice(0, 100), slice(157, 257), slice(265, 297), slice(297, 329))
_NUMBERS = (slice(100, 108), slice(108, 116), slice(116, 124), slice(136, 148))
_DEVICES = (slice(329, 337), slice(337, 345))

_FILE, _DIRECTORY, _PAX = b"0", b"5", b"x"
_OTHERS = {
    b"1": (Reason.TAR_HARD_LINK, "it is a hard link, not a regular file"),
    b"2": (Reason.TAR_SYMBOLIC_LINK, "it is a symbolic link, not a regular file"),
    b"3": (Reason.TAR_DEVICE, "it is a device, not a regular file"),
    b"4": (Reason.TAR_DEVICE, "it is a device, not a regular file"),
    b"6": (Reason.TAR_PIPE, "it is a pipe, not a regular file"),
    b"S": (Reason.TAR_SPARSE, "it is a sparse file, which readers fill up differently"),
    b"L": (Reason.TAR_LONG_NAME, "it has a long name in GNU's way: pack it with `tar --format=pax`"),
    b"K": (Reason.TAR_LONG_NAME, "it has a long name in GNU's way: pack it with `tar --format=pax`"),
    b"g": (Reason.TAR_GLOBAL_PAX, "it is a global pax header, which changes all members behind it"),
}

_TIME, _ID, _WHO = r"-?\d{1,12}(\.\d{1,20})?", r"\d{1,10}", r"[^\x00-\x1f\x7f]{1,256}"
_PAX_VALUES = {
    **{key: re.compile(_TIME, re.ASCII) for key in ("mtime", "atime", "ctime")},
    **{key: re.compile(_ID, re.ASCII) for key in ("uid", "gid")},
    **{key: re.compile(_WHO) for key in ("uname", "gname")},
    "path": re.compile(r"[^\x00]+", re.DOTALL),
    "size": re.compile(r"[1-9]\d{0,17}", re.ASCII),
}
_PAX_RECORD = re.compile(rb"([1-9]\d{0,4}) ")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a header says: its name as it is spelt, before anything is taken off."""

    name: bytes
    kind: bytes
    size: int
    posix_name: bytes
    path: str | None = None


def walk(chunks: Iterator[bytes], size: int, sink: Sink, archive: str, limits: Limits) -> None:
    """Hand every member of an archive of so many bytes to the sink; raise VerificationError for the first thing wrong.

    INVARIANT: on return, every byte of the archive was gzip's head or tail, or inflated to a header, datum, padding
    or end of exactly one member, and nothing of it has a second meaning.
    """
    tape = Tape(_inflated(Tape(chunks, archive), size, archive), archive, _CUT)
    contents = _Contents(archive, limits, size)
    while (entry := _entry(tape, archive)) is not None:
        path = contents.admit(entry)
        if path is None:
            continue
        sink.expect(entry.size)
        sink.open(path)
        for piece in tape.pieces(entry.size):
            sink.write(piece)
        sink.close()
        _verify_padding(tape, entry.size, archive, path)
    _verify_end(tape, archive)
    contents.verify_whole()


class _Contents:
    """What is inside the top directory, as far as it was read: each name once, and all within the limits."""

    def __init__(self, archive: str, limits: Limits, packed: int) -> None:
        self._archive = archive
        self._limits = limits
        self._packed = packed
        self._spellings = names.Spellings()
        self._root: str | None = None
        self._members = 0
        self._unpacked = 0
        self._has_manifest = False

    def admit(self, entry: _Entry) -> str | None:
        """Return the member's path below the top directory, None for that directory itself; or refuse it."""
        path = _spelt(entry, self._archive)
        top, slash, inside = path.partition("/")
        if not slash:
            why = "lies beside a top directory, of which torch-model-archiver makes one for all members"
            refuse(self._archive, path, why, Reason.TAR_NO_ROOT)
        fault = _fault(top, path, inside) or self._spellings.fault(path)
        if fault is not None:
            refuse(self._archive, path, f"its name {fault}", fault.reason)
        if self._root not in (None, top):
            why = f"is not in the top directory `{self._root}`: TorchServe would put both into one"
            refuse(self._archive, path, why, Reason.TAR_TWO_ROOTS)
        self._root = top
        self._count(inside, entry.size)
        return inside or None

    def verify_whole(self) -> None:
        """Refuse an archive without members, or without the manifest of a model."""
        if not self._members:
            refuse(self._archive, None, "has no members", Reason.NO_MEMBERS)
        if not self._has_manifest:
            why = f"has no `{mar.MANIFEST}` in its top directory: make it with torch-model-archiver"
            refuse(self._archive, None, why, Reason.NO_MANIFEST)

    def _count(self, inside: str, size: int) -> None:
        self._members += 1
        self._unpacked += size
        why = self._limits.fault(self._members, self._unpacked, self._packed)
        if why is not None:
            refuse(self._archive, None, why)
        if inside == mar.MANIFEST:
            self._has_manifest = True
            if size > self._limits.mar_manifest:
                why = Fault(Reason.MANIFEST_LARGE, f"is larger than the limit of {self._limits.mar_manifest} bytes")
                refuse(self._archive, inside, why)


def _fault(top: str, path: str, inside: str) -> Fault | None:
    """Return what is wrong with a name; `.` as the top directory is what `tar czf x.tar.gz .` writes."""
    outside = names.fault(path) if top != "." else None
    return outside or (names.fault(inside) if inside else None)


def _spelt(entry: _Entry, archive: str) -> str:
    """Return the whole path, a directory's with its `/`."""
    try:
        path = entry.path if entry.path is not None else entry.name.decode("ascii")
    except UnicodeDecodeError:
        refuse(archive, entry.name.decode("latin-1"), "its name is not ASCII, and in no pax header", Reason.NOT_ASCII)
    if entry.kind == _DIRECTORY:
        if entry.size:
            refuse(archive, path, "it is a directory with content", Reason.TAR_DIRECTORY_SIZE)
        return path.removesuffix("/") + "/"
    if path.endswith("/"):
        refuse(archive, path, "it is a file with the name of a directory", Reason.TAR_FILE_SLASH)
    return path


def _entry(tape: Tape, archive: str) -> _Entry | None:
    """Read one member's header, with the pax header before it if there is one; None at the end."""
    block = tape.take(BLOCK)
    if not any(block):
        return None
    entry = _header(block, archive)
    if entry.kind != _PAX:
        return entry
    if entry.size > LARGEST_PAX:
        refuse(archive, None, f"has a pax header larger than {LARGEST_PAX} bytes", Reason.PAX_LARGE)
    records = _records(tape.take(entry.size), archive)
    _verify_padding(tape, entry.size, archive, None)
    block = tape.take(BLOCK)
    if not any(block):
        refuse(archive, None, "has a pax header that belongs to no member", Reason.PAX_ALONE)
    member = _header(block, archive)
    if member.kind == _PAX:
        refuse(archive, None, "has two pax headers for one member", Reason.PAX_TWICE)
    return _extended(member, records, archive)


def _header(block: bytes, archive: str) -> _Entry:
    """Return what a header says; every byte of it has one meaning, or is zero."""
    shown = block[:100].rstrip(b"\0").decode("latin-1")
    form = block[257:265]
    if form not in (_POSIX, _GNU):
        refuse(archive, None, "is no tar archive of the formats ustar, pax or GNU", Reason.TAR_FORMAT)
    if _octal(block[148:156], archive, shown) != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        refuse(archive, shown, "the checksum of its header is another", Reason.TAR_CHECKSUM)
    for field in (*_NUMBERS, *(field for field in _DEVICES if any(block[field]))):
        _octal(block[field], archive, shown)
    name, link, *_ = (_text(block[field], archive, shown) for field in _TEXTS)
    prefix = _text(block[345:500], archive, shown) if form == _POSIX else b""
    if any(block[500:]) or (form == _GNU and any(block[345:500])):
        refuse(archive, shown, "its header has something where nothing should be", Reason.TAR_UNUSED)
    kind = block[156:157]
    if kind not in (_FILE, _DIRECTORY, _PAX):
        default = (Reason.TAR_TYPE, f"its type `{ascii(kind)[2:-1]}` is neither a file's nor a directory's")
        reason, why = _OTHERS.get(kind, default)
        refuse(archive, shown, why, reason)
    if link:
        refuse(archive, shown, "it names a link, and is none", Reason.TAR_LINK_NAME)
    whole = prefix + b"/" + name if prefix else name
    return _Entry(whole, kind, _octal(block[124:136], archive, shown), b"" if prefix else name)


def _octal(field: bytes, archive: str, member: str) -> int:
    """Return a number: octal digits up to a blank or zero, in all of the field; base 256 is GNU's own."""
    match = _NUMBER.fullmatch(field)
    if match is None:
        refuse(archive, member, "its header has a number that is not plain octal", Reason.TAR_NUMBER)
    return int(match[1], 8)


def _text(field: bytes, archive: str, member: str) -> bytes:
    """Return a text: up to the first zero, behind which is nothing but zeros."""
    text, _, behind = field.partition(b"\0")
    if any(behind):
        refuse(archive, member, "its header has something behind the end of a text", Reason.TAR_TEXT)
    return text


def _records(data: bytes, archive: str) -> dict[str, str]:
    """Return the records of a pax header: known, whole, UTF-8, each once."""
    found: dict[str, str] = {}
    while data:
        match = _PAX_RECORD.match(data)
        length = int(match[1]) if match is not None else 0
        record = data[match.end() : length] if match is not None else b""
        key, equals, value = record[:-1].partition(b"=")
        if len(data) < length or not record.endswith(b"\n") or not equals:
            refuse(archive, None, "has a pax header that is not a list of records", Reason.PAX_MALFORMED)
        _note(found, key, value, archive)
        data = data[length:]
    return found


def _note(found: dict[str, str], key: bytes, value: bytes, archive: str) -> None:
    try:
        word, text = key.decode("ascii"), value.decode("utf-8")
    except UnicodeDecodeError:
        refuse(archive, None, "has a pax header that is not UTF-8", Reason.PAX_NOT_UTF8)
    if word not in _PAX_VALUES:
        why = f"has a pax record {word!a}, which readers obey or not: pack it with torch-model-archiver"
        refuse(archive, None, why, Reason.PAX_KEYWORD)
    if _PAX_VALUES[word].fullmatch(text) is None:
        refuse(archive, None, f"has a pax record `{word}` with a value that cannot be", Reason.PAX_VALUE)
    if word in found:
        refuse(archive, None, f"has two pax records `{word}` for one member", Reason.PAX_TWICE)
    found[word] = text


def _extended(entry: _Entry, records: dict[str, str], archive: str) -> _Entry:
    """Return the entry with the name and the size that its header has no room for; anything else is another member."""
    path = records.get("path")
    if path is not None and entry.posix_name not in _shortened(path):
        why = f"its pax header calls it `{ascii(path)[1:-1]}`, another than its own header"
        refuse(archive, entry.name.decode("latin-1"), why, Reason.PAX_PATH)
    size = int(records.get("size", entry.size))
    if size != entry.size and (entry.size or size < _USTAR_LARGEST):
        why = "its pax header gives it another size than its own header"
        refuse(archive, entry.name.decode("latin-1"), why, Reason.PAX_SIZE)
    return replace(entry, path=path, size=size)


def _shortened(path: str) -> tuple[bytes, ...]:
    """Return what writers put into the 100 bytes of a header: Python `?` for what is not ASCII, GNU tar the bytes."""
    return path.encode("ascii", "replace")[:100], path.encode()[:100]


def _verify_padding(tape: Tape, size: int, archive: str, member: str | None) -> None:
    if any(tape.take(-size % BLOCK)):
        refuse(archive, member, "behind its content is something where zeros should be", Reason.TAR_PADDING)


def _verify_end(tape: Tape, archive: str) -> None:
    """Read to the end, of which one block of zeros was seen: a second one at least, and no more than a writer's."""
    zeros = 0
    for piece in tape.rest():
        zeros += len(piece)
        if any(piece):
            refuse(archive, None, "has something behind the end of its tar archive", Reason.TAR_BEHIND_END)
        if zeros > LONGEST_END:
            refuse(archive, None, f"has more than {LONGEST_END} bytes of zeros at its end", Reason.TAR_LONG_END)
    if zeros < BLOCK:
        refuse(archive, None, "ends with one block of zeros, not two", Reason.TAR_ONE_END_BLOCK)
    if zeros % BLOCK:
        refuse(archive, None, _CUT)


def _inflated(tape: Tape, size: int, archive: str) -> Iterator[bytes]:
    """Yield what one gzip member holds (2.3); it is the whole file, with the CRC and the size that it says."""
    _verify_gzip_head(tape, size, archive)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = length = 0
    tail = b""
    for piece in tape.pieces(size - tape.position):
        tail += bytes(piece[: 2 * _GZIP_TAIL.size]) if inflater.eof else b""
        try:
            for output in _outputs(inflater, piece):
                crc, length = zlib.crc32(output, crc), length + len(output)
                yield output
        except zlib.error as error:
            refuse(archive, None, f"its gzip stream is damaged ({error})", Reason.GZIP_DAMAGED)
    if not inflater.eof:
        refuse(archive, None, "its gzip stream does not end: it is truncated", Reason.GZIP_CUT)
    _verify_gzip_tail(inflater.unused_data[: 2 * _GZIP_TAIL.size] + tail, crc, length, archive)


def _outputs(inflater: zlib._Decompress, piece: memoryview) -> Iterator[bytes]:
    """Yield what one more piece of the stream unpacks to, never much at once."""
    pending: bytes | memoryview = piece
    while not inflater.eof:
        output = inflater.decompress(pending, _OUTPUT)
        pending = inflater.unconsumed_tail
        if not output:
            return
        yield output


def _verify_gzip_head(tape: Tape, size: int, archive: str) -> None:
    """Read the head (2.3.1): of the optional fields only the name, which Python writes and nobody obeys."""
    if size < _GZIP_HEAD.size + _GZIP_TAIL.size:
        refuse(archive, None, "is too short to be a gzip file", Reason.GZIP_MARK)
    mark, flags, _, _, _ = _GZIP_HEAD.unpack(tape.take(_GZIP_HEAD.size))
    if mark != _GZIP_MARK:
        refuse(archive, None, "is not gzip, whatever its name says", Reason.GZIP_MARK)
    if flags & ~_FNAME:
        refuse(archive, None, f"its gzip flags 0x{flags:02x} ask for more than a name", Reason.GZIP_FLAGS)
    while flags and tape.take(1) != b"\0":
        if tape.position > _GZIP_HEAD.size + names.LONGEST or tape.position == size:
            refuse(archive, None, "its gzip name does not end", Reason.GZIP_NAME)


def _verify_gzip_tail(tail: bytes, crc: int, length: int, archive: str) -> None:
    """Compare the tail (2.3.1), with nothing behind it: of a second member TorchServe sees nothing, `tar` all."""
    if len(tail) < _GZIP_TAIL.size:
        refuse(archive, None, "its gzip stream has no CRC and size: it is truncated", Reason.GZIP_CUT)
    if tail[_GZIP_TAIL.size :].startswith(_GZIP_MARK[:2]):
        refuse(archive, None, "has a second gzip member, which some readers unpack and some do not", Reason.GZIP_SECOND)
    if len(tail) > _GZIP_TAIL.size:
        refuse(archive, None, "has bytes behind the end of its gzip stream", Reason.GZIP_BEHIND)
    said_crc, said_length = _GZIP_TAIL.unpack(tail)
    if said_crc != crc:
        refuse(archive, None, f"unpacks to the CRC {crc:08x} and declares {said_crc:08x}", Reason.GZIP_CRC)
    if said_length != length % (1 << 32):
        refuse(archive, None, f"unpacks to {length} bytes and declares {said_length}", Reason.GZIP_SIZE)
