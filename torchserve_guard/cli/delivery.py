"""The delivery: a result to standard output, or whole and at once into the file that was named."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import typer

from torchserve_guard.errors import ConfigError


def deliver(text: str, output: Path | None) -> None:
    """Write a result, whose control characters are escaped already. Raises `ConfigError` when the file is not to be."""
    if output is None:
        typer.echo(text, nl=False)
        return
    data = text.encode("utf-8", "backslashreplace")
    try:
        # What is no regular file (/dev/stdout, a pipe) is written to; a link is replaced, not followed.
        if output.exists() and not output.is_file():
            output.write_bytes(data)
        else:
            _replace(output, data)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); name another file with --output") from error


def _replace(path: Path, data: bytes) -> None:
    draft = path.parent / f".{path.name[:100]}.{secrets.token_hex(8)}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, 0o666), "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
