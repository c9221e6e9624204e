"""Hostile tarballs, each made of a good one by one change: `python tests/corpus/tarballs.py OUTDIR` writes them.

Each row gives a name, the bytes, and the identifier of the reason for which it has to be refused.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

HANDLER = b"def handle(data, context):\n    return data\n"
EVIL = b"import os\nos.system('id')\n"
DESCRIBED = (
    b'{"runtime": "python", "model": {"modelName": "m", "modelVersion": "1.0", "handler": "handler.py"},'
    b' "archiverVersion": "0.12.0"}'
)
MANIFEST = "m/MAR-INF/MANIFEST.json"
POSIX, GNU = b"ustar\x0000", b"ustar  \x00"
BLOCK = 512
END = bytes(2 * BLOCK)


@dataclass(frozen=True)
class Entry:
    """One entry; `fields` overrides bytes of the header at their offsets, before the checksum is made."""

    name: str | bytes
    data: bytes = b""
    kind: bytes = b"0"
    link: bytes = b""
    magic: bytes = POSIX
    size: int | bytes | None = None
    prefix: bytes = b""
    checksum: int = 0
    padding: bytes = b"\0"
    before: bytes = b""
    fields: dict[int, bytes] = field(default_factory=dict)

    def bytes(self) -> bytes:
        """Return header, content and padding."""
        name = self.name if isinstance(self.name, bytes) else self.name.encode()
        size = len(self.data) if self.size is None else self.size
        numbers = size if isinstance(size, bytes) else b"%011o\0" % size
        block = bytearray(
            name.ljust(100, b"\0") + b"0000644\0" + 2 * b"0000000\0" + numbers + b"00000000000\0" + bytes(8)
            + self.kind + self.link.ljust(100, b"\0") + self.magic + bytes(64) + 2 * b"0000000\0"
            + self.prefix.ljust(155, b"\0") + bytes(12)
        )  # fmt: skip
        for at, data in self.fields.items():
            block[at : at + len(data)] = data
        if 148 not in self.fields:
            block[148:156] = b"%06o\0 " % (sum(block) + 8 * 32 + self.checksum)
        return self.before + bytes(block) + self.data + self.padding * (-len(self.data) % BLOCK)


HANDLER_ENTRY = Entry("m/handler.py", HANDLER)
MANIFEST_ENTRY = Entry(MANIFEST, DESCRIBED)
GOOD = (HANDLER_ENTRY, MANIFEST_ENTRY)


def zipped(data: bytes, *, flags: int = 0, extra: bytes = b"", crc: int = 0, more: int = 0) -> bytes:
    """Return one gzip member of the data; `crc` and `more` falsify what its end says."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    tail = ((zlib.crc32(data) ^ crc).to_bytes(4, "little")) + (len(data) + more).to_bytes(4, "little")
    return b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\x02\xff" + extra + body + tail


def tar(*entries: Entry, end: bytes = END) -> bytes:
    """Return the tar of these entries, not yet packed."""
    return b"".join(entry.bytes() for entry in entries) + end


def tarball(*entries: Entry, end: bytes = END, **gzip: object) -> bytes:
    """Return the packed archive of these entries."""
    return zipped(tar(*entries, end=end), **gzip)


def handler(**changes: object) -> bytes:
    """Return the good archive with another handler entry."""
    return tarball(replace(HANDLER_ENTRY, **changes), MANIFEST_ENTRY)


def beside(*entries: Entry) -> bytes:
    """Return the good archive with more entries."""
    return tarball(*GOOD, *entries)


def record(key: str | bytes, value: str | bytes) -> bytes:
    """Return one pax record, with its own length in front."""
    pair = b" %s=%s\n" % tuple(text if isinstance(text, bytes) else text.encode() for text in (key, value))
    length = len(pair)
    while length != len(pair) + len(str(length)):
        length = len(pair) + len(str(length))
    return str(length).encode() + pair


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """Return a pax header of these records."""
    return Entry("./PaxHeader", b"".join(records), kind).bytes()


def extended(*records: bytes, **changes: object) -> bytes:
    """Return the good archive with these pax records for its handler."""
    return handler(before=pax(*records), **changes)


def bomb(size: int = 300 << 20) -> bytes:
    """Return a tarball with a member of so many zeros."""
    return beside(Entry("m/zeros.bin", bytes(size)))


ENDLESS = "m/" + "n/" * 9 + "n" * 1100
LONG = "m/" + "n" * 150 + ".py"

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # gzip
    "empty file": (lambda: b"", "gzip-no-mark"),
    "zip called tar.gz": (lambda: b"PK\3\4" + bytes(200), "gzip-no-mark"),
    "tar that is not gzipped": (lambda: tar(*GOOD), "gzip-no-mark"),
    "gzip with header crc": (lambda: tarball(*GOOD, flags=2, extra=b"\0\0"), "gzip-flags"),
    "gzip with extra field": (lambda: tarball(*GOOD, flags=4, extra=b"\4\0evil"), "gzip-flags"),
    "gzip with comment": (lambda: tarball(*GOOD, flags=16, extra=b"hello\0"), "gzip-flags"),
    "gzip reserved flag": (lambda: tarball(*GOOD, flags=0x80), "gzip-flags"),
    "gzip endless name": (lambda: tarball(*GOOD, flags=8, extra=b"n" * 5000), "gzip-name"),
    "damaged deflate": (lambda: tarball(*GOOD)[:10] + b"\xff" * 40, "gzip-damaged"),
    "truncated": (lambda: tarball(*GOOD)[:-30], "gzip-cut"),
    "without crc and size": (lambda: tarball(*GOOD)[:-8], "gzip-cut"),
    "half a size": (lambda: tarball(*GOOD)[:-2], "gzip-cut"),
    "lying crc": (lambda: tarball(*GOOD, crc=1), "gzip-crc"),
    "lying size": (lambda: tarball(*GOOD, more=1), "gzip-size"),
    "second gzip member": (
        lambda: tarball(*GOOD) + tarball(Entry("m/sitecustomize.py", EVIL)),
        "gzip-second-member",
    ),
    "tar in two gzip members": (lambda: tarball(*GOOD, end=b"") + zipped(END), "gzip-second-member"),
    "bytes behind": (lambda: tarball(*GOOD) + b"hidden", "gzip-behind-end"),
    "a zip behind": (lambda: tarball(*GOOD) + b"PK\3\4" + bytes(99), "gzip-behind-end"),
    "bomb": (bomb, "limit-ratio"),
    # the tar as a whole
    "cut in a header": (lambda: zipped(tar(*GOOD)[:300]), "tar-cut"),
    "cut in a member": (lambda: zipped(tar(HANDLER_ENTRY, end=b"")[:530]), "tar-cut"),
    "no end": (lambda: tarball(*GOOD, end=b""), "tar-cut"),
    "half a block at the end": (lambda: tarball(*GOOD, end=END + bytes(100)), "tar-cut"),
    "one end block": (lambda: tarball(*GOOD, end=bytes(BLOCK)), "tar-one-end-block"),
    "member behind the end": (
        lambda: tarball(*GOOD, end=END + tar(Entry("m/sitecustomize.py", EVIL))),
        "tar-behind-end",
    ),
    "bytes behind the end": (lambda: tarball(*GOOD, end=END + b"x" * BLOCK), "tar-behind-end"),
    "a megabyte of zeros behind": (lambda: tarball(*GOOD, end=bytes(1 << 20)), "tar-long-end"),
    "no members": (tarball, "no-members"),
    "only a top directory": (lambda: tarball(Entry("m/", kind=b"5")), "no-manifest"),
    "not a tar": (lambda: zipped(b"x" * 4096), "tar-format"),
    "v7 tar": (lambda: handler(magic=bytes(8)), "tar-format"),
    # headers
    "lying checksum": (lambda: handler(checksum=1), "tar-checksum"),
    "signed checksum": (
        lambda: handler(fields={265: b"\xe9" * 4, 148: b"%06o\0 " % 0}),
        "tar-checksum",
    ),
    "size in base 256": (lambda: handler(size=b"\x80" + bytes(10) + bytes([len(HANDLER)])), "tar-number"),
    "negative size": (lambda: handler(size=b"\xff" * 12), "tar-number"),
    "size with a blank in front": (lambda: handler(size=b" %10o\0" % len(HANDLER)), "tar-number"),
    "octal that is not": (lambda: handler(size=b"00000000089\0"), "tar-number"),
    "name with something behind its end": (lambda: handler(name=b"m/handler.py\0evil"), "tar-text"),
    "owner with something behind its end": (lambda: handler(fields={265: b"root\0x"}), "tar-text"),
    "xstar": (lambda: handler(fields={508: b"tar\0"}), "tar-unused-bytes"),
    "old GNU with prefix": (lambda: handler(magic=GNU, fields={345: b"elsewhere"}), "tar-unused-bytes"),
    "padding with content": (lambda: handler(padding=b"x"), "tar-padding"),
    "size too large": (lambda: handler(size=len(HANDLER) + BLOCK), "tar-padding"),
    "size too small": (lambda: handler(data=HANDLER * 20, size=BLOCK), "tar-format"),
    # kinds
    "hard link": (lambda: beside(Entry("m/l", kind=b"1", link=b"m/handler.py")), "tar-hard-link"),
    "symbolic link": (lambda: beside(Entry("m/l", kind=b"2", link=b"/etc/passwd")), "tar-symbolic-link"),
    "link as the top directory": (
        lambda: tarball(Entry("m", kind=b"2", link=b"/etc"), *GOOD),
        "tar-symbolic-link",
    ),
    "character device": (lambda: beside(Entry("m/d", kind=b"3")), "tar-device"),
    "block device": (lambda: beside(Entry("m/d", kind=b"4")), "tar-device"),
    "pipe": (lambda: beside(Entry("m/p", kind=b"6")), "tar-pipe"),
    "sparse": (lambda: beside(Entry("m/s", kind=b"S", magic=GNU)), "tar-sparse"),
    "GNU long name": (
        lambda: handler(before=Entry("././@LongLink", b"m/evil.py\0", b"L", magic=GNU).bytes()),
        "tar-gnu-long-name",
    ),
    "GNU long link": (
        lambda: handler(before=Entry("././@LongLink", b"/etc/passwd\0", b"K", magic=GNU).bytes()),
        "tar-gnu-long-name",
    ),
    "GNU incremental directory": (lambda: beside(Entry("m/d/", b"Yx\0\0", b"D", magic=GNU)), "tar-type"),
    "GNU volume": (lambda: beside(Entry("m/v", kind=b"V", magic=GNU)), "tar-type"),
    "continued from another volume": (lambda: beside(Entry("m/v", kind=b"M", magic=GNU)), "tar-type"),
    "contiguous file": (lambda: handler(kind=b"7"), "tar-type"),
    "file of the old type": (lambda: handler(kind=b"\0"), "tar-type"),
    "unknown type": (lambda: handler(kind=b"Z"), "tar-type"),
    "Solaris pax header": (lambda: handler(before=pax(record("path", "m/x"), kind=b"X")), "tar-type"),
    "file with a link name": (lambda: handler(link=b"/etc/passwd"), "tar-link-name"),
    "directory with content": (lambda: beside(Entry("m/d/", b"content", b"5")), "tar-directory-with-content"),
    "file with the name of a directory": (lambda: beside(Entry("m/d/")), "tar-file-named-directory"),
    # the top directory
    "file beside the top directory": (lambda: beside(Entry("evil.py", EVIL)), "tar-no-root"),
    "no top directory": (
        lambda: tarball(Entry("handler.py", HANDLER), Entry("MAR-INF/MANIFEST.json", DESCRIBED)),
        "tar-no-root",
    ),
    "two top directories": (lambda: beside(Entry("n/handler.py", EVIL)), "tar-two-roots"),
    "dot and a name": (lambda: beside(Entry("./handler.py", EVIL)), "tar-two-roots"),
    "manifest one level down": (
        lambda: tarball(HANDLER_ENTRY, Entry("m/m/MAR-INF/MANIFEST.json", DESCRIBED)),
        "no-manifest",
    ),
    "manifest as a bomb": (
        lambda: tarball(HANDLER_ENTRY, Entry(MANIFEST, b" " * (2 << 20) + DESCRIBED)),
        "limit-manifest",
    ),
    # pax
    "pax renames": (lambda: extended(record("path", "m/evil.py")), "pax-path"),
    "pax renames to above": (lambda: extended(record("path", "m/../../evil.py")), "pax-path"),
    "pax renames behind a prefix": (
        lambda: extended(record("path", "m/handler.py"), name="handler.py", prefix=b"m"),
        "pax-path",
    ),
    "pax gives another size": (lambda: extended(record("size", "7")), "pax-size"),
    "pax gives a size to nothing": (lambda: extended(record("size", str(BLOCK)), size=0), "pax-size"),
    "pax declares gigabytes": (lambda: extended(record("size", str(8 << 30)), size=0), "limit-ratio"),
    "pax makes a link": (lambda: extended(record("linkpath", "/etc/passwd")), "pax-keyword"),
    "pax sparse": (lambda: extended(record("GNU.sparse.major", "1")), "pax-keyword"),
    "pax sparse name": (lambda: extended(record("GNU.sparse.name", "m/evil.py")), "pax-keyword"),
    "pax of another character set": (lambda: extended(record("hdrcharset", "BINARY")), "pax-keyword"),
    "pax with attributes": (lambda: extended(record("SCHILY.xattr.user.x", "y")), "pax-keyword"),
    "pax deletes": (lambda: extended(record("path", "")), "pax-value"),
    "pax time that is none": (lambda: extended(record("mtime", "yesterday")), "pax-value"),
    "pax size that is none": (lambda: extended(record("size", "-1")), "pax-value"),
    "pax path with zero": (lambda: extended(record("path", "m/handler.py\0x")), "pax-value"),
    "pax record twice": (lambda: extended(record("uid", "0"), record("uid", "0")), "pax-twice"),
    "pax two headers": (lambda: handler(before=2 * pax(record("uid", "0"))), "pax-twice"),
    "pax length lies": (lambda: extended(b"99 uid=0\n"), "pax-malformed"),
    "pax length too short": (lambda: extended(b"5 uid=0\n"), "pax-malformed"),
    "pax without length": (lambda: extended(b"uid=0\n"), "pax-malformed"),
    "pax without equals": (lambda: extended(b"6 uid\n"), "pax-malformed"),
    "pax not utf-8": (lambda: extended(record("uname", b"\xff")), "pax-not-utf-8"),
    "pax large": (lambda: extended(record("uname", "n" * 9000)), "pax-large"),
    "pax for nothing": (lambda: tarball(*GOOD, end=pax(record("uid", "0")) + END), "pax-alone"),
    "pax for all": (lambda: handler(before=pax(record("path", "m/evil.py"), kind=b"g")), "tar-global-pax"),
    # names
    "duplicate": (lambda: beside(Entry("m/handler.py", EVIL)), "name-twice"),
    "top directory twice": (lambda: tarball(Entry("m/", kind=b"5"), *GOOD, Entry("m/", kind=b"5")), "name-twice"),
    "case collision": (lambda: beside(Entry("m/Handler.py", EVIL)), "name-collision"),
    "file and directory": (lambda: beside(Entry("m/a"), Entry("m/a/b")), "name-file-and-directory"),
    "parent": (lambda: beside(Entry("m/../evil.py", EVIL)), "name-parent"),
    "parent as the top": (lambda: beside(Entry("../evil.py", EVIL)), "name-parent"),
    "parent behind a dot": (lambda: tarball(Entry("./../../evil.py", EVIL)), "name-parent"),
    "absolute": (lambda: beside(Entry("/etc/cron.d/evil", EVIL)), "name-absolute"),
    "absolute behind a dot": (lambda: tarball(Entry(".//etc/evil", EVIL)), "name-absolute"),
    "backslash": (lambda: beside(Entry("m/..\\evil.py", EVIL)), "name-backslash"),
    "colon": (lambda: beside(Entry("m/C:evil.py", EVIL)), "name-colon"),
    "dot inside": (lambda: beside(Entry("m/./evil.py", EVIL)), "name-dot"),
    "escape": (lambda: beside(Entry("m/a\x1b[2Jb", EVIL)), "name-invisible"),
    "not ascii": (lambda: beside(Entry("m/é.py", EVIL)), "name-not-ascii"),
    "deep": (lambda: beside(Entry("m/" + "a/" * 40 + "b")), "name-deep"),
    "long": (
        lambda: handler(name=ENDLESS[:100], before=pax(record("path", ENDLESS))),
        "name-long",
    ),
    "long component": (
        lambda: handler(name=("m/" + "n" * 300)[:100], before=pax(record("path", "m/" + "n" * 300))),
        "name-long-component",
    ),
    "the guard's marker": (lambda: beside(Entry("m/.tsguard")), "name-reserved"),
    # what the model says
    "handler outside": (
        lambda: tarball(HANDLER_ENTRY, Entry(MANIFEST, DESCRIBED.replace(b"handler.py", b"/tmp/evil.py"))),
        "`handler` is `/tmp/evil.py`",
    ),
    "handler above": (
        lambda: tarball(HANDLER_ENTRY, Entry(MANIFEST, DESCRIBED.replace(b"handler.py", b"../evil.py"))),
        "`handler` is `../evil.py`",
    ),
}  # fmt: skip

HARMLESS: dict[str, Callable[[], bytes]] = {
    "plain": lambda: tarball(*GOOD),
    "gzip name": lambda: tarball(*GOOD, flags=8, extra=b"m.tar\0"),
    "filled record": lambda: tarball(*GOOD, end=bytes(10240)),
    "GNU magic": lambda: tarball(*(replace(entry, magic=GNU) for entry in GOOD)),
    "dot as the top directory": lambda: tarball(
        Entry("./", kind=b"5"), Entry("./handler.py", HANDLER), Entry("./MAR-INF/MANIFEST.json", DESCRIBED)
    ),
    "directories": lambda: tarball(
        Entry("m/", kind=b"5"), *GOOD, Entry("m/logs/", kind=b"5"), Entry("m/d", kind=b"5"), Entry("m/d/x", b"x")
    ),
    "prefix": lambda: handler(name="handler.py", prefix=b"m"),
    "times and owners": lambda: extended(
        record("mtime", "1795400295.8435287"), record("uid", "2097152"), record("uname", "Zoë")
    ),
    "long name": lambda: beside(replace(Entry(LONG[:100], b"x"), before=pax(record("path", LONG)))),
    "name that is not ascii": lambda: beside(Entry("m/mod?le.txt", b"x", before=pax(record("path", "m/modèle.txt")))),
    "exactly one block": lambda: beside(Entry("m/block.bin", bytes(range(256)) * 2)),
    "empty member": lambda: beside(Entry("m/empty.txt")),
    "no devices' numbers": lambda: handler(fields={329: bytes(16)}),
    "zeros": lambda: bomb(64 << 20),
}


def main(directory: Path) -> None:
    """Write every tarball, hostile and harmless, to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (build, _) in HOSTILE.items():
        (directory / f"hostile-{name.replace(' ', '-').replace(',', '')}.tar.gz").write_bytes(build())
    for name, make in HARMLESS.items():
        (directory / f"harmless-{name.replace(' ', '-')}.tar.gz").write_bytes(make())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
