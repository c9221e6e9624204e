"""The properties file: its bytes read once, within a limit, as `java.util.Properties` reads them.

Each property keeps its line, so that a complaint can say where.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import javaproperties

from torchserve_guard.errors import ConfigError

LARGEST_FILE = 1024 * 1024
LINE_END = re.compile("\r\n|\n|\r")
BLANKS = " \t\f"
NATURAL_LINE = re.compile("([^\r\n]*)(\r\n|\n|\r|(?<=[^\r\n])\\Z)")
KEY_AND_VALUE = re.compile(r"((?:[^\\=: \t\f]|\\.)*)[ \t\f]*[=:]?[ \t\f]*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Property:
    """One property: the key, the value as Java reads it, and the line (from 1) where it starts."""

    key: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Logical:
    """One logical line, its escapes as they are, and the lines (from 1) where it starts and ends."""

    text: str
    first: int
    last: int


def read(path: Path) -> tuple[Property, ...]:
    """Return the properties of a file in their order. Raises `ConfigError`; never waits on a pipe."""
    return parse(bytes_of(path), str(path))


def parse(data: bytes, where: str) -> tuple[Property, ...]:
    """Return the properties in `data`, which Java reads as ISO 8859-1 (java.util.Properties.load)."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(
            f"{where}:1: the file starts with a byte order mark, which Java reads as part of the first key; "
            "save it as plain ASCII"
        )
    nul = data.find(b"\0")
    if nul >= 0:
        line = 1 + len(LINE_END.findall(data[:nul].decode("latin-1")))
        raise ConfigError(f"{where}:{line}: a NUL byte: this is not a properties file; name the right file")
    return elements(data, where)


def elements(data: bytes, where: str) -> tuple[Property, ...]:
    """Return the properties in `data` as Java finds them, even in what `parse` refuses. Raises `ConfigError`."""
    try:
        return _elements(data.decode("latin-1"))
    except javaproperties.InvalidUEscapeError as error:
        raise ConfigError(
            f"{where}: `{error.escape}` is not a Unicode escape that Java accepts; write \\u and four hex digits"
        ) from error


def _elements(text: str) -> tuple[Property, ...]:
    return tuple(_property(line) for line in logical_lines(text))


def logical_lines(text: str) -> Iterator[Logical]:
    """Yield each line that says something, continued lines joined (Properties.LineReader).

    As long as a line has no character yet, a continuation begins it anew: `#` then is a comment, which ends there.
    """
    joined, start, number = "", 0, 0
    for number, match in enumerate(NATURAL_LINE.finditer(text), 1):
        part = match[1].lstrip(BLANKS)
        if not joined and (not part or part[0] in "#!"):
            continue
        start = start if joined else number
        goes_on = (len(part) - len(part.rstrip("\\"))) % 2 == 1
        joined += part[:-1] if goes_on else part
        # Java notices the end of the file only behind one character of a line end: CR LF hides it.
        if not goes_on or (match.end() == len(text) and match[2] != "\r\n"):
            yield Logical(joined, start, number)
            joined = ""
    if joined:
        yield Logical(joined, start, number)


def _property(line: Logical) -> Property:
    key, value = split(line.text)
    return Property(javaproperties.unescape(key), javaproperties.unescape(value), line.first)


def split(text: str) -> tuple[str, str]:
    """Return key and value of a logical line, their escapes as they are."""
    key, value = cast("re.Match[str]", KEY_AND_VALUE.fullmatch(text)).groups()
    return key, value


def bytes_of(path: Path) -> bytes:
    """Return the bytes of a file, read once and within the limit. Raises `ConfigError`; never waits on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name the configuration with --config FILE"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path}: is not a regular file; name a properties file with --config FILE")
    try:
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a properties file") from error
    if len(data) > LARGEST_FILE:
        raise ConfigError(
            f"{path}: is larger than {LARGEST_FILE} bytes; a configuration is small, is this the right file?"
        )
    return data
