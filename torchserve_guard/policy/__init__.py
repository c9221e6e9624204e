"""WHO MAY DO WHAT: the policy decision point. It knows no HTTP."""

from torchserve_guard.policy.closure import Closure, Closures
from torchserve_guard.policy.decision import KEYLESS, Access, decide

__all__ = ["KEYLESS", "Access", "Closure", "Closures", "decide"]
