"""`tsguard status` and `tsguard stop`: talking to a running guard through its control socket."""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchserve_guard.cli import options
from torchserve_guard.cli.lines import printable
from torchserve_guard.errors import FrontendError

if TYPE_CHECKING:
    import psutil

    from torchserve_guard.admin.instance import Instance

NOT_RUNNING = 5
ANSWER_WITHIN = 5.0
LONGEST_STOP = 600.0
LOOK_EVERY = 0.05


def _instance(config: Path | None) -> Instance | None:
    from torchserve_guard.admin.instance import running  # noqa: PLC0415 - heavy; `--help` does without

    settings = options.settings_of(config)
    return running(settings.state_dir, settings.config)


def _ask(instance: Instance, method: str, target: str) -> dict[str, object]:
    """Return the document that a running guard answers with. Raises `FrontendError` when it does not."""
    from torchserve_guard.unix_http import request  # noqa: PLC0415 - heavy; `--help` does without

    try:
        answer = request(Path(instance.control), method, target, {}, ANSWER_WITHIN)
        document = json.loads(answer.body)
    except OSError as error:
        raise FrontendError(
            f"process {instance.pid} does not answer on `{instance.control}` ({error}); it is starting, ending or "
            f"halted: try again, look at its log, or end it with `kill {instance.pid}`"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _strange(instance, f"{method} {target}") from error
    if not isinstance(document, dict) or answer.status != HTTPStatus.OK:
        raise _strange(instance, f"{method} {target}")
    return document


def _strange(instance: Instance, asked: str) -> FrontendError:
    return FrontendError(
        f"process {instance.pid} answers `{asked}` with what is no answer of a guard; is it of another version?"
    )


def status(
    config: options.Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what the guard of this configuration is doing. Exit code 5 when none is running."""
    instance = _instance(config)
    if instance is None:
        typer.echo(
            json.dumps({"schema": "torchserve_guard/status/v1", "state": "STOPPED"}) if as_json else "not running"
        )
        raise typer.Exit(NOT_RUNNING)
    document = _ask(instance, "GET", "/status")
    try:
        text = json.dumps(document, indent=2) if as_json else _text(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _strange(instance, "GET /status") from error
    typer.echo(text)


def _text(document: dict[str, Any]) -> str:
    listeners, models, door = document["listeners"], document["models"], document["door"]
    lines = [
        f"{document['state']}  mode {document['mode']}  process {document['pid']}  up {document['uptime']:.0f} s",
        f"config     {document['config']}",
    ]
    lines += [f"{name:10} {address}" for name, address in listeners.items()] if isinstance(listeners, dict) else []
    if isinstance(models, list):
        lines += [f"model      {m['model']} {m['version']}  {m['archive']}  sha256:{m['digest'][:16]}" for m in models]
    if isinstance(door, dict):
        lines.append("door       " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in door.items()))
    return "\n".join(map(printable, lines))


def stop(config: options.Config = None) -> None:
    """Stop the guard of this configuration: close the door, finish what is in flight, stop TorchServe."""
    instance = _instance(config)
    process = None if instance is None else _process(instance.pid)
    if instance is None or process is None:
        typer.echo("not running")
        return
    try:
        _ask(instance, "POST", "/stop")
    except FrontendError:
        # It may have ended before it could answer, asked by somebody else: that is what was wanted.
        if _runs(process):
            raise
    deadline = time.monotonic() + LONGEST_STOP
    while _runs(process):
        if time.monotonic() > deadline:
            raise FrontendError(f"process {instance.pid} is still stopping after {LONGEST_STOP:.0f} s; look at its log")
        time.sleep(LOOK_EVERY)
    typer.echo("stopped")


def _process(pid: int) -> psutil.Process | None:
    import psutil  # noqa: PLC0415 - heavy; `--help` does without

    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process) -> bool:
    """Whether it still runs; one that waits for its parent only does not."""
    import psutil  # noqa: PLC0415 - heavy; `--help` does without

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
