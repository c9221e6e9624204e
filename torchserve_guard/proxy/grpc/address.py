"""The address of a gRPC listener: a host and a port, each numeric address of which is listened on.

grpc itself is not imported here: whether an address is free is asked long before it is needed.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from torchserve_guard.errors import ConfigError
from torchserve_guard.wire import Listener


def verify_grpc_available(listeners: Mapping[Listener, tuple[str, int]]) -> None:
    """Return if every host and port can be listened on now; raise one `ConfigError` that names those that cannot."""
    complaints: list[str] = []
    for listener, (host, port) in listeners.items():
        try:
            for address in addresses(listener, host, port):
                _try_out(listener, host, port, address)
        except ConfigError as error:
            complaints += error.complaints
    if complaints:
        raise ConfigError.of(complaints)


def addresses(listener: Listener, host: str, port: int) -> tuple[str, ...]:
    """Return the numeric addresses of a host. Raises `ConfigError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise taken(listener, host, port, error.strerror or str(error)) from error
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def taken(listener: Listener, host: str, port: int, why: str) -> ConfigError:
    """Return the complaint about an address that cannot be listened on."""
    return ConfigError(
        f"grpc_{listener.value}_port `{port}` on `{host}`: cannot listen there ({why}); free it, configure another, "
        "or leave the listener closed with 0"
    )


def _try_out(listener: Listener, host: str, port: int, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise taken(listener, host, port, error.strerror or str(error)) from error
