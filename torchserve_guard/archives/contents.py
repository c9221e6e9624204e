"""The contents of a small file: read once and whole, from a regular file, and never more than was allowed for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from torchserve_guard.errors import ConfigError


def read(path: Path, largest: int, what: str, absent: str = "name another file") -> bytes:
    """Return a regular file's bytes; raise ConfigError. A pipe or a device is refused without being waited for.

    `what` is what the file should be, `absent` what to do when it is not there. Links are followed: keys and
    manifests that an orchestrator mounts are links.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no {what}: {absent}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the {what} cannot be read: {getattr(error, 'strerror', error)}") from error
    try:
        return _whole(descriptor, path, largest, what)
    finally:
        os.close(descriptor)


def _whole(descriptor: int, path: Path, largest: int, what: str) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: the {what} is not a regular file")
    if status.st_size > largest:
        raise ConfigError(f"{path}: is larger than {largest} bytes, which no {what} is")
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ConfigError(f"{path}: became larger than {largest} bytes while it was read, which no {what} is")
    return data
