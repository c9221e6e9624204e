"""The delivery: a result to standard output, or whole and at once into the file that was named."""

from __future__ import annotations

from pathlib import Path

import typer

from torchserve_guard import draft
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
            draft.replace(output, data, 0o666)
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); name another file with --output") from error
