"""The site: whether a change that needs no key may come from where it seems to come from. Pure.

A listener on loopback is reached by every page that a browser on the machine shows: by a request across sites, or by
a name of the page's own that was rebound to 127.0.0.1 (hazard H59). What a browser sends tells both.
"""

from __future__ import annotations

import ipaddress
import re

from torchserve_guard.errors import Forbidden

# Host of RFC 9110 section 7.2: an IPv6 address in brackets, or a name or IPv4 address, and a port.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")


def verify_own(host: bytes | None, *, from_page: bool) -> None:
    """Return if no page of a browser can have sent this; raise `Forbidden`.

    `from_page` says that there was an `Origin`; browsers send it with every change across sites, and others do not.
    """
    if from_page:
        raise Forbidden(
            "Changes from web pages need a key.",
            reason="a change without a key carries an `Origin`, as a browser sends it for a page",
            rule="cross-site",
        )
    if host is not None and not _is_loopback(host.decode("latin-1")):
        raise Forbidden(
            "Changes under this host name need a key.",
            reason=f"a change without a key asks host `{host.decode('latin-1')}`, which is no name of loopback",
            rule="foreign-host",
        )


def _is_loopback(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    try:
        return ipaddress.ip_address(match[1] or match[2]).is_loopback
    except ValueError:
        return match[2] is not None and match[2].lower() == "localhost"
