"""A draft: what takes a file's place by one rename, so that the file is whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def replace(path: Path, data: bytes, mode: int = 0o600, *, exactly: bool = False, durable: bool = False) -> None:
    """Write a file in the place of what is there, a link included, and through none; raise `OSError`.

    The umask cuts `mode`, unless it is meant `exactly`. What is `durable` is on the disk when this returns.
    """
    draft = path.parent / f".tsguard.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(draft, _NEW, 0o600 if exactly else mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if exactly:
                os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    if durable:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
