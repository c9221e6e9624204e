"""The ports: whether the listeners' are free now, and who has those that are not."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from functools import lru_cache

import psutil

from torchserve_guard.escape import printable
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings.address import Address
from torchserve_guard.settings.settings import Settings

REMEDY = (
    "stop what listens there before the start, or configure another port; when it is the server in service, ignore it"
)


def check(settings: Settings) -> tuple[Finding, ...]:
    """Return a finding for each listener that could not be opened now."""
    return tuple(_findings(settings))


def _findings(settings: Settings) -> Iterator[Finding]:
    keys = {f"{names[0]}_address": address for address, names in settings.ports.items()}
    keys |= {f"grpc_{name}_port": address for name, address in settings.grpc_listeners.items()}
    for key, address in keys.items():
        why = _obstacle(address)
        if why is not None:
            message = f"`{key}`: `{address}` cannot be listened on now: {why}"
            yield Finding("TSG036", Severity.LOW, message, REMEDY, Location(str(settings.config)), key=key)


def _obstacle(address: Address) -> str | None:
    """Return why nobody could listen there now; SO_REUSEADDR, as the guard's own listeners have it."""
    if address.path is not None or address.host is None or address.port is None:
        return None
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        held = holder(address.port) if error.errno == errno.EADDRINUSE else None
        return f"{held} listens there" if held is not None else printable(error.strerror or str(error))
    return None


@lru_cache(maxsize=64)  # asking the kernel of every process takes longer than checking a configuration
def holder(port: int) -> str | None:
    """Return the process that listens on a TCP port, `process 123 (java)`; None when this user may not know."""
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    processes = (one.pid for one in found if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port)
    pid = next((pid for pid in processes if pid is not None), None)
    return None if pid is None else f"process {pid}{_named(pid)}"


def _named(pid: int) -> str:
    try:
        return f" ({printable(psutil.Process(pid).name())})"
    except psutil.Error:
        return ""
