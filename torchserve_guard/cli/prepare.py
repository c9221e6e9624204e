"""`tsguard prepare`: have TorchServe start faster, once after an installation."""

from __future__ import annotations

import os

import typer

from torchserve_guard.cli import lines


def prepare() -> None:
    """Keep TorchServe's classes as Java reads them, so that its JVM starts in half the time.

    Run it once after TorchServe or Java was installed or updated, as whoever installed them: it starts TorchServe
    for some seconds and writes one file of some 40 MB into the environment that it is installed in. Starts use it as
    long as only root and the guard's user may write there. Exit codes: 0 prepared, already or now; 5 TorchServe did
    not start, or the file cannot be written.
    """
    from torchserve_guard import preparation  # noqa: PLC0415 - not for every command
    from torchserve_guard.frontend import class_archive  # noqa: PLC0415

    path = preparation.prepare(os.environ, class_archive.folder(), _say)
    _say(f"prepared  {path}  {path.stat().st_size:,} bytes")


def _say(text: str) -> None:
    typer.echo(lines.PREFIX + lines.indented(text), err=True)
