"""The launch: what TorchServe is started from, made of the settings and of what is installed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from torchserve_guard.access import Mode
from torchserve_guard.frontend import (
    Launch,
    RunDirectory,
    build_environment,
    class_archive,
    find_java,
    find_torchserve,
    installed,
    path_candidates,
    trusted,
    verify_workers,
)
from torchserve_guard.preflight import Loaded
from torchserve_guard.settings import Settings

FEW_PROCESSORS = 2
ROSTER_NAME = "roster.json"


def launch_of(
    settings: Settings, models: tuple[Loaded, ...], root: Path, exposed: Path, environment: Mapping[str, str]
) -> Launch:
    """Return what TorchServe is started from. Raises `FrontendError` when something of it is not installed."""
    java, torchserve = find_java(environment), find_torchserve(installed())
    verify_workers()
    interpreter = Path(sys.executable)
    run = RunDirectory(root / "ts")
    for folder in (settings.log_location, settings.metrics_location):
        folder.mkdir(parents=True, exist_ok=True)
    built = build_environment(
        environment,
        path=trusted(path_candidates(interpreter, java.path)),
        temporary=run.temporary,
        log_location=settings.log_location,
        metrics_location=settings.metrics_location,
        roster=root / ROSTER_NAME,
        wanted=settings.pass_environment,
    )
    return Launch(
        java=java.path,
        home=torchserve.home,
        jars=torchserve.jars,
        interpreter=interpreter,
        run=run,
        model_store=exposed,
        environment=built,
        models=tuple((model.item.model, model.item.archive) for model in models),
        enable_model_api=settings.mode is Mode.EXPLICIT,
        tokens=torchserve.tokens,
        passed_on=settings.passthrough,
        jvm_arguments=settings.jvm_arguments,
        frontend_log=settings.frontend_log,
        extra_arguments=(
            *collector(settings.jvm_arguments, len(os.sched_getaffinity(0))),
            *class_archive.using(java, torchserve.jars, class_archive.folder()),
        ),
    )


def take_turns(processors: int) -> None:
    """On a small machine, let this process and its children finish what they do before another is let in.

    SCHED_BATCH (sched(7)) switches off pre-emption at a wake-up: client, door, JVM and worker share two processors,
    and each handles what has piled up in one go; see docs/adr/0004. Where the kernel refuses, all stays as it was.
    """
    if processors <= FEW_PROCESSORS and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def collector(chosen: tuple[str, ...], processors: int) -> tuple[str, ...]:
    """Return the garbage collector for a small machine, unless the user chose one.

    Java takes two processors for a server and gives it G1, whose threads then compete with the workers; see
    docs/adr/0004.
    """
    small = processors <= FEW_PROCESSORS and not any(argument.endswith("GC") for argument in chosen)
    return ("-XX:+UseSerialGC",) if small else ()
