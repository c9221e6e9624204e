"""The descriptors: as many as the connections need, or no more connections than there are descriptors for.

A process that has none left can neither accept nor write its record.
"""

from __future__ import annotations

import resource
from dataclasses import replace

from torchserve_guard.proxy.limits import Limits

_OTHERS = 128  # files, pipes, sockets of our own
_EACH = 2  # a connection, and one upstream while a request is under way


def fitting(limits: Limits, ports: int) -> Limits:
    """Return limits that this process can hold at so many ports, after it was allowed what the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = needed = _OTHERS + _EACH * limits.connections * ports
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    if resource.RLIM_INFINITY != soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == needed:
        return limits
    return replace(limits, connections=min(limits.connections, max(1, (most - _OTHERS) // _EACH)))
