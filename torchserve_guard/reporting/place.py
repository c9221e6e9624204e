"""The place: where a finding is, as a pipeline's viewer looks it up in a checkout. Pure."""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from urllib.parse import quote

from torchserve_guard.findings import Finding, Location


def location_of(finding: Finding, target: str) -> Location:
    """Return the finding's location; one that has none is told at the head of its configuration."""
    return finding.location or Location(target)


def below(root: str, path: str) -> str | None:
    """Return the path as seen from `root`; None when it is not below it."""
    whole = posixpath.normpath(posixpath.join(root, path))
    relative = posixpath.relpath(whole, root)
    return None if relative == ".." or relative.startswith("../") else relative


def uri(path: str) -> str:
    """Return a path as a URI reference: each byte that has a meaning there, or no letter, as its escape (RFC 3986)."""
    try:
        return quote(path.encode("utf-8", "surrogateescape"), safe="/")
    except UnicodeEncodeError:
        return quote(path.encode("utf-8", "backslashreplace"), safe="/")  # no path of a disk reads like this


class Fingerprints:
    """Gives each finding a name that stays the same while lines move, and is given once in a report."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._seen: Counter[str] = Counter()

    def of(self, finding: Finding, place: Location) -> str:
        """Return `digest:n`: of rule, file, member, key and subject; `n` counts those that are alike.

        The message is no part of it: it may quote what changes from day to day.
        """
        path = below(self._root, place.path) or place.path
        parts = (finding.rule, path, place.member or "", finding.key or "", finding.digest or "")
        named = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        self._seen[named] += 1
        return f"{named}:{self._seen[named]}"
