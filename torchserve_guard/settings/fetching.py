"""The fetching: on which terms archives come from elsewhere, as `guard.fetch_*` and `allowed_urls` say."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import cast

from torchserve_guard import looks
from torchserve_guard.settings import regex
from torchserve_guard.settings.reading import Reading
from torchserve_guard.terms import Network, Proxy, Terms

MOST_NETWORKS = 100
_PROXY = re.compile(
    r"http://(?:(?P<credentials>[!-?A-~]+)@)?(?P<host>\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})/?"
)
PORT_MAX = 65535


def read(reading: Reading) -> Terms:
    """Return the terms; complaints go to the reading. Without `allowed_urls` nothing is allowed."""
    default = Terms()
    return Terms(
        allowed=reading.read("allowed_urls", regex.each, default.allowed),
        networks=reading.read("guard.fetch_networks", parse_networks, default.networks),
        authorities=_authorities(reading),
        proxy=reading.read("guard.fetch_proxy", parse_proxy, cast("Proxy | None", None)),
        largest=reading.value("guard.fetch_max_size", default.largest),
        timeout=reading.value("guard.fetch_timeout", default.timeout),
        stall=reading.value("guard.fetch_stall_timeout", default.stall),
    )


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks and addresses that a text names, with commas between. Raises `ValueError`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MOST_NETWORKS:
        raise ValueError(f"names more than {MOST_NETWORKS} networks; name larger ones")
    return tuple(_network(part) for part in parts)


def parse_proxy(text: str) -> Proxy | None:
    """Return the proxy that a text names, None for `none`. Raises `ValueError`, which quotes no password."""
    if text == "none":
        return None
    found = _PROXY.fullmatch(text)
    if found is None or not 0 < int(found["port"]) <= PORT_MAX:
        raise ValueError("is neither `none` nor `http://[USER:PASSWORD@]HOST:PORT`")
    return Proxy(found["host"], int(found["port"]), found["credentials"])


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"holds `{text}`, which is no network such as `10.1.0.0/16` ({error})") from None


def _authorities(reading: Reading) -> Path | None:
    if "guard.fetch_ca" not in reading.given:
        return None
    path = reading.path("guard.fetch_ca", Path())
    if not looks.is_file(path):
        reading.complain("guard.fetch_ca", "is not a file; name certificates of authorities, in PEM")
    return path
