"""The properties file: its bytes read once, within a limit, as `java.util.Properties` reads them.

Each property keeps its line, so that a complaint can say where.
"""

from __future__ import annotations

import io
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import javaproperties

from torchserve_guard.errors import ConfigError

LARGEST_FILE = 1024 * 1024
LINE_END = re.compile("\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Property:
    """One property: the key, the value as Java reads it, and the line (from 1) where it starts."""

    key: str
    value: str
    line: int


def read(path: Path) -> tuple[Property, ...]:
    """Return the properties of a file in their order. Raises `ConfigError`; never waits on a pipe."""
    return parse(_bytes_of(path), str(path))


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
    try:
        return _elements(data.decode("latin-1"))
    except javaproperties.InvalidUEscapeError as error:
        raise ConfigError(
            f"{where}: `{error.escape}` is not a Unicode escape that Java accepts; write \\u and four hex digits"
        ) from error


def _elements(text: str) -> tuple[Property, ...]:
    found: list[Property] = []
    line = 1
    for element in javaproperties.parse(io.StringIO(text, newline="")):
        if isinstance(element, javaproperties.KeyValue):
            found.append(Property(element.key, element.value, line))
        line += len(LINE_END.findall(element.source))
    return tuple(found)


def _bytes_of(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); name the configuration with --config FILE"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path}: is not a regular file; name a properties file with --config FILE")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ConfigError(
            f"{path}: is larger than {LARGEST_FILE} bytes; a configuration is small, is this the right file?"
        )
    return data
