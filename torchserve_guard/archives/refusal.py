"""A refusal: the archive or tree that is not believed, the member, why in words, and the reason's identifier."""

from __future__ import annotations

from enum import StrEnum
from typing import NoReturn, Self

from torchserve_guard.errors import VerificationError
from torchserve_guard.findings import Location


class Reason(StrEnum):
    """Why a container is refused; tests/corpus holds an archive for each, docs/archives.md a line."""

    # zip: the end record(s) and the central directory
    TOO_SHORT = "zip-too-short"
    NO_END = "zip-no-end"
    BEHIND_END = "zip-behind-end"
    COMMENT = "zip-comment"
    FALSE_COMMENT = "zip-false-comment"
    MULTI_DISK = "zip-multi-disk"
    TWO_COUNTS = "zip-two-counts"
    UNCOUNTED = "zip-uncounted-records"
    MISSING_RECORDS = "zip-missing-records"
    DIRECTORY_CUT = "zip-directory-cut"
    NO_MEMBERS = "no-members"
    DIRECTORY_ELSEWHERE = "zip-directory-elsewhere"
    DIRECTORY_LARGE = "zip-directory-large"
    ZIP64_ABSENT = "zip64-end-absent"
    ZIP64_LOCATOR = "zip64-locator-elsewhere"
    ZIP64_END = "zip64-end-malformed"
    ZIP64_TWO_DIRECTORIES = "zip64-two-directories"
    # zip: one byte belongs to one thing
    PREFIX = "zip-prefix"
    GAP = "zip-gap"
    OVERLAP = "zip-overlap"
    INTO_DIRECTORY = "zip-into-directory"
    NO_LOCAL_HEADER = "zip-no-local-header"
    # zip: the two views of a member
    TWO_NAMES = "zip-two-names"
    TWO_FLAGS = "zip-two-flags"
    TWO_METHODS = "zip-two-methods"
    TWO_CRCS = "zip-two-crcs"
    TWO_PACKED_SIZES = "zip-two-packed-sizes"
    TWO_SIZES = "zip-two-sizes"
    STORED_SIZES = "zip-stored-sizes"
    # zip: what a record asks for
    ENCRYPTED = "zip-encrypted"
    FLAGS = "zip-flags"
    METHOD = "zip-method"
    STORED_DESCRIPTOR = "zip-stored-descriptor"
    VERSION = "zip-version"
    MEMBER_COMMENT = "zip-member-comment"
    MEMBER_DISK = "zip-member-disk"
    # zip: extra fields and descriptors
    EXTRA_UNKNOWN = "zip-extra-unknown"
    EXTRA_CUT = "zip-extra-cut"
    EXTRA_TAIL = "zip-extra-tail"
    EXTRA_LENGTH = "zip-extra-length"
    EXTRA_TWICE = "zip-extra-twice"
    ZIP64_FIELD_ABSENT = "zip64-field-absent"
    ZIP64_FIELD_CENTRAL = "zip64-field-central"
    ZIP64_FIELD_LOCAL = "zip64-field-local"
    ZIP64_FIELD_SIZES = "zip64-field-sizes"
    DESCRIPTOR_LIES = "zip-descriptor-lies"
    DESCRIPTOR_WIDTH = "zip-descriptor-width"
    # zip: what the members hold
    DEFLATE_DAMAGED = "zip-deflate-damaged"
    DEFLATE_SLACK = "zip-deflate-slack"
    DEFLATE_UNENDED = "zip-deflate-unended"
    LARGER_THAN_SAID = "zip-larger-than-said"
    SMALLER_THAN_SAID = "zip-smaller-than-said"
    CRC = "zip-crc"
    # gzip
    GZIP_MARK = "gzip-no-mark"
    GZIP_FLAGS = "gzip-flags"
    GZIP_NAME = "gzip-name"
    GZIP_DAMAGED = "gzip-damaged"
    GZIP_CUT = "gzip-cut"
    GZIP_CRC = "gzip-crc"
    GZIP_SIZE = "gzip-size"
    GZIP_SECOND = "gzip-second-member"
    GZIP_BEHIND = "gzip-behind-end"
    # tar
    TAR_CUT = "tar-cut"
    TAR_FORMAT = "tar-format"
    TAR_CHECKSUM = "tar-checksum"
    TAR_NUMBER = "tar-number"
    TAR_TEXT = "tar-text"
    TAR_UNUSED = "tar-unused-bytes"
    TAR_HARD_LINK = "tar-hard-link"
    TAR_SYMBOLIC_LINK = "tar-symbolic-link"
    TAR_DEVICE = "tar-device"
    TAR_PIPE = "tar-pipe"
    TAR_SPARSE = "tar-sparse"
    TAR_LONG_NAME = "tar-gnu-long-name"
    TAR_GLOBAL_PAX = "tar-global-pax"
    TAR_TYPE = "tar-type"
    TAR_LINK_NAME = "tar-link-name"
    TAR_DIRECTORY_SIZE = "tar-directory-with-content"
    TAR_FILE_SLASH = "tar-file-named-directory"
    TAR_PADDING = "tar-padding"
    TAR_ONE_END_BLOCK = "tar-one-end-block"
    TAR_BEHIND_END = "tar-behind-end"
    TAR_LONG_END = "tar-long-end"
    TAR_NO_ROOT = "tar-no-root"
    TAR_TWO_ROOTS = "tar-two-roots"
    PAX_LARGE = "pax-large"
    PAX_MALFORMED = "pax-malformed"
    PAX_TWICE = "pax-twice"
    PAX_KEYWORD = "pax-keyword"
    PAX_NOT_UTF8 = "pax-not-utf-8"
    PAX_VALUE = "pax-value"
    PAX_PATH = "pax-path"
    PAX_SIZE = "pax-size"
    PAX_ALONE = "pax-alone"
    # names
    NOT_UTF8 = "name-not-utf-8"
    NOT_ASCII = "name-not-ascii"
    EMPTY = "name-empty"
    INVISIBLE = "name-invisible"
    BACKSLASH = "name-backslash"
    COLON = "name-colon"
    ABSOLUTE = "name-absolute"
    PARENT = "name-parent"
    DOT = "name-dot"
    LONG = "name-long"
    DEEP = "name-deep"
    LONG_COMPONENT = "name-long-component"
    RESERVED = "name-reserved"
    TWICE = "name-twice"
    BOTH_KINDS = "name-file-and-directory"
    COLLISION = "name-collision"
    # kinds, as a zip's attributes give them
    SYMBOLIC_LINK = "zip-symbolic-link"
    DEVICE = "zip-device"
    PIPE = "zip-pipe"
    SOCKET = "zip-socket"
    UNNAMED_DIRECTORY = "zip-directory-named-file"
    NAMED_DIRECTORY = "zip-file-named-directory"
    SPECIAL = "zip-special-file"
    DIRECTORY_BIT = "zip-directory-bit"
    DIRECTORY_CONTENT = "zip-directory-with-content"
    # limits, and what is needed
    MANY = "limit-members"
    LARGE = "limit-unpacked"
    BOMB = "limit-ratio"
    MANIFEST_LARGE = "limit-manifest"
    NO_MANIFEST = "no-manifest"
    # only when somebody rewrites the file under the reader
    CHANGED = "changed-while-read"


class Fault(str):
    """What is wrong, in words, with the identifier of the reason."""

    __slots__ = ("reason",)
    reason: Reason

    def __new__(cls, reason: Reason, words: str) -> Self:
        """Return the words; they read as any other text does."""
        fault = super().__new__(cls, words)
        fault.reason = reason
        return fault


class Refused(VerificationError):
    """One archive, refused; `reason` is what kind of wrong it is, or None where no container is read."""

    def __init__(self, complaint: str, reason: Reason | None) -> None:
        super().__init__(complaint)
        self.reason = reason


def refuse(archive: str, member: str | None, why: str, reason: Reason | None = None) -> NoReturn:
    """Raise an error that names the archive, the member, and the reason with its identifier."""
    told = reason or (why.reason if isinstance(why, Fault) else None)
    tag = "" if told is None else f" [{told}]"
    raise Refused(f"{Location(archive, member=_shown(member))}: {why}{tag}", told)


def _shown(member: str | None) -> str | None:
    """Return the name with everything invisible spelt out: it was chosen by whoever made the archive."""
    return member if member is None or member.isprintable() else ascii(member)[1:-1]
