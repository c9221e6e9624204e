"""`tsguard shim`: write a program called `torchserve` that takes stock's command line and starts the guard."""

from __future__ import annotations

import os
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from torchserve_guard import draft
from torchserve_guard.cli.lines import printable
from torchserve_guard.errors import ConfigError

NAME = "torchserve"
MARK = "# A shim of torchserve_guard:"
NOT_BAKED = "-"
LONGEST_HEAD = 4096

SCRIPT = """\
#!/bin/sh
{mark} stock's command line, and a guarded TorchServe behind it. Written by `tsguard shim`.
exec {python} -E -P -m torchserve_guard.shim {profile} {mode} "$@"
"""


class Profile(Enum):
    """How strict the guard is; what `guard.profile` takes."""

    STRICT = "strict"
    COMPAT = "compat"


class ControlMode(Enum):
    """What `model-control-mode` takes."""

    NONE = "none"
    EXPLICIT = "explicit"


def shim(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write `torchserve` into.")],
    profile: Annotated[
        Profile | None, typer.Option("--profile", help="Bake a profile in; else TSGUARD_PROFILE or the file decides.")
    ] = None,
    mode: Annotated[
        ControlMode | None,
        typer.Option(
            "--model-control-mode",
            help="Bake in what is permitted at most: `explicit` where --enable-model-api, or the file, asks for it.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no shim.")] = False,
) -> None:
    """Write an executable `torchserve` that takes stock's own command line and starts, stops and tells of the guard.

    Put the folder first on the PATH of whatever starts TorchServe: an entrypoint, a service file, a test.
    """
    path = folder / NAME
    _verify_replaceable(path, force=force)
    text = SCRIPT.format(
        mark=MARK,
        python=shlex.quote(sys.executable),
        profile=profile.value if profile is not None else NOT_BAKED,
        mode=mode.value if mode is not None else NOT_BAKED,
    )
    _replace(path, text.encode())
    typer.echo(printable(str(path)))


def _verify_replaceable(path: Path, *, force: bool) -> None:
    """Return if the path is free or holds a shim; raise `ConfigError` otherwise, above all for stock's own program."""
    if not os.path.lexists(path) or force:
        return
    try:
        head = b"" if path.is_symlink() or not path.is_file() else path.open("rb").read(LONGEST_HEAD)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name another folder") from error
    if MARK.encode() not in head:
        raise ConfigError(
            f"{path}: something else than a shim is there, it may be TorchServe's own program; name another folder, "
            "or replace it with --force"
        )


def _replace(path: Path, data: bytes) -> None:
    """Write the program whole or not at all, through no link."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path, data, 0o755, exactly=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
