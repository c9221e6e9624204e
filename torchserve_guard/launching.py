"""The launch: what TorchServe is started from, made of the settings and of what is installed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from torchserve_guard.access import Mode
from torchserve_guard.admin.instance import RUN_PREFIX
from torchserve_guard.errors import ConfigError, FrontendError
from torchserve_guard.frontend import (
    Frontend,
    HeadStart,
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


class Launching:
    """The launch of one TorchServe in a run directory: begun while archives are verified, told of them when they are.

    Leaving its context ends one that was begun and that nothing came of.
    """

    def __init__(self, settings: Settings, root: Path, environment: Mapping[str, str]) -> None:
        self.root = root
        self.exposed = root / "models"
        self._settings = settings
        self._environment = environment
        self._launch: Launch | None = None
        self._ahead: HeadStart | None = None

    @property
    def links(self) -> Path:
        """Where TorchServe keeps its own links to what it registered."""
        return self._known().run.temporary / "models"

    def begin(self) -> None:
        """Have Java start, which is told nothing yet; once. Raises `FrontendError` when something is not installed."""
        if self._ahead is None:
            self.exposed.mkdir(mode=0o700)
            take_turns(len(os.sched_getaffinity(0)))
            self._launch = launch_of(self._settings, self.root, self.exposed, self._environment)
            self._ahead = HeadStart(self._launch)

    def frontend(self, models: Iterable[Loaded]) -> Frontend:
        """Return the TorchServe that was begun, to be told of these models."""
        named = tuple((model.item.model, model.item.archive) for model in models)
        return Frontend(dataclasses.replace(self._known(), models=named), self._ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what was not taken over."""
        if self._ahead is not None:
            self._ahead.end()

    def _known(self) -> Launch:
        if self._launch is None:
            raise FrontendError("torchserve: not started")
        return self._launch


def launch_of(settings: Settings, root: Path, exposed: Path, environment: Mapping[str, str]) -> Launch:
    """Return what TorchServe is started from, but for its models.

    Raises `FrontendError` when something of it is not installed.
    """
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


@contextmanager
def run_directory(settings: Settings) -> Iterator[Path]:
    """Make a private run directory; what is in it goes when the guard does. Raises `ConfigError`."""
    try:
        if settings.runtime_dir is not None:
            settings.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=settings.runtime_dir))
    except OSError as error:
        place = settings.runtime_dir or tempfile.gettempdir()
        raise ConfigError(
            f"guard.runtime_dir `{place}`: no folder can be made there ({error.strerror or error}); name another"
        ) from error
    try:
        _verify_irreplaceable(root)
        _verify_irreplaceable(settings.state_dir)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _verify_irreplaceable(folder: Path) -> None:
    """Return if nobody else can put another folder in the place of this one; raise `ConfigError`.

    What TorchServe runs lies there: whoever can rename a folder above it can have code of his own run.
    """
    if not trusted((folder,)):
        raise ConfigError(
            f"{folder}: another user could replace this folder, or one above it; use one below folders that only root "
            "or the guard's user may write (`guard.state_dir`, `guard.runtime_dir`, TMPDIR)"
        )
