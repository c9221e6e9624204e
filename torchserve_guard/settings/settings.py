"""The settings: everything the guard was told, whole, typed and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from torchserve_guard.access import Mode
from torchserve_guard.findings import Finding, Severity, Waiver
from torchserve_guard.origin import Origin
from torchserve_guard.settings.address import Address
from torchserve_guard.settings.certificates import Tls
from torchserve_guard.settings.grpc_listeners import ConnectionAge
from torchserve_guard.settings.trusted import TrustedIdentity, TrustedKey
from torchserve_guard.terms import Terms


class Profile(Enum):
    """`guard.profile`: how strict the guard is; `compat` lets a team move in steps."""

    STRICT = "strict"
    COMPAT = "compat"


@dataclass(frozen=True, slots=True)
class LoadItem:
    """One model to load: the archive's name, the name it is to be served under, and where it is if not in the store."""

    archive: str
    model: str | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the door and of a start: sizes in bytes, times in seconds. No `verify_interval` is 0."""

    max_request_size: int = 6_553_500
    max_connections: int = 10_000
    max_connections_per_address: int = 7_500
    head_timeout: float = 60.0
    idle_timeout: float = 600.0
    stall_timeout: float = 60.0
    min_rate: int = 500
    model_concurrency: int | None = None
    model_queue: int = 100
    queue_timeout: float = 30.0
    drain_timeout: float = 30.0
    start_timeout: float = 300.0
    verify_interval: float = 300.0


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much one archive may hold: members, bytes unpacked, and how many of these for each byte of the archive."""

    members: int = 20_000
    unpacked: int = 256 << 30
    ratio: int = 200


@dataclass(frozen=True, slots=True)
class AccessFile:
    """Where the access log is kept, in which form; a file grows to `size` bytes, and `count` older ones are kept."""

    path: Path
    form: str = "json"
    size: int = 67_108_864
    count: int = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """What one guarded TorchServe is to be.

    `load` is None for `ALL`. `passthrough` holds the keys that TorchServe gets as the user wrote them.
    `metrics` and the gRPC listeners are None when they are switched off. `token_lifetime` is in seconds. `tls` is None
    when nothing is served over TLS.
    `signature_roles` must each have signed by another key; `signature_threshold` is then their number.
    `texts` is what keys and variables were given, for waivers to be bound to; it may hold secrets.
    `private_copies` names the archives whose models may write to their folder; `*` is all of them.
    `stream_models`, `kserve_models` and `unary_models` name the models that may be asked for such answers over
    gRPC, None is all.
    `workers` is how many processes serve inference, None for as many as the machine is worth.
    `manifest_named` says that the user named the manifest, which is then never let be missing.
    """

    config: Path
    profile: Profile
    mode: Mode
    inference: Address
    management: Address
    metrics: Address | None
    grpc_inference: Address | None
    grpc_management: Address | None
    keys_required: bool
    token_lifetime: float
    model_store: Path
    load: tuple[LoadItem, ...] | None
    manifest: Path
    manifest_named: bool
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
    archive_limits: ArchiveLimits = field(default_factory=ArchiveLimits)
    access_log: AccessFile | None = None
    tls: Tls | None = None
    grpc_ages: Mapping[str, ConnectionAge] = field(default_factory=dict)
    trusted_keys: tuple[TrustedKey, ...] = ()
    trusted_identities: tuple[TrustedIdentity, ...] = ()
    sigstore_root: Path | None = None
    signature_threshold: int = 0
    signature_roles: tuple[str, ...] = ()
    private_copies: tuple[str, ...] = ()
    stream_models: frozenset[str] | None = None
    kserve_models: frozenset[str] | None = None
    unary_models: frozenset[str] | None = None
    workers: int | None = 1
    terms: Terms = field(default_factory=Terms)
    findings: tuple[Finding, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def copied(self, archive: str) -> bool:
        """Whether the model of an archive is shown a private copy that it may write to."""
        return archive in self.private_copies or "*" in self.private_copies

    @property
    def keyless_management(self) -> bool:
        """Whether a change needs no key: compat, keys switched off, and only this machine can ask for one.

        Never on a port that inference is served on: whoever forwards that one to the world forwards management with it.
        """
        if self.management in {self.inference, self.metrics}:
            return False
        local = self.management.local and (self.grpc_management is None or self.grpc_management.local)
        return self.profile is Profile.COMPAT and not self.keys_required and local

    @property
    def listeners(self) -> dict[str, Address]:
        """Return the addresses that the user configured, by the name of the listener."""
        named = {"inference": self.inference, "management": self.management, "metrics": self.metrics}
        return {name: address for name, address in named.items() if address is not None}

    @property
    def ports(self) -> dict[Address, tuple[str, ...]]:
        """Return which listeners are served at each address.

        Where inference and management are one, stock serves metrics there too; when it asks for keys it gives them to
        nobody, since it asks for two at once (ServerInitializer, TokenAuthorizationHandler). So metrics come along only
        where no keys are asked for.
        """
        found: dict[Address, tuple[str, ...]] = {}
        for name, address in self.listeners.items():
            found[address] = (*found.get(address, ()), name)
        if self.metrics is not None and self.inference == self.management != self.metrics and not self.keys_required:
            found[self.inference] += ("metrics",)
        return found

    @property
    def grpc_listeners(self) -> dict[str, Address]:
        """Return the addresses of the gRPC listeners, by the names that the others have."""
        named = {"inference": self.grpc_inference, "management": self.grpc_management}
        return {name: address for name, address in named.items() if address is not None}
