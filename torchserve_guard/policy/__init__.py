"""WHO MAY DO WHAT: the policy decision point. It knows no HTTP."""

from torchserve_guard.policy.decision import Access, decide

__all__ = ["Access", "decide"]
