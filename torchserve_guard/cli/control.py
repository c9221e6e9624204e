"""`tsguard status` and `tsguard stop`: talking to a running guard through its control socket."""

from __future__ import annotations

import contextlib
import json
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchserve_guard.cli import options
from torchserve_guard.cli.lines import printable
from torchserve_guard.errors import FrontendError, VerificationError

if TYPE_CHECKING:
    import psutil

    from torchserve_guard.admin.instance import Instance
    from torchserve_guard.unix_http import Response

SCHEMA = "torchserve_guard/status/v1"
NOT_RUNNING = 5
ANSWER_WITHIN = 5.0
LONGEST_STOP = 600.0
LOOK_EVERY = 0.05
VERIFIED_WITHIN = 24 * 3600.0
LONGEST_ANSWER = 64 << 20


def _instance(config: Path | None) -> Instance | None:
    from torchserve_guard.admin.instance import running  # noqa: PLC0415 - heavy; `--help` does without

    settings = options.settings_of(config)
    return running(settings.state_dir, settings.config)


def _ask(instance: Instance, method: str, target: str, within: float | None = None) -> dict[str, Any]:
    """Return the document that a running guard answers with. Raises `FrontendError` when it does not."""
    answer = _answer(instance, method, target, ANSWER_WITHIN if within is None else within)
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise _strange(instance, f"{method} {target}") from error
    if isinstance(document, dict) and answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise FrontendError(f"process {instance.pid} cannot do that now: {document.get('message')}; try again")
    if not isinstance(document, dict) or answer.status != HTTPStatus.OK:
        raise _strange(instance, f"{method} {target}")
    return document


def _answer(instance: Instance, method: str, target: str, within: float) -> Response:
    from torchserve_guard.unix_http import request  # noqa: PLC0415 - heavy; `--help` does without

    if instance.verifying:
        raise FrontendError(f"process {instance.pid} still verifies archives, and cannot be asked yet; try again")
    try:
        return request(Path(instance.control), method, target, {}, within, limit=LONGEST_ANSWER)
    except OSError as error:
        raise FrontendError(
            f"process {instance.pid} does not answer on `{instance.control}` ({error}); it is starting, ending or "
            f"halted: try again, look at its log, or end it with `kill {instance.pid}`"
        ) from error


def _strange(instance: Instance, asked: str) -> FrontendError:
    return FrontendError(
        f"process {instance.pid} answers `{asked}` with what is no answer of a guard; is it of another version?"
    )


def status(
    config: options.Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold what is served against what was verified, now, and wait for it.")
    ] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print numbers for Prometheus.")] = False,
) -> None:
    """Say what the guard of this configuration is doing.

    Exit codes: 5 when none is running; with --verify 4 when something is not as it was verified.
    """
    instance = _instance(config)
    if instance is None:
        typer.echo(json.dumps({"schema": SCHEMA, "state": "STOPPED"}) if as_json else "not running")
        raise typer.Exit(NOT_RUNNING)
    if instance.verifying and not metrics and not verify:
        starting = {"schema": SCHEMA, "state": "STARTING", "pid": instance.pid, "config": instance.config}
        line = f"STARTING  process {instance.pid} verifies archives\n" + printable(f"config     {instance.config}")
        typer.echo(json.dumps(starting) if as_json else line)
        return
    if metrics:
        typer.echo(_answer(instance, "GET", "/metrics", ANSWER_WITHIN).body.decode("utf-8", "replace"), nl=False)
        return
    if verify:
        _tell_verified(instance, as_json=as_json)
        return
    document = _ask(instance, "GET", "/status")
    try:
        text = json.dumps(document, indent=2) if as_json else _text(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _strange(instance, "GET /status") from error
    typer.echo(text)


def _tell_verified(instance: Instance, *, as_json: bool) -> None:
    document = _ask(instance, "POST", "/verify", VERIFIED_WITHIN)
    try:
        clean = document["clean"] is True
        text = json.dumps(document, indent=2) if as_json else "\n".join(map(printable, _verified(document)))
    except (KeyError, TypeError, ValueError) as error:
        raise _strange(instance, "POST /verify") from error
    typer.echo(text)
    if not clean:
        raise typer.Exit(VerificationError.exit_code)


def _verified(document: dict[str, Any]) -> list[str]:
    """Return what was seen, a line for each model and each difference."""
    lines = []
    for one in document["models"]:
        door = "  its door is closed" if one["closed"] else ""
        lines.append(f"{one['state']:10} {one['model']} {one['version']}  {one['archive']}{door}")
        lines += [f"           {found}" for found in one["found"]]
    lines += [f"elsewhere  {found}" for found in document["elsewhere"]]
    read = sum(one["bytes"] for one in document["models"])
    return [*lines, f"{len(document['models'])} models, {read} bytes read in {document['seconds']:.1f} s"]


def _text(document: dict[str, Any]) -> str:
    listeners, models, door = document["listeners"], document["models"], document["door"]
    lines = [
        f"{document['state']}  mode {document['mode']}  process {document['pid']}  up {document['uptime']:.0f} s",
        f"config     {document['config']}",
    ]
    manifest = document.get("manifest")
    lines += [_manifest(manifest)] if manifest is not None else []
    lines += [f"{name:10} {address}" for name, address in listeners.items()] if isinstance(listeners, dict) else []
    if isinstance(models, list):
        lines += [_model(each) for each in models]
    for one in document.get("processes", ()):
        told = ", ".join(f"{name} {value}" for name, value in one.items() if name != "state")
        lines.append(f"process    {one['state']}: {told}")
    if isinstance(door, dict):
        lines.append("door       " + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in door.items()))
    return "\n".join(map(printable, lines))


def _manifest(told: dict[str, Any]) -> str:
    signed = f"  signed by {'; '.join(told['signers'])}" if told["signers"] else ""
    expires = f"expires {told['expires'] or 'never'}"
    return f"manifest   version {told['version']}  {told['path']}  sha256:{told['sha256'][:16]}  {expires}{signed}"


def _model(each: dict[str, Any]) -> str:
    """Return the line of one model; that it may write to its own files is said."""
    files = each.get("files", "read-only")
    told = "" if files == "read-only" else f"  {files}"
    told += "" if each.get("door", "open") == "open" else f"  CLOSED: {each.get('why')}"
    return f"model      {each['model']} {each['version']}  {each['archive']}  sha256:{each['digest'][:16]}{told}"


def stop(config: options.Config = None) -> None:
    """Stop the guard of this configuration: close the door, finish what is in flight, stop TorchServe."""
    instance = _instance(config)
    process = None if instance is None else _process(instance.pid)
    if instance is None or process is None:
        typer.echo("not running")
        return
    try:
        # Looked at again now that its process is known: the number could have become another's before.
        latest = _instance(config)
        if latest is not None and latest.pid == instance.pid:
            _have_stopped(latest, process)
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


def _have_stopped(instance: Instance, process: psutil.Process) -> None:
    """Ask a guard to stop; one that still verifies listens to nothing but signals."""
    import psutil  # noqa: PLC0415 - heavy; `--help` does without

    if not instance.verifying:
        _ask(instance, "POST", "/stop")
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()


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
