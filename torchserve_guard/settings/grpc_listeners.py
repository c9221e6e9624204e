"""The gRPC listeners: where they listen, as `grpc_*_address` and `grpc_*_port` say; port 0 leaves one closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchserve_guard.settings.address import Address
from torchserve_guard.settings.reading import Reading

DEFAULT_PORTS = {"grpc_inference": 7070, "grpc_management": 7071}


@dataclass(frozen=True, slots=True)
class ConnectionAge:
    """How long a client's connection may last, and how long its calls may go on after that; in milliseconds."""

    most: int | None = None
    grace: int | None = None


def read_ages(reading: Reading) -> dict[str, ConnectionAge]:
    """Return the age of each gRPC listener's connections: the guard closes them, TorchServe keeps the guard's."""
    return {
        name: ConnectionAge(
            reading.value(f"{name}_max_connection_age_ms", None),
            reading.value(f"{name}_max_connection_age_grace_ms", None),
        )
        for name in DEFAULT_PORTS
    }


def read(reading: Reading, others: Mapping[str, Address]) -> dict[str, Address]:
    """Return the gRPC listeners that are to be opened; complain where one is on the address of another."""
    scheme = "grpcs" if reading.value("enable_grpc_ssl", default=False) else "grpc"
    found: dict[str, Address] = {}
    for name, default in DEFAULT_PORTS.items():
        # TorchServe would let the kernel choose for 0: a port that no client knows.
        port = reading.value(f"{name}_port", default)
        if port:
            address = Address(scheme, reading.value(f"{name}_address", "127.0.0.1"), port)
            _verify_alone(reading, name, address, {**others, **found})
            found[name] = address
    return found


def _verify_alone(reading: Reading, name: str, address: Address, others: Mapping[str, Address]) -> None:
    for other, taken in others.items():
        if address.overlaps(taken):
            reading.complain(
                f"{name}_port", f"is also the port of the {other} listener; give each its own, or 0 to leave it closed"
            )
