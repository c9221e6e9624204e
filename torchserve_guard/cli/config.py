"""`tsguard config`: what the configuration means, to stock TorchServe and under the guard."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard.cli import options
from torchserve_guard.escape import printable

if TYPE_CHECKING:
    from torchserve_guard.explaining import Explained, Explanation
    from torchserve_guard.findings import Finding
    from torchserve_guard.settings.stock import CommandLine, Step

SCHEMA = "torchserve_guard/config-explain/v1"
NOTHING = "nothing"
LONGEST = 400

app = typer.Typer(help="The configuration: what each key means, and where its value comes from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `explain` a command of its own while it is the only one."""


@app.command()
@options.takes_one
def explain(
    asked: options.Asked,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY]...", help="What to explain; all keys that were given or that differ unless named."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Explain every key.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Explain each value: what stock TorchServe would use and how it came to it, what the guard uses, and why.

    Nothing is started or changed. A configuration that a start would refuse is explained too. Exit code 2 is for an
    unknown KEY and for a file that cannot be read.
    """
    from torchserve_guard.explaining import explain as explained  # noqa: PLC0415 - heavy, and only needed here

    flags = options.flags_of(asked.given)
    line = _command_line(asked)
    made = explained(line, flags, options.surroundings(), keys or (), everything=everything)
    if as_json:
        typer.echo(json.dumps(_document(made), indent=2))
    else:
        _show(made)


def _command_line(asked: options.Asked) -> CommandLine:
    from torchserve_guard.settings.stock import CommandLine  # noqa: PLC0415 - heavy, and only needed here

    given = asked.given
    return CommandLine(
        ts_config=str(asked.configs[0]) if asked.configs else None,
        model_store=given["model_store"],
        workflow_store=given["workflow_store"],
        models=tuple(given["models"] or ()),
        log_config=given["log_config"],
        cpp_log_config=given["cpp_log_config"],
        plugins_path=given["plugins_path"],
        no_config_snapshots=given["no_config_snapshots"],
        disable_token_auth=given["disable_token_auth"],
        enable_model_api=given["enable_model_api"],
        foreground=given["foreground"],
    )


def _document(made: Explanation) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "config": made.config,
        "complaints": list(made.complaints),
        "findings": [_finding(finding) for finding in made.findings],
        "stock": {"source": made.source, "refusals": list(made.refusals)},
        "keys": [_row(row) for row in made.keys],
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "key": finding.key,
        "location": str(finding.location),
        "message": finding.message,
        "remedy": finding.remedy,
    }


def _row(row: Explained) -> dict[str, object]:
    return {
        "key": row.key,
        "fate": row.fate.value if row.fate is not None else None,
        "stock": {"value": row.stock.value, "chain": [_step(step) for step in row.stock.steps]},
        "guarded": asdict(row.guarded),
        "differs": row.differs,
        "why": row.why,
        "complaints": list(row.complaints),
    }


def _step(step: Step) -> dict[str, object]:
    return {**asdict(step), "origin": step.origin.value}


def _show(made: Explanation) -> None:
    """Print the explanation for people: in colours on a terminal, plain in a pipe, and never wrapped."""
    from rich.console import Console  # noqa: PLC0415 - heavy, and only needed here
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    for parts in _lines(made):
        console.print(Text.assemble(*((printable(text), style) for text, style in parts)), soft_wrap=True)


Parts = tuple[tuple[str, str], ...]


def _lines(made: Explanation) -> Iterator[Parts]:
    yield (("stock reads  ", "dim"), (made.source or "no file", ""))
    yield (("guard reads  ", "dim"), (made.config or "no file", ""))
    for refusal in made.refusals:
        yield (("stock would not start: ", "yellow"), (refusal, ""))
    about_a_key = {complaint for row in made.keys for complaint in row.complaints}
    for complaint in made.complaints:
        if complaint not in about_a_key:
            yield (("the guard refuses: ", "red"), (complaint, ""))
    for finding in made.findings:
        yield ((f"{finding.rule} {finding.severity}: ", "yellow"), (f"{finding.location}: {finding.message}", ""))
    for row in made.keys:
        yield ()
        yield from _key(row)


def _key(row: Explained) -> Iterator[Parts]:
    yield ((row.key, "bold"),)
    if row.fate is None or row.fate.value != "guard":
        yield (("  stock    ", "dim"), (_said(row.stock.value), ""))
    yield (("  guarded  ", "dim"), (_said(row.guarded.value), ""), (_from(row.guarded.where), "dim"))
    if row.guarded.told is not None and row.guarded.told != row.guarded.value:
        yield (("           TorchServe behind the guard is told: ", "dim"), (row.guarded.told, ""))
    if row.differs or row.why:
        yield (("  differs  ", "yellow"), (row.why, ""))
    for complaint in row.complaints:
        yield (("  refused  ", "red"), (complaint, ""))
    for number, step in enumerate(row.stock.steps):
        yield _step_parts(step, "  chain    " if number == 0 else "           ")


def _step_parts(step: Step, lead: str) -> Parts:
    note = f"  ({step.note})" if step.note else ""
    style = "" if step.counts else "dim strike"
    return ((lead, "dim"), (f"{step.origin.value:12}{step.where}: ", "dim"), (_said(step.value), style), (note, "dim"))


def _said(value: str | None) -> str:
    if value is None:
        return NOTHING
    return f"`{value}`" if len(value) <= LONGEST else f"`{value[:LONGEST]}`, and {len(value) - LONGEST} characters more"


def _from(where: str) -> str:
    return f"  ({where})" if where else ""
