"""The status: what a running guard says of itself, as one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum

SCHEMA = "torchserve_guard/status/v1"


class State(Enum):
    """Where a guard is in its life."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class Status:
    """The guard at one moment. `uptime` is in seconds, `models` name archive and digest, `door` and `grpc` count.

    `verification` counts the looks at what is served, `processes` are those at the door beside the guard's own.
    """

    state: State
    version: str
    pid: int
    frontend_pid: int | None
    config: str
    mode: str
    uptime: float
    listeners: Mapping[str, str]
    models: tuple[Mapping[str, str], ...]
    door: Mapping[str, int]
    grpc: Mapping[str, int]
    verification: Mapping[str, float] = field(default_factory=dict)
    processes: tuple[Mapping[str, float | str], ...] = ()

    def document(self) -> dict[str, object]:
        """Return the status as it is shown in JSON."""
        return {"schema": SCHEMA, **asdict(self), "state": self.state.value, "uptime": round(self.uptime, 3)}
