"""`tsguard check`: the preflight of a start, without starting anything, for one configuration or many."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard import __version__, looks
from torchserve_guard.cli import lines, options, targets
from torchserve_guard.cli.delivery import deliver
from torchserve_guard.cli.progress import Progress
from torchserve_guard.errors import ConfigError, GuardError

if TYPE_CHECKING:
    from torchserve_guard.archives import Store
    from torchserve_guard.findings import Severity
    from torchserve_guard.reporting import Account, Outcome, Rule
    from torchserve_guard.reporting.text import Paint
    from torchserve_guard.workers import Interpreter

NOTHING = "-"


class Format(Enum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"
    CODE_QUALITY = "codequality"


@dataclass(frozen=True, slots=True)
class Means:
    """What the checks of one command share."""

    asked: options.Asked
    threshold: Severity | None
    store: Store
    interpreter: Interpreter
    advance: Callable[[int], None]
    fetch: bool


class Threshold(Enum):
    """The severity from which findings fail a check."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@options.takes_configurations
def check(
    asked: options.Asked,
    form: Annotated[Format, typer.Option("--format", help="How the report is written.")] = Format.TEXT,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the report to a file.")] = None,
    fail_on: Annotated[
        Threshold | None, typer.Option("--fail-on", help="Fail from this severity on instead of `guard.fail_on`.")
    ] = None,
    docs_url: Annotated[
        str | None, typer.Option("--docs-url", metavar="URL", help="Where your copy of docs/checks.md is published.")
    ] = None,
    *,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch and look at archives that lie elsewhere, as a start would.")
    ] = False,
) -> None:
    """Check configuration and archives as a start would, and start nothing.

    Exit codes: 0 a start would accept this; 2 configuration; 3 findings at or above the threshold;
    4 an archive is not what the manifest promises. Of several configurations, the highest code.
    """
    from torchserve_guard import reporting  # noqa: PLC0415 - only needed here

    with Progress(sys.stderr) as progress:
        outcomes = tuple(_outcomes(asked, _severity(fail_on), progress, fetch=fetch))
    several = len(asked.configs) > 1 or any(looks.is_folder(path) for path in asked.configs)
    account = reporting.Account(outcomes, __version__, _root(), several, docs_url, _rules(form))
    text = _coloured(account) if form is Format.TEXT and output is None else reporting.FORMATS[form.value](account)
    alone = form is Format.TEXT and not several and outcomes[0].error is not None
    if output is not None or not alone:
        deliver(text, output)
    _tell(account, form, output)
    if account.exit_code:
        raise typer.Exit(account.exit_code)


def _severity(fail_on: Threshold | None) -> Severity | None:
    from torchserve_guard.findings import Severity  # noqa: PLC0415 - only needed here

    return Severity[fail_on.name] if fail_on is not None else None


def _outcomes(
    asked: options.Asked, threshold: Severity | None, progress: Progress, *, fetch: bool
) -> Iterator[Outcome]:
    """Yield the outcome of each configuration; what is unpacked or asked for one is there for the next."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.workers import Remembered  # noqa: PLC0415 - heavy, and only needed here

    with tempfile.TemporaryDirectory(prefix="tsguard-check-") as folder:
        store = archives.Store(Path(folder) / "store", believing=False, scratch=True)
        means = Means(asked, threshold, store, Remembered(os.environ), progress, fetch)
        try:
            for path in asked.configs or (None,):
                if path is None or not looks.is_folder(path):
                    yield _outcome(path, means)
                else:
                    yield from _folder(path, means)
        finally:
            store.clear()


def _folder(folder: Path, means: Means) -> Iterator[Outcome]:
    try:
        found = targets.below(folder)
    except ConfigError as error:
        yield _failed(str(folder), error, means.threshold)
        return
    for path in found:
        yield _outcome(path, means)


def _outcome(path: Path | None, means: Means) -> Outcome:
    from torchserve_guard.preflight import preflight  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.reporting import Outcome  # noqa: PLC0415
    from torchserve_guard.settings.waivers import accepted  # noqa: PLC0415

    target = NOTHING if path is None else str(path)
    try:
        settings = means.asked.settings(path)
    except GuardError as error:
        return _failed(target, error, means.threshold)
    stops = settings.fail_on if means.threshold is None else means.threshold
    now = datetime.now(UTC)
    try:
        checked = preflight(settings, means.store, now, means.advance, interpreter=means.interpreter, fetch=means.fetch)
        return Outcome(checked.report, stops)
    except GuardError as error:
        return Outcome.of_error(target, error, stops, accepted(settings, settings.findings, now))


def _failed(target: str, error: GuardError, threshold: Severity | None) -> Outcome:
    from torchserve_guard.findings import Severity  # noqa: PLC0415 - only needed here
    from torchserve_guard.reporting import Outcome  # noqa: PLC0415

    return Outcome.of_error(target, error, Severity.HIGH if threshold is None else threshold)


def _root() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "/"  # the working directory is gone; reading the settings has said so


def _rules(form: Format) -> dict[str, Rule]:
    """Return what is documented of each rule, for the formats that list them all."""
    if form not in {Format.SARIF, Format.JUNIT}:
        return {}
    from torchserve_guard import reporting  # noqa: PLC0415 - only needed here

    return reporting.parse((Path(reporting.__file__).parent / "checks.md").read_text("utf-8"))


def _tell(account: Account, form: Format, output: Path | None) -> None:
    """Say on standard error what a person needs who reads the log of a pipeline, and did not get on standard output."""
    from torchserve_guard.reporting.text import brief  # noqa: PLC0415 - only needed here

    if output is not None and form is not Format.TEXT:
        typer.echo(brief(account), err=True, nl=False)
        return
    if form is Format.TEXT and output is None and account.several:
        return
    for error in filter(None, (outcome.error for outcome in account.outcomes)):
        for line in lines.of_error(error):
            typer.echo(line, err=True)


def _coloured(account: Account) -> str:
    """Return the text, coloured when standard output is a terminal that shows colours."""
    from torchserve_guard.reporting.text import plain, told  # noqa: PLC0415 - only needed here

    return told(account, _paint() if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else plain)


def _paint() -> Paint:
    from rich.console import Console  # noqa: PLC0415 - heavy, and only needed on a terminal
    from rich.style import Style  # noqa: PLC0415

    from torchserve_guard.reporting import PALETTE  # noqa: PLC0415

    system = Console(file=sys.stdout)._color_system  # noqa: SLF001 - the enum; the public property is its name only
    styles = {name: Style.parse(words) for name, words in PALETTE.items()}
    return lambda style, text: styles[style].render(text, color_system=system)
