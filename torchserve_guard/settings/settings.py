"""The settings: everything the guard was told, whole, typed and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard.access import Mode
from torchserve_guard.findings import Finding, Severity
from torchserve_guard.settings.address import Address


@dataclass(frozen=True, slots=True)
class LoadItem:
    """One model to load at the start: the archive's name in the store, and the name it is to be served under."""

    archive: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the door and of a start: sizes in bytes, times in seconds."""

    max_request_size: int = 6_553_500
    max_connections: int = 10_000
    head_timeout: float = 60.0
    idle_timeout: float = 600.0
    drain_timeout: float = 30.0
    start_timeout: float = 300.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What one guarded TorchServe is to be.

    `load` is None for `ALL`. `passthrough` holds the keys that TorchServe gets as the user wrote them.
    `metrics` is None when the metrics listener is switched off. `token_lifetime` is in seconds.
    """

    config: Path
    mode: Mode
    inference: Address
    management: Address
    metrics: Address | None
    keys_required: bool
    token_lifetime: float
    model_store: Path
    load: tuple[LoadItem, ...] | None
    manifest: Path
    state_dir: Path
    runtime_dir: Path | None
    audit_log: Path
    key_file: Path
    admin: Address | None
    frontend_log: str
    log_location: Path
    metrics_location: Path
    fail_on: Severity
    scanners: tuple[str, ...] | None
    jvm_arguments: tuple[str, ...]
    pass_environment: tuple[str, ...]
    passthrough: Mapping[str, str]
    limits: Limits
    findings: tuple[Finding, ...] = ()

    @property
    def listeners(self) -> dict[str, Address]:
        """Return the addresses that the user configured, by the name of the listener."""
        named = {"inference": self.inference, "management": self.management, "metrics": self.metrics}
        return {name: address for name, address in named.items() if address is not None}
