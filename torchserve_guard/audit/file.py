"""The file: opened for appending, and nobody's but root's and this user's to write; not reached through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from torchserve_guard.errors import AuditError


def opened(path: Path, what: str, key: str) -> int:
    """Return a descriptor of the file, made when it is not there; `what` is kept in it, `key` names it.

    Raises `AuditError`.
    """
    # Read too: only so is it seen whether the last line is whole.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise AuditError(
            f"{path}: the {what} cannot be opened ({error.strerror}); set `{key}` to a file "
            "that this user may read and write"
        ) from error
    try:
        _verify_ours(path, descriptor, what, key)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _verify_ours(path: Path, descriptor: int, what: str, key: str) -> None:
    """Raise `AuditError` unless it is a regular file that only root and this user may write."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise AuditError(f"{path}: the {what} must be a regular file; set `{key}` to one")
    if status.st_uid not in {0, os.geteuid()}:
        raise AuditError(
            f"{path}: the {what} belongs to user {status.st_uid}, who could rewrite it; remove or `chown` it, "
            f"or set `{key}` to a file of this user"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        try:
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise AuditError(
                f"{path}: the {what} may be written by others, and this user may not change that "
                f"({error.strerror}); `chmod 600` it"
            ) from error


def stands(path: Path, descriptor: int) -> bool:
    """Whether the path still leads, without a link, to the file that is open."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def ends_torn(descriptor: int) -> bool:
    """Whether the file ends in the middle of a line: an earlier run was cut off there."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
