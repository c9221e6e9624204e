"""The sources: how many connections come from each address.

Whoever has one address of IPv6 has 2^64 of them, so a /64 is one (RFC 4291 section 2.5.4). An address of IPv4 is the
same whether IPv6 carries it or not. A unix socket's peers have no address and are not counted.
"""

from __future__ import annotations

import ipaddress

_NETWORK = 8  # the bytes of a /64

Source = bytes


def source_of(peer: object) -> Source | None:
    """Return the source of a connection, as `getpeername` names its peer; None for a unix socket."""
    if not isinstance(peer, tuple):
        return None
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address.packed
    return address.ipv4_mapped.packed if address.ipv4_mapped is not None else address.packed[:_NETWORK]


class Sources:
    """The connections of one listener by their sources; at most `most` of each, None for no limit."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._present: dict[Source, int] = {}

    def is_full(self, source: Source | None) -> bool:
        """Whether there are as many from there as there may be."""
        return self._most is not None and source is not None and self._present.get(source, 0) >= self._most

    def enter(self, source: Source | None) -> None:
        """Count a connection in."""
        if self._most is not None and source is not None:
            self._present[source] = self._present.get(source, 0) + 1

    def leave(self, source: Source | None) -> None:
        """Count a connection out; who has none is forgotten."""
        if source is None or source not in self._present:
            return
        left = self._present[source] - 1
        if left:
            self._present[source] = left
        else:
            del self._present[source]

    def __len__(self) -> int:
        return len(self._present)
