"""The targets: the configurations that a command was given, each folder of them walked within limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from torchserve_guard.errors import ConfigError

SUFFIX = ".properties"
DEEPEST = 16
MOST = 10_000


def below(folder: Path) -> list[Path]:
    """Return every `*.properties` below a folder, in order; links to folders are not followed.

    Raises `ConfigError` when there is none, or more than is walked: what was left out would look as if it were good.
    """
    found: list[Path] = []
    for path in _walk(folder, DEEPEST):
        found.append(path)
        if len(found) > MOST:
            raise ConfigError(f"{folder}: holds more than {MOST} files *{SUFFIX}; name folders of it instead")
    if not found:
        raise ConfigError(f"{folder}: holds no file *{SUFFIX}; name the configuration with --config FILE")
    return sorted(found)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if depth == 0:
        raise ConfigError(f"{folder}: is deeper than {DEEPEST} folders; name a folder further down")
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be listed ({error.strerror}); let this user read it") from error
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, depth - 1)
        elif entry.name.endswith(SUFFIX) and not entry.is_dir():
            # No regular file, or a link to nothing: reading it says so.
            yield folder / entry.name
