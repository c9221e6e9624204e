"""The vacancy: whether the addresses that the door is to listen on are free, asked long before it opens."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping

from torchserve_guard.errors import ConfigError
from torchserve_guard.proxy.address import Address
from torchserve_guard.settings.ports import holder
from torchserve_guard.wire import Listener

BACKLOG = 1024


def bind(listener: Listener, text: str) -> tuple[socket.socket, ...]:
    """Return sockets that listen at an address, for several processes to accept from. Raises `ConfigError`."""
    address = Address.parse(text)
    verify_free(listener, address)
    try:
        return address.bind(BACKLOG)
    except OSError as error:
        raise taken(listener, address, error) from error


def verify_available(listeners: Mapping[Listener, str]) -> None:
    """Return if every address can be listened on now; raise one `ConfigError` that names those that cannot.

    A door opens long after a start began: better told at once.
    """
    complaints: list[str] = []
    for listener, text in listeners.items():
        address = Address.parse(text)
        try:
            verify_free(listener, address)
            address.try_out()
        except OSError as error:
            complaints += taken(listener, address, error).complaints
        except ConfigError as error:
            complaints += error.complaints
    if complaints:
        raise ConfigError.of(complaints)


def taken(listener: Listener, address: Address, error: OSError) -> ConfigError:
    """Return the complaint about an address that cannot be listened on, with who holds it."""
    held = holder(address.port) if error.errno == errno.EADDRINUSE and address.port else None
    return ConfigError(
        f"{listener.value}_address `{address}`: cannot listen there ({error.strerror or error}"
        f"{f': {held} does' if held is not None else ''}); "
        "free the address or configure another"
    )


def verify_free(listener: Listener, address: Address) -> None:
    """Return if nothing but an old socket is at the path: what else is there is not ours to delete (hazard H45)."""
    if address.path is None or not os.path.lexists(address.path):
        return
    if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise ConfigError(
            f"{listener.value}_address `{address}`: something else is at this path; remove it or configure another"
        )
