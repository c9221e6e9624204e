"""The commands: the table of them, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from torchserve_guard import __version__
from torchserve_guard.cli import lines
from torchserve_guard.cli.narrowing import narrowed
from torchserve_guard.errors import GuardError

INTERNAL = 1

COMMANDS = {
    "start": "start",
    "check": "check",
    "status": "control",
    "stop": "control",
    "shim": "shim",
    "prepare": "prepare",
    "inspect": "inspect",
}
"""Each command, and the module whose function of this name it is."""
GROUPS = ("manifest", "config")
"""Each group of commands, which is the `app` of the module of this name."""


def run(words: Sequence[str]) -> None:
    """Run the command that the words ask for, and exit with a code of the contract."""
    _say_what_cannot_be_encoded()
    # Plugins of pydantic are code of whatever package is installed, and looking for them costs 25 ms.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    _forget_what_ends_early()
    try:
        narrowed(app(words), words)()
    except GuardError as error:
        with contextlib.suppress(BrokenPipeError):
            for line in lines.of_error(error):
                typer.echo(line, err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(INTERNAL)
    except OSError as error:
        # What nobody foresaw: a disk that fails, a folder that vanished. Not a bug that a traceback would explain.
        typer.echo(lines.PREFIX + lines.printable(f"failed: {error}"), err=True)
        sys.exit(INTERNAL)


def app(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line with the command that the words begin with; with all, where they begin with none.

    Only the modules of those are imported: most of a short command's time would go into the others.
    """
    made = typer.Typer(
        name="tsguard",
        help="Guard a stock TorchServe: only verified models load, nothing changes unless allowed, and all is "
        "recorded.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TSGUARD"},
    )
    made.callback()(_root)
    word = words[0] if words and words[0] in {*COMMANDS, *GROUPS} else None
    for name, home in COMMANDS.items():
        if word in {None, name}:
            made.command(name)(getattr(_module(home), name))
    for name in GROUPS:
        if word in {None, name}:
            made.add_typer(_module(name).app, name=name)
    return made


def _module(name: str) -> Any:
    return import_module(f"torchserve_guard.cli.{name}")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tsguard {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _forget_what_ends_early() -> None:
    """Take out of the environment what would have a command print something and end well, its work undone.

    Each option may come from there, and `TSGUARD_VERSION=0.1.0` is what an image would be built with: a gate that it
    turns into a print of the version lets everything through.
    """
    for name in [name for name in os.environ if name.startswith("TSGUARD_") and name.endswith(_ENDS_EARLY)]:
        del os.environ[name]


_ENDS_EARLY = ("_VERSION", "_HELP", "_INSTALL_COMPLETION", "_SHOW_COMPLETION")


def _say_what_cannot_be_encoded() -> None:
    """Let output escape what its encoding lacks: a name that is not UTF-8 is told, not died of."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
