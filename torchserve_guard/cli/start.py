"""`tsguard start`: guard a TorchServe in the foreground."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard.cli import collecting, lines, options
from torchserve_guard.cli.progress import Progress
from torchserve_guard.cli.saying import Saying

if TYPE_CHECKING:
    from torchserve_guard.settings import Settings


@options.takes_flags
def start(
    settings: Settings,
    allow_rollback: Annotated[
        bool,
        typer.Option(
            "--allow-rollback", help="Start although the manifest is older than the last one started; put on record."
        ),
    ] = False,
) -> None:
    """Verify the models, start TorchServe, and serve through the guard until SIGTERM or SIGINT.

    Takes every flag of `torchserve --start`. Exit codes: 0 stopped as asked; 2 configuration;
    3 findings at or above `guard.fail_on`; 4 an archive is not what the manifest promises; 5 TorchServe
    did not start, or died; 6 the audit log cannot be written.
    """
    from torchserve_guard.workers import Interpreter  # noqa: PLC0415 - not for every command

    with (
        Saying(sys.stdout) as show,
        Saying(sys.stderr) as say,
        Interpreter(os.environ) as interpreter,
        Progress(sys.stderr) as progress,
    ):
        from torchserve_guard import run  # noqa: PLC0415 - what serving needs; meanwhile the interpreter starts

        collecting.as_usual()
        code = run.start(
            settings,
            say=lambda text: say(lines.PREFIX + lines.indented(text)),
            progress=progress,
            # Who waits for this line of TorchServe's may go on now; its own comes too early, and is withheld.
            opened=lambda: show("Model server started."),
            interpreter=interpreter,
            allow_rollback=allow_rollback,
        )
    raise typer.Exit(code)
