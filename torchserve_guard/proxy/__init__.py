"""THE DOOR: the listeners that clients know, and the one way from them to TorchServe.

Each request is read strictly, understood, decided, recorded, and said to TorchServe in the guard's own words.
"""

from torchserve_guard.proxy.enforcement import Enforcer
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.server import Door, ListenerSpec, Stats, verify_available

__all__ = ["Door", "Enforcer", "Limits", "ListenerSpec", "Stats", "verify_available"]
