"""Hostile archives, each made of a good one by one change: `python tests/corpus/archives.py OUTDIR` writes them.

Each row gives a name, the bytes, and what the refusal has to say: an archive that is refused for another
reason is not shown to be refused for its own.
"""

from __future__ import annotations

import json
import stat
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

HANDLER = b"def handle(data, context):\n    return data\n"
EVIL = b"import os\nos.system('id')\n"
MODEL = {"modelName": "m", "modelVersion": "1.0", "handler": "handler.py"}
MANIFEST = "MAR-INF/MANIFEST.json"
STORED, DEFLATED = 0, 8


def manifest(**model: object) -> bytes:
    """Return a MANIFEST.json with these fields of the model beside the usual ones."""
    return json.dumps({"runtime": "python", "model": MODEL | model, "archiverVersion": "0.12.0"}).encode()


def deflated(data: bytes) -> bytes:
    """Return the raw deflate stream of the data."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@dataclass(frozen=True)
class Entry:
    """One entry; `local` and `central` override single fields of one header only."""

    name: str | bytes
    data: bytes = b""
    method: int = DEFLATED
    flags: int = 0
    mode: int = stat.S_IFREG | 0o644
    packed: bytes | None = None
    local: dict[str, object] = field(default_factory=dict)
    central: dict[str, object] = field(default_factory=dict)
    descriptor: bytes = b""
    before: bytes = b""

    def fields(self) -> dict[str, object]:
        """Return what both headers say."""
        packed = self.content()
        name = self.name if isinstance(self.name, bytes) else self.name.encode()
        numbers = {"crc": zlib.crc32(self.data), "csize": len(packed), "size": len(self.data)}
        return {"name": name, "flags": self.flags, "method": self.method, "extra": b"", "needed": 20} | numbers

    def content(self) -> bytes:
        """Return the packed bytes."""
        if self.packed is not None:
            return self.packed
        return self.data if self.method == STORED else deflated(self.data)

    def local_bytes(self) -> bytes:
        """Return header, data and descriptor."""
        f = self.fields() | self.local
        head = struct.pack(
            "<4sHHHHHIIIHH",
            b"PK\3\4", f["needed"], f["flags"], f["method"], 0, 0x21, f["crc"], f["csize"], f["size"],
            len(f["name"]), len(f["extra"]),
        )  # fmt: skip
        return head + f["name"] + f["extra"] + self.content() + self.descriptor

    def central_bytes(self, offset: int) -> bytes:
        """Return the directory's record."""
        f = self.fields() | {"offset": offset, "comment": b"", "disk": 0, "attributes": self.mode << 16} | self.central
        head = struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2", 0x0314, f["needed"], f["flags"], f["method"], 0, 0x21, f["crc"], f["csize"], f["size"],
            len(f["name"]), len(f["extra"]), len(f["comment"]), f["disk"], 0, f["attributes"], f["offset"],
        )  # fmt: skip
        return head + f["name"] + f["extra"] + f["comment"]


HANDLER_ENTRY = Entry("handler.py", HANDLER)
MANIFEST_ENTRY = Entry(MANIFEST, manifest())
GOOD = (HANDLER_ENTRY, MANIFEST_ENTRY)


def archive(
    *entries: Entry,
    prefix: bytes = b"",
    gap: bytes = b"",
    suffix: bytes = b"",
    hidden: bytes = b"",
    zip64: dict[str, int] | None = None,
    **end: object,
) -> bytes:
    """Return an archive of these entries; the rest says what is wrong with it as a whole."""
    body, directory = prefix, b""
    for entry in entries:
        body += entry.before
        directory += entry.central_bytes(len(body))
        body += entry.local_bytes()
    body += gap
    offset = len(body)
    f = {"disk": 0, "first": 0, "here": len(entries), "count": len(entries), "size": len(directory), "offset": offset}
    f |= {"comment": 0} | end
    tail = hidden
    if zip64 is not None:
        z = {
            "length": 44,
            "count": len(entries),
            "size": len(directory),
            "offset": offset,
            "at": offset + len(directory),
        }
        z |= zip64
        tail += struct.pack(
            "<4sQHHIIQQQQ", b"PK\6\6", z["length"], 45, 45, 0, 0, z["count"], z["count"], z["size"], z["offset"]
        )
        tail += struct.pack("<4sIQI", b"PK\6\7", 0, z["at"], 1)
    tail += struct.pack(
        "<4sHHHHIIH", b"PK\5\6", f["disk"], f["first"], f["here"], f["count"], f["size"], f["offset"], f["comment"]
    )
    return body + directory + tail + suffix


def good(**options: object) -> bytes:
    """Return the good archive, with something wrong as a whole."""
    return archive(*GOOD, **options)


def handler(**changes: object) -> bytes:
    """Return the good archive with another handler entry."""
    return archive(replace(HANDLER_ENTRY, **changes), MANIFEST_ENTRY)


def beside(*entries: Entry) -> bytes:
    """Return the good archive with more entries."""
    return archive(*GOOD, *entries)


def telling(data: bytes) -> bytes:
    """Return the good archive with another MANIFEST.json."""
    return archive(HANDLER_ENTRY, Entry(MANIFEST, data))


def descriptor(data: bytes, *, crc: int | None = None, mark: bytes = b"PK\7\x08") -> bytes:
    """Return the data descriptor of a deflated member."""
    return struct.pack("<4sIII", mark, zlib.crc32(data) if crc is None else crc, len(deflated(data)), len(data))


def zip64_extra(*values: int) -> bytes:
    """Return a zip64 extra field of these values."""
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def entry_in_slack() -> bytes:
    """Return an archive whose handler has a second stream's worth of bytes behind its own."""
    return handler(packed=deflated(HANDLER) + Entry("sitecustomize.py", EVIL).local_bytes())


def two_directories() -> bytes:
    """Return an archive with a second directory between the first and the end record: `handler.py` twice."""
    inner = archive(Entry("handler.py", EVIL), MANIFEST_ENTRY)
    return inner + good(prefix=b"")


def overlapping() -> bytes:
    """Return an archive whose second entry begins inside the first one's stored data."""
    inner = Entry("inner.py", EVIL, STORED)
    outer = Entry("outer.bin", inner.local_bytes(), STORED)
    at = 30 + len("outer.bin")
    return archive(outer, MANIFEST_ENTRY, Entry("inner.py", EVIL, STORED, central={"offset": at}))


def shared_bytes() -> bytes:
    """Return an archive with two records of one local header."""
    return archive(HANDLER_ENTRY, MANIFEST_ENTRY, replace(HANDLER_ENTRY, central={"offset": 0, "name": b"again.py"}))


def local_only() -> bytes:
    """Return an archive with an entry that only a streaming reader sees."""
    return archive(HANDLER_ENTRY, replace(MANIFEST_ENTRY, before=Entry("sitecustomize.py", EVIL).local_bytes()))


def central_only() -> bytes:
    """Return an archive whose directory lists an entry behind everything."""
    return archive(*GOOD, Entry("ghost.py", EVIL, central={"offset": 10_000_000}))


def bomb(size: int = 300 << 20) -> bytes:
    """Return an archive of so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block, crc, packed = bytes(1 << 20), 0, b""
    for _ in range(size >> 20):
        crc = zlib.crc32(block, crc)
        packed += packer.compress(block)
    packed += packer.flush()
    numbers = {"crc": crc, "size": size}
    return beside(Entry("zeros.bin", packed=packed, local=numbers, central=numbers))


def cut_directory() -> bytes:
    """Return an archive whose last record claims a name that goes on behind the directory."""
    data = bytearray(good())
    at = data.rindex(b"PK\1\2") + 28
    data[at : at + 2] = b"\xff\xff"
    return bytes(data)


def into_directory() -> bytes:
    """Return an archive whose last member ends with the first bytes of the directory."""
    sizes = {"csize": 8, "size": 8}
    hidden = {"extra": b"\xfe\xca\0\0"}
    return beside(Entry("x", b"abcdPK\1\2", STORED, packed=b"abcd", local=sizes | hidden, central=sizes))


LINK = stat.S_IFLNK | 0o777

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # the end
    "empty file": (lambda: b"", "too short"),
    "not a zip": (lambda: b"\x80\x02" + bytes(100), "no end record"),
    "truncated": (lambda: good()[:-30], "no end record"),
    "no central directory": (lambda: b"".join(entry.local_bytes() for entry in GOOD), "no end record"),
    "suffix": (lambda: good(suffix=b"#!/bin/sh\n"), "10 bytes behind its end record"),
    "a second archive behind": (lambda: good() + archive(Entry("x", b"")), "does not end where the end record"),
    "two directories": (two_directories, "does not end where the end record"),
    "comment": (lambda: good(suffix=b"hello", comment=5), "carries a comment"),
    "comment that is not there": (lambda: good(comment=5), "declares a comment"),
    "multi-disk": (lambda: good(disk=1), "multi-disk"),
    "two counts": (lambda: good(here=1), "counts its entries twice"),
    "one entry too few counted": (lambda: good(here=1, count=1), "more than the end record counts"),
    "one entry too many counted": (lambda: good(here=3, count=3), "less than the end record counts"),
    "no entries": (archive, "has no members"),
    "directory cut short": (cut_directory, "is cut short"),
    "directory of megabytes": (
        lambda: beside(*(Entry(f"f{n}", central={"comment": bytes(65_000)}) for n in range(270))),
        "directory is larger than the limit",
    ),
    "many members": (lambda: beside(*(Entry(f"f{n}") for n in range(20_000))), "members, more than the limit"),
    "bytes behind the directory": (lambda: good(hidden=b"hidden"), "does not end where the end record"),
    "zip64 sentinel without record": (lambda: good(here=0xFFFF, count=0xFFFF), "zip64 end record that is not there"),
    "zip64 another directory": (lambda: good(zip64={"offset": 0}), "two different central directories"),
    "zip64 another count": (lambda: good(zip64={"count": 1}), "two different central directories"),
    "zip64 locator elsewhere": (lambda: good(zip64={"at": 0}), "does not point directly before itself"),
    "zip64 record with an extension": (lambda: good(zip64={"length": 60}), "zip64 end record that is not one"),
    # the layout
    "prefix": (lambda: good(prefix=b"#!/usr/bin/env python\n"), "bytes before its first member"),
    "gap before the directory": (lambda: good(gap=b"gap!"), "4 bytes that belong to nothing"),
    "gap between entries": (
        lambda: archive(HANDLER_ENTRY, replace(MANIFEST_ENTRY, before=b"gap!")),
        "4 bytes that belong to nothing",
    ),
    "entry in the local view only": (local_only, "bytes that belong to nothing"),
    "entry in the central view only": (central_only, "overlaps what follows it"),
    "overlapping": (overlapping, "overlaps what follows it"),
    "reaching into the directory": (into_directory, "reaches into the central directory"),
    "two records of one entry": (shared_bytes, "overlaps what follows it"),
    # local and central
    "another local name": (lambda: handler(local={"name": b"evil_py.py"}), "local header calls it"),
    "another local method": (lambda: handler(local={"method": STORED}), "two values of its compression method"),
    "another local size": (lambda: handler(local={"size": 7}), "two values of its size"),
    "another local packed size": (lambda: handler(local={"csize": 7}), "two values of its packed size"),
    "another local crc": (lambda: handler(local={"crc": 7}), "two values of its CRC"),
    "another local flag": (lambda: handler(local={"flags": 1 << 3}), "two values of its flags"),
    "no local header": (
        lambda: good().replace(b"PK\3\4", b"PK\3\5", 1),
        "points to something that is no local header",
    ),
    # the content
    "lying crc": (lambda: handler(local={"crc": 1}, central={"crc": 1}), "has the CRC"),
    "lying size, more": (lambda: handler(local={"size": 7}, central={"size": 7}), "unpacks to more than"),
    "lying size, less": (lambda: handler(local={"size": 9999}, central={"size": 9999}), "and declares 9999"),
    "stored with two sizes": (
        lambda: handler(method=STORED, local={"size": 7}, central={"size": 7}),
        "its two sizes differ",
    ),
    "damaged deflate": (lambda: handler(packed=b"\xff" * 40), "deflate stream is damaged"),
    "unfinished deflate": (lambda: handler(packed=deflated(HANDLER)[:-3]), "deflate stream does not end"),
    "entry in the slack": (entry_in_slack, "behind the end of its deflate stream"),
    "one byte of slack": (lambda: handler(packed=deflated(HANDLER) + b"\0"), "behind the end of its deflate stream"),
    "terabytes declared": (
        lambda: handler(central={"size": 0xFFFFFFFF, "extra": zip64_extra(1 << 40)}),
        "unpacks to 1099511",
    ),
    "bomb": (bomb, "more than the limit of 200 to 1"),
    # flags and descriptors
    "encrypted": (lambda: handler(flags=1), "encrypted"),
    "strong encryption": (lambda: handler(flags=1 << 6), "flags 0x0040"),
    "masked headers": (lambda: handler(flags=1 << 13), "flags 0x2000"),
    "unknown method": (lambda: handler(method=99, packed=HANDLER), "compression method 99"),
    "deflate64": (lambda: handler(method=9, packed=HANDLER), "compression method 9"),
    "version of another format": (lambda: handler(central={"needed": 63}), "needs version 6.3"),
    "stored with descriptor": (
        lambda: handler(method=STORED, flags=1 << 3, descriptor=descriptor(HANDLER)),
        "with its size behind it",
    ),
    "lying descriptor": (
        lambda: handler(flags=1 << 3, descriptor=descriptor(HANDLER, crc=1)),
        "descriptor does not say",
    ),
    "descriptor without its mark": (
        lambda: handler(flags=1 << 3, descriptor=descriptor(HANDLER, mark=b"PK\7\7")),
        "descriptor does not say",
    ),
    "descriptor of two widths": (
        lambda: handler(
            flags=1 << 3,
            local={"extra": zip64_extra(len(HANDLER), len(deflated(HANDLER)))},
            descriptor=descriptor(HANDLER),
        ),
        "two widths",
    ),
    # extra fields
    "zip64 sentinel without field": (lambda: handler(central={"size": 0xFFFFFFFF}), "zip64 field that is not there"),
    "zip64 local sentinel without field": (
        lambda: handler(local={"size": 0xFFFFFFFF}),
        "zip64 field that is not there",
    ),
    "zip64 field for nothing": (lambda: handler(central={"extra": zip64_extra(7)}), "hold exactly what the record"),
    "zip64 local half": (
        lambda: handler(local={"extra": zip64_extra(len(HANDLER)), "size": 0xFFFFFFFF}),
        "hold exactly both sizes",
    ),
    "zip64 local lie": (
        lambda: handler(local={"extra": zip64_extra(7, len(deflated(HANDLER)))}),
        "give different sizes",
    ),
    "unicode path": (lambda: handler(central={"extra": b"\x75\x70\x01\x00\x01"}), "extra field 0x7075"),
    "aes": (lambda: handler(local={"extra": b"\x01\x99\x00\x00"}), "extra field 0x9901"),
    "extra cut short": (lambda: handler(central={"extra": b"\x55\x54\xff\x00"}), "is cut short"),
    "extra of another length": (lambda: handler(central={"extra": b"\x55\x54\x02\x00ab"}), "wrong length"),
    "extra with a byte left": (lambda: handler(central={"extra": b"\x55"}), "do not end where they should"),
    "extra twice": (lambda: handler(central={"extra": 2 * b"\xfe\xca\x00\x00"}), "is there twice"),
    # names
    "duplicate": (lambda: beside(Entry("handler.py", EVIL)), "is there twice"),
    "case collision": (lambda: beside(Entry("Handler.py", EVIL)), "only in case"),
    "case collision of directories": (lambda: beside(Entry("a/x"), Entry("A/y")), "only in case"),
    "normal forms": (
        lambda: beside(Entry("é", flags=1 << 11), Entry("e\u0301", flags=1 << 11)),
        "only in case or normal form",
    ),
    "parent": (lambda: beside(Entry("../evil.py", EVIL)), "`..` component"),
    "parent inside": (lambda: beside(Entry("a/../../evil.py", EVIL)), "`..` component"),
    "absolute": (lambda: beside(Entry("/etc/cron.d/evil", EVIL)), "is absolute"),
    "backslash": (lambda: beside(Entry("..\\evil.py", EVIL)), "backslash"),
    "drive": (lambda: beside(Entry("C:evil.py", EVIL)), "colon"),
    "dot": (lambda: beside(Entry("./handler.py", EVIL)), "empty or `.` component"),
    "doubled slash": (lambda: beside(Entry("a//b.py", EVIL)), "empty or `.` component"),
    "nul": (lambda: beside(Entry("handler.py\0.txt", EVIL)), "control or invisible"),
    "escape": (lambda: beside(Entry("a\x1b[2Jb", EVIL)), "control or invisible"),
    "right-to-left": (lambda: beside(Entry("a\u202eyp.b", EVIL, flags=1 << 11)), "control or invisible"),
    "not utf-8": (lambda: beside(Entry(b"\xff.py", EVIL, flags=1 << 11)), "name is not UTF-8"),
    "not ascii": (lambda: beside(Entry("é.py", EVIL)), "name is not ASCII"),
    "file and directory": (lambda: beside(Entry("a", b""), Entry("a/b", b"")), "both a file and a directory"),
    "long": (lambda: beside(Entry("a/" * 20 + "b" * 1000)), "is longer than"),
    "deep": (lambda: beside(Entry("a/" * 40 + "b")), "is deeper than"),
    "the guard's marker": (lambda: beside(Entry(".tsguard")), "reserved"),
    "empty name": (lambda: beside(Entry("", EVIL)), "name is empty"),
    # kinds
    "socket": (lambda: beside(Entry("s", mode=stat.S_IFSOCK | 0o666)), "it is a socket"),
    "door": (lambda: beside(Entry("s", mode=0o150666)), "it is a special file"),
    "symbolic link": (lambda: beside(Entry("l", b"/etc/passwd", STORED, mode=LINK)), "symbolic link"),
    "device": (lambda: beside(Entry("d", mode=stat.S_IFBLK | 0o666)), "it is a device"),
    "pipe": (lambda: beside(Entry("p", mode=stat.S_IFIFO | 0o666)), "it is a pipe"),
    "directory with content": (
        lambda: beside(Entry("d/", b"content", STORED, mode=stat.S_IFDIR | 0o755)),
        "directory with content",
    ),
    "directory without the name": (lambda: beside(Entry("d", mode=stat.S_IFDIR | 0o755)), "directory without the name"),
    "file with the name of a directory": (lambda: beside(Entry("d/")), "file with the name of a directory"),
    "directory by attribute": (lambda: beside(Entry("d", central={"attributes": 0x10})), "marked as a directory"),
    "entry comment": (lambda: handler(central={"comment": b"hi"}), "carries a comment"),
    "entry on another disk": (lambda: handler(central={"disk": 1}), "another disk"),
    # MAR semantics
    "no manifest": (lambda: archive(HANDLER_ENTRY), "has no `MAR-INF/MANIFEST.json`"),
    "two manifests": (lambda: beside(Entry(MANIFEST, manifest(handler="x"))), "is there twice"),
    "manifest in other case": (
        lambda: archive(HANDLER_ENTRY, Entry("mar-inf/manifest.json", manifest())),
        "has no `MAR",
    ),
    "repeated key": (
        lambda: telling(b'{"model": {"modelName": "m", "handler": "handler.py", "handler": "/tmp/evil.py"}}'),
        "the key `handler` twice",
    ),
    "manifest not json": (lambda: telling(b"{'model': 1}"), "is not JSON"),
    "manifest with NaN": (lambda: telling(b'{"model": NaN}'), "contains `NaN`"),
    "manifest without model": (lambda: telling(b"{}"), "`model`: Field required"),
    "manifest of lsp": (lambda: telling(b'{"runtime": "LSP", "model": {"modelName": "m"}}'), "`runtime`"),
    "manifest as a bomb": (lambda: telling(b" " * (2 << 20) + manifest()), "larger than the limit of"),
    "handler outside": (lambda: telling(manifest(handler="/tmp/evil.py:handle")), "`handler` is `/tmp/evil.py"),
    "handler above": (lambda: telling(manifest(handler="../evil.py")), "`handler` is `../evil.py`"),
    "handler of python": (lambda: telling(manifest(handler="builtins:print")), "`handler` is `builtins:print`"),
    "handler missing": (lambda: telling(manifest(handler="other.py")), "`handler` is `other.py`"),
    "weights outside": (lambda: telling(manifest(serializedFile="/tmp/w.pt")), "`serializedFile` is"),
    "model file above": (lambda: telling(manifest(modelFile="../model.py")), "`modelFile` is"),
    "requirements outside": (lambda: telling(manifest(requirementsFile="/tmp/r.txt")), "`requirementsFile` is"),
    "configuration outside": (lambda: telling(manifest(configFile="../c.yaml")), "`configFile` is"),
    "envelope elsewhere": (lambda: telling(manifest(envelope="..evil")), "`envelope` is"),
}

HARMLESS: dict[str, Callable[[], bytes]] = {
    "plain": good,
    "stored": lambda: handler(method=STORED),
    "with zip64 end record": lambda: good(zip64={}),
    "with zip64 end record and sentinels": lambda: good(
        zip64={}, here=0xFFFF, count=0xFFFF, size=0xFFFFFFFF, offset=0xFFFFFFFF
    ),
    "local zip64": lambda: handler(
        local={"extra": zip64_extra(len(HANDLER), len(deflated(HANDLER))), "size": 0xFFFFFFFF, "csize": 0xFFFFFFFF}
    ),
    "central zip64": lambda: handler(
        central={"extra": zip64_extra(len(HANDLER), len(deflated(HANDLER))), "size": 0xFFFFFFFF, "csize": 0xFFFFFFFF}
    ),
    "descriptor": lambda: handler(
        flags=1 << 3, local={"crc": 0, "size": 0, "csize": 0}, descriptor=descriptor(HANDLER)
    ),
    "empty directory": lambda: beside(Entry("logs/", method=STORED, mode=stat.S_IFDIR | 0o755)),
    "directory with files": lambda: beside(Entry("d/", method=STORED, mode=stat.S_IFDIR | 0o755), Entry("d/x", b"x")),
    "utf-8 name": lambda: beside(Entry("modèle.txt", b"x", flags=1 << 11)),
    "built-in handler": lambda: archive(Entry(MANIFEST, manifest(handler="image_classifier"))),
    "handler and function": lambda: telling(manifest(handler="handler:handle")),
    "no handler": lambda: telling(b'{"model": {"modelName": "m", "modelVersion": "1.0"}}'),
    "empty member": lambda: beside(Entry("empty.txt", b"", STORED), Entry("empty2.txt", b"")),
    "zeros": lambda: bomb(64 << 20),
}


def main(directory: Path) -> None:
    """Write every archive, hostile and harmless, to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (build, _) in HOSTILE.items():
        (directory / f"hostile-{name.replace(' ', '-').replace(',', '')}.mar").write_bytes(build())
    for name, make in HARMLESS.items():
        (directory / f"harmless-{name.replace(' ', '-')}.mar").write_bytes(make())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
