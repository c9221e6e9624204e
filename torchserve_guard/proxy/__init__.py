"""THE DOOR: the listeners that clients know, and the one way from them to TorchServe.

Each request is read strictly, understood, decided, recorded, and said to TorchServe in the guard's own words.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchserve_guard.proxy.enforcement import Enforcer
    from torchserve_guard.proxy.limits import Limits
    from torchserve_guard.proxy.server import Door, ListenerSpec, Stats
    from torchserve_guard.proxy.tls import context_of
    from torchserve_guard.proxy.vacancy import verify_available

_HOMES = {
    "Door": "server",
    "Enforcer": "enforcement",
    "Limits": "limits",
    "ListenerSpec": "server",
    "Stats": "server",
    "context_of": "tls",
    "verify_available": "vacancy",
}
"""Where each name is from. A module is imported when its name is first asked for: TorchServe starts meanwhile."""

__all__ = ["Door", "Enforcer", "Limits", "ListenerSpec", "Stats", "context_of", "verify_available"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
