"""The status: what a running guard says of itself, as one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum

SCHEMA = "torchserve_guard/status/v1"


class State(Enum):
    """Where a guard is in its life."""

    STARTING = "STARTING"
    SERVING = "SERVING"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class ManifestStatus:
    """The manifest that counts: its version, the SHA-256 of its bytes, when it expires if ever, and who signed it."""

    path: str
    version: int
    sha256: str
    expires: datetime | None
    signers: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return it as it is shown in JSON."""
        return {**asdict(self), "expires": self.expires.isoformat() if self.expires is not None else None}


@dataclass(frozen=True, slots=True)
class Status:
    """The guard at one moment. `uptime` is in seconds, `models` name archive and digest, `door` and `grpc` count.

    `verification` counts the looks at what is served, `processes` are those at the door beside the guard's own.
    `manifest` is the one that counts, None where none does.
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
    manifest: ManifestStatus | None = None

    def document(self) -> dict[str, object]:
        """Return the status as it is shown in JSON."""
        manifest = self.manifest.document() if self.manifest is not None else None
        shown = {"state": self.state.value, "uptime": round(self.uptime, 3), "manifest": manifest}
        return {"schema": SCHEMA, **asdict(self), **shown}
