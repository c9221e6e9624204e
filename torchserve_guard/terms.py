"""The terms: from where archives may be fetched, and how much of what it may take. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from torchserve_guard.origin import Origin

NOT_ALLOWED = "matches no expression of `allowed_urls`; name it there if archives may come from it"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that connects us through (CONNECT, RFC 9110 section 9.3.6), and what it wants to be shown."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Terms:
    """What `guard.fetch_*` and `allowed_urls` say: sizes in bytes, times in seconds.

    `allowed` holds the expressions of `allowed_urls`; none allows nothing. `networks` are those that may be reached
    besides public addresses. `authorities` is a bundle in PEM in the place of the system's.
    """

    allowed: tuple[re.Pattern[str], ...] = ()
    networks: tuple[Network, ...] = ()
    authorities: Path | None = None
    proxy: Proxy | None = None
    largest: int = 64 << 30
    timeout: float = 3600.0
    stall: float = 30.0

    def verify_allowed(self, origin: Origin) -> None:
        """Return if `allowed_urls` lets this address through, whole, as Java matches it. Raises `ValueError`."""
        if not any(expression.fullmatch(origin.url) for expression in self.allowed):
            raise ValueError(NOT_ALLOWED)
