"""WHAT HAPPENED: a line for each decision that matters, before it takes effect; one for each request, after it."""

from torchserve_guard.audit.access_log import AccessLog
from torchserve_guard.audit.entry import Entry, render
from torchserve_guard.audit.log import AuditLog

__all__ = ["AccessLog", "AuditLog", "Entry", "render"]
