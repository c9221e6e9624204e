"""The preparation: TorchServe started once, for its classes to be kept as Java reads them (see `class_archive`)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend import (
    ExpectedModel,
    Frontend,
    Java,
    Launch,
    RunDirectory,
    TorchServe,
    build_environment,
    class_archive,
    find_java,
    find_torchserve,
    installed,
    path_candidates,
    trusted,
    verify_workers,
)
from torchserve_guard.launching import collector
from torchserve_guard.unix_http import request

MODEL = ExpectedModel("prepared", "1.0")
HANDLER = "def handle(data, context):\n    return [b''] * len(data or ())\n"
MANIFEST = {
    "createdOn": "01/01/2000 00:00:00",
    "runtime": "python",
    "model": {"modelName": MODEL.name, "modelVersion": MODEL.version, "handler": "handler.py:handle"},
    "archiverVersion": "0.12.0",
}
READY_WITHIN = 120.0
GONE_WITHIN = 30.0
ANSWERED_WITHIN = 10.0
REQUESTS = 20


def prepare(environment: Mapping[str, str], place: Path, say: Callable[[str], None]) -> Path:
    """Write the class archive into `place`; return its path. One that is there already, and whole, stays as it is.

    TorchServe is started with a model that does nothing, asked a few times, and ended. Raises `FrontendError` when it
    does not start, or the archive cannot be written.
    """
    java, torchserve = find_java(environment), find_torchserve(installed())
    verify_workers()
    found = class_archive.find(java, torchserve.jars, place)
    if found is not None:
        return found
    say("TorchServe is started once for its classes; this takes some seconds")
    made = place / f".{os.getpid()}.jsa"
    with _scratch() as root, Path(os.devnull).open("wb") as nowhere, _written(made):
        names = root / "classes"
        asyncio.run(_run(_launch(java, torchserve, root, names, environment), nowhere.fileno()))
        class_archive.dump(java, torchserve.jars, names, made)
        class_archive.keep(made, class_archive.stem_of(java, torchserve.jars))
    found = class_archive.find(java, torchserve.jars, place)
    if found is None:
        raise FrontendError(f"`{place}`: other users may write there, or in a folder above it; it will not be used")
    return found


def _launch(java: Java, torchserve: TorchServe, root: Path, names: Path, environment: Mapping[str, str]) -> Launch:
    interpreter, run, store, logs = Path(sys.executable), RunDirectory(root / "ts"), root / "models", root / "logs"
    model = store / MODEL.name
    (model / "MAR-INF").mkdir(parents=True)
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(MANIFEST))
    (model / "handler.py").write_text(HANDLER)
    logs.mkdir()
    built = build_environment(
        environment,
        path=trusted(path_candidates(interpreter, java.path)),
        temporary=run.temporary,
        log_location=logs,
        metrics_location=logs,
        roster=root / "none",
        wanted=(),
    )
    return Launch(
        java=java.path,
        home=torchserve.home,
        jars=torchserve.jars,
        interpreter=interpreter,
        run=run,
        model_store=store,
        environment=built,
        models=((MODEL.name, MODEL.name),),
        tokens=torchserve.tokens,
        passed_on={"default_workers_per_model": "1"},
        extra_arguments=(*collector((), len(os.sched_getaffinity(0))), *class_archive.listing(names)),
    )


async def _run(launch: Launch, sink: int) -> None:
    async with Frontend(launch, stdout=sink, stderr=sink, grace=GONE_WITHIN) as frontend:
        await frontend.ready((MODEL,), READY_WITHIN)
        key = frontend.keys.inference if frontend.keys is not None else ""
        for target in (*[f"/predictions/{MODEL.name}"] * REQUESTS, "/ping"):
            request(frontend.sockets.inference, "GET", target, {"Authorization": f"Bearer {key}"}, ANSWERED_WITHIN)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tsguard-") as folder:
        yield Path(folder)


@contextmanager
def _written(made: Path) -> Iterator[None]:
    """Let `made` be written to; nothing stays of it under that name."""
    try:
        made.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FrontendError(
            f"`{made.parent}` cannot be written: {error.strerror or error}; run this as the owner of the installation"
        ) from error
    finally:
        with suppress(OSError):
            made.unlink()
