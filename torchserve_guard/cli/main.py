"""The entry: the table of commands, and the one `except GuardError`."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from torchserve_guard import __version__
from torchserve_guard.cli import check, config, control, inspect, lines, manifest, prepare, shim, start
from torchserve_guard.cli.narrowing import narrowed
from torchserve_guard.errors import GuardError

INTERNAL = 1
INTERRUPTED = 130

app = typer.Typer(
    name="tsguard",
    help="Guard a stock TorchServe: only verified models load, nothing changes unless allowed, and all is recorded.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TSGUARD"},
)
app.command("start")(start.start)
app.command("check")(check.check)
app.command("status")(control.status)
app.command("stop")(control.stop)
app.command("shim")(shim.shim)
app.command("prepare")(prepare.prepare)
app.command("inspect")(inspect.inspect)
app.add_typer(manifest.app, name="manifest")
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tsguard {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line and exit with a code of the contract."""
    _say_what_cannot_be_encoded()
    # Plugins of pydantic are code of whatever package is installed, and looking for them costs 25 ms.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    try:
        narrowed(app, sys.argv[1:])()
    except GuardError as error:
        for line in lines.of_error(error):
            typer.echo(line, err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(INTERNAL)
    except OSError as error:
        # What nobody foresaw: a disk that fails, a folder that vanished. Not a bug that a traceback would explain.
        typer.echo(lines.PREFIX + lines.printable(f"failed: {error}"), err=True)
        sys.exit(INTERNAL)


def _say_what_cannot_be_encoded() -> None:
    """Let output escape what its encoding lacks: a name that is not UTF-8 is told, not died of."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
