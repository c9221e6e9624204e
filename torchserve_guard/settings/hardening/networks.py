"""The networks: how much of what is not public `guard.fetch_networks` opens."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told
from torchserve_guard.terms import Network

KEY = "guard.fetch_networks"
INNER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)
"""What somebody can mean by one network that is not public (RFC 1122, 1918, 3927, 4193, 4291, 6598)."""


def _over_wide(told: Told) -> Iterator[Hit]:
    for network in told.settings.terms.networks:
        inner = [one for one in INNER if one.version == network.version and one.overlaps(network)]
        if inner and not any(_within(network, one) for one in inner):
            names = ", ".join(map(str, inner))
            yield Hit(f"`guard.fetch_networks`: {network} opens {names}, whoever may register", KEY)


def _within(network: Network, other: Network) -> bool:
    return network.prefixlen >= other.prefixlen and network.overlaps(other)


RULES = (
    Rule(
        "TSG111",
        Severity.MEDIUM,
        "who may register archives can then have the guard connect to this machine and to everything around it",
        "name the network of the host that serves the archives, such as `10.1.2.0/24`; public addresses need no name",
        ("H23",),
        _over_wide,
    ),
)
