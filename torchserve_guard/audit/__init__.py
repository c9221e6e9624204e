"""WHAT HAPPENED: one line for each decision that matters, written before it takes effect."""

from torchserve_guard.audit.entry import Entry, render
from torchserve_guard.audit.log import AuditLog

__all__ = ["AuditLog", "Entry", "render"]
