"""Sockets: what is at the path of a unix listener, and who may put another there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torchserve_guard import looks
from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening import places
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told


def _sockets(told: Told) -> Iterator[tuple[str, Path]]:
    """Yield the paths of the unix listeners, the control socket among them, with their keys."""
    for key, listener in (
        *((f"{name}_address", listener) for name, listener in told.settings.listeners.items()),
        ("guard.admin_address", told.settings.admin),
    ):
        if listener is not None and listener.path is not None:
            yield key, Path(listener.path)


def _socket_path_taken(told: Told) -> Iterator[Hit]:
    for key, path in _sockets(told):
        if looks.is_there(path) and not path.is_socket():
            yield Hit(
                f"{path} is there and is no socket: stock TorchServe would delete it, a whole folder too",
                key,
                path=path,
            )


def _socket_replaceable(told: Told) -> Iterator[Hit]:
    for key, path in _sockets(told):
        # A folder that is not there yet belongs to whoever makes it first.
        look = places.writer if looks.is_folder(path.parent) else places.chooser
        through = look(path.parent)
        if through is not None:
            place, who = through
            yield Hit(f"the socket {path} can be replaced by {who}, through {place}", key, path=path)


RULES = (
    Rule(
        "TSG014",
        Severity.HIGH,
        "stock TorchServe deletes whatever is at the path before it binds; the guard does not start",
        "name a path where nothing is, in a folder of the guard's user",
        ("H45",),
        _socket_path_taken,
    ),
    Rule(
        "TSG015",
        Severity.HIGH,
        "who can replace the socket gets the requests and the keys of every client",
        "put it into a folder that only root or the guard's user may write",
        ("H56",),
        _socket_replaceable,
    ),
)
