"""`tsguard check`: the preflight of a start, without starting anything."""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard.cli import options
from torchserve_guard.cli.progress import Progress

if TYPE_CHECKING:
    from torchserve_guard.settings import Settings

FINDINGS = 3


class Format(Enum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"


class Threshold(Enum):
    """The severity from which findings fail a check."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@options.takes_flags
def check(
    settings: Settings,
    form: Annotated[Format, typer.Option("--format", help="How the report is written.")] = Format.TEXT,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the report to a file.")] = None,
    fail_on: Annotated[
        Threshold | None, typer.Option("--fail-on", help="Fail from this severity on instead of `guard.fail_on`.")
    ] = None,
) -> None:
    """Check configuration and archives as a start would, and start nothing.

    Exit codes: 0 a start would accept this; 2 configuration; 3 findings at or above the threshold;
    4 an archive is not what the manifest promises.
    """
    from torchserve_guard import archives, reporting  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.findings import Severity  # noqa: PLC0415
    from torchserve_guard.preflight import preflight  # noqa: PLC0415

    threshold = Severity[fail_on.name] if fail_on is not None else settings.fail_on
    with tempfile.TemporaryDirectory(prefix="tsguard-check-") as folder, Progress(sys.stderr) as progress:
        store = archives.Store(Path(folder) / "store")
        result = preflight(settings, store, datetime.now(UTC), progress.advance)
        store.clear()
    text = reporting.FORMATS[form.value](result.report, threshold)
    options.deliver(text, output)
    if result.report.at_or_above(threshold):
        raise typer.Exit(FINDINGS)
