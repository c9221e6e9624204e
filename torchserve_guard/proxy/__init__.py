"""THE DOOR: the listeners that clients know, and the one way from them to TorchServe.

Each request is read strictly, understood, decided, recorded, and said to TorchServe in the guard's own words.
"""

from torchserve_guard.proxy.enforcement import Enforcer
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.server import Door, ListenerSpec, Stats, verify_available
from torchserve_guard.proxy.tls import context_of

__all__ = ["Door", "Enforcer", "Limits", "ListenerSpec", "Stats", "context_of", "verify_available"]
