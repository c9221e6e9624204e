"""`tsguard status` and `tsguard stop`: talking to a running guard through its control socket."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchserve_guard.cli import options
from torchserve_guard.errors import FrontendError, GuardError

if TYPE_CHECKING:
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
    from torchserve_guard.unix_http import request  # noqa: PLC0415 - heavy; `--help` does without

    answer = request(Path(instance.control), method, target, {}, ANSWER_WITHIN)
    document = json.loads(answer.body)
    if not isinstance(document, dict):
        raise GuardError(f"process {instance.pid} answered `{method} {target}` with something else than a document")
    return document


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
    typer.echo(json.dumps(document, indent=2) if as_json else _text(document))


def _text(document: dict[str, object]) -> str:
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
    return "\n".join(lines)


def stop(config: options.Config = None) -> None:
    """Stop the guard of this configuration: close the door, finish what is in flight, stop TorchServe."""
    import psutil  # noqa: PLC0415 - heavy; `--help` does without

    instance = _instance(config)
    if instance is None:
        typer.echo("not running")
        return
    process = psutil.Process(instance.pid)
    _ask(instance, "POST", "/stop")
    deadline = time.monotonic() + LONGEST_STOP
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            raise FrontendError(f"process {instance.pid} is still stopping after {LONGEST_STOP:.0f} s; look at its log")
        time.sleep(LOOK_EVERY)
    typer.echo("stopped")
