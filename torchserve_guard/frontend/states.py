"""Models as they are expected, and as TorchServe's management listener describes them.

Pure: no I/O, no clock, no environment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from torchserve_guard.errors import FrontendError


@dataclass(frozen=True, slots=True)
class ExpectedModel:
    """A model as its archive's manifest (or `NAME=`) names it."""

    name: str
    version: str

    @property
    def thread(self) -> str:
        """What ends the names of its workers' threads in TorchServe's log."""
        return f"-{self.name}_{self.version}"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker as TorchServe describes it; `process` is -1 until there is one."""

    identifier: str
    ready: bool
    process: int


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version of a model as TorchServe describes it."""

    name: str
    version: str
    minimum: int
    workers: tuple[WorkerState, ...]

    @property
    def ready(self) -> bool:
        """Whether as many workers as were asked for are there, and all of them have loaded the model."""
        return len(self.workers) >= self.minimum and all(worker.ready for worker in self.workers)


def parse_states(body: bytes) -> tuple[ModelState, ...]:
    """Return the versions that `GET /models/NAME/all` describes; raise FrontendError if it does not."""
    try:
        return tuple(_state(entry) for entry in json.loads(body))
    except (ValueError, KeyError, TypeError) as error:
        raise FrontendError(f"torchserve: its description of a model does not read as one: {error!r}") from error


def _state(entry: dict[str, object]) -> ModelState:
    workers = entry["workers"]
    if not isinstance(workers, list):
        raise TypeError(workers)
    described = tuple(WorkerState(str(row["id"]), row["status"] == "READY", int(row["pid"])) for row in workers)
    return ModelState(str(entry["modelName"]), str(entry["modelVersion"]), int(str(entry["minWorkers"])), described)
