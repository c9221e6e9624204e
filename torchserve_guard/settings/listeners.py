"""The HTTP listeners: where they listen, and whether those on one port are meant to share it.

TorchServe serves inference and management on one port when both keys say the same (ModelServer, ConnectorType.ALL), as
its configuration for SageMaker does. The guard does too, and takes metrics there as well, which stock cannot bind.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from torchserve_guard.settings.address import Address
from torchserve_guard.settings.reading import Reading

DEFAULT_PORTS = {"inference": 8080, "management": 8081, "metrics": 8082}


def read(reading: Reading) -> dict[str, Address]:
    """Return the address of each HTTP listener; complain where two are on one port that were not told to share it."""
    listeners = {
        name: reading.value(f"{name}_address", Address("http", "127.0.0.1", port))
        for name, port in DEFAULT_PORTS.items()
    }
    if not reading.value("enable_metrics_api", default=True):
        del listeners["metrics"]
    for first, second in combinations(listeners, 2):
        told, other = (first, second) if f"{second}_address" not in reading.given else (second, first)
        why = _unshared(reading, listeners, told, other)
        if why is not None:
            reading.complain(f"{told}_address", why)
    return listeners


def _unshared(reading: Reading, listeners: Mapping[str, Address], told: str, other: str) -> str | None:
    """Return why two listeners cannot be open at once, None when they can, each for itself or as one."""
    if not listeners[told].overlaps(listeners[other]):
        return None
    if listeners[told] != listeners[other]:
        return (
            f"is the port of the {other} listener, `{listeners[other]}`, in other words; give each listener its own, "
            "or write the same address for both, and one port serves both"
        )
    # INVARIANT: nobody gets management on the port of inference who did not write so: a default is not a wish.
    if not {f"{told}_address", f"{other}_address"} <= reading.given.keys():
        return (
            f"is also the {other} address, by default; give each listener its own, so that management can be kept from "
            f"those who may only infer, or write `{other}_address` too, and one port serves both"
        )
    return None
