"""The addresses: those of a host, all of them judged before any is connected to.

INVARIANT: a connection goes to an address that was judged, never to a name: a name that answers otherwise the second
time (DNS rebinding) is not asked a second time.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable

from torchserve_guard.archives.remote.failure import refused, unfetched
from torchserve_guard.origin import Origin
from torchserve_guard.terms import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Iterable[str]]

METADATA: frozenset[Address] = frozenset(
    ipaddress.ip_address(text)
    for text in (
        *("169.254.169.254", "fd00:ec2::254", "fd20:ce::254"),  # most clouds
        *("169.254.170.2", "169.254.170.23", "fd00:ec2::23"),  # credentials of containers and pods
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure's, which is a public address
    )
)
"""Where clouds hand out credentials to whoever asks: no key of the configuration allows these."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is meant


def resolve(host: str, port: int) -> list[str]:
    """Return every address of a host, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in found))


def judged(origin: Origin, port: int, networks: tuple[Network, ...], ask: Resolve = resolve) -> list[str]:
    """Return the addresses of a host if all may be reached; raise `VerificationError` or `Unfetched`."""
    host = origin.host.strip("[]")
    try:
        found = list(ask(host, port))
    except (OSError, UnicodeError) as error:
        unfetched(origin, f"the host `{host}` has no address ({error})", error)
    for text in found:
        why = fault(text, networks)
        if why is not None:
            refused(origin, f"the host `{host}` has the address {text}, {why}")
    if not found:
        unfetched(origin, f"the host `{host}` has no address")
    return found


def fault(text: str, networks: tuple[Network, ...]) -> str | None:
    """Return why an address may not be connected to, or None."""
    try:
        address = _meant(ipaddress.ip_address(text))
    except ValueError:
        return "which is not one that can be judged"
    if address in METADATA:
        return "where a cloud hands out credentials: nothing is fetched from there, whatever is configured"
    if _public(address) or any(address in network for network in networks):
        return None
    return "which is not public; if archives may come from there, name its network in `guard.fetch_networks`"


def _meant(address: Address) -> Address:
    """Return the IPv4 address inside one of IPv6 that stands for it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (address.sixtofour or address.teredo or address.is_site_local):
        return False  # tunnels that end wherever the address says
    return address.is_global and not (address.is_multicast or address.is_reserved)
