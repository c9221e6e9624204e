"""The ring: the keys as a process at the door knows them, by what they hash to and not by what they are.

A key is 256 random bits, so nothing is learned of it from its digest; what such a process loses cannot be used to
change anything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torchserve_guard.access import ANONYMOUS, Principal

LONGEST_CREDENTIAL = 4096
MOST_KNOWN = 64  # spellings of `Bearer` and blanks


@dataclass(frozen=True, slots=True)
class Hashed:
    """One key by its SHA-256, the second (since the epoch) from which it is no longer good, and whom it stands for."""

    digest: bytes
    expires: float | None
    principal: Principal


class KeyRing:
    """The keys in force, replaced all at once. `now` gives seconds since the epoch."""

    def __init__(self, keys: Iterable[Hashed], now: Callable[[], float]) -> None:
        self.keys = tuple(keys)
        self._now = now
        self._known: dict[bytes | None, Hashed] = {}
        self._known_of = self.keys

    def identify(self, authorization: bytes | None) -> Principal:
        """Return whom an `Authorization` header stands for, `ANONYMOUS` when for nobody; see `KeyFile.identify`."""
        if self._known_of is not self.keys:
            self._known_of = self.keys
            self._known.clear()
        # INVARIANT: what is remembered was right as a whole, and is found by its hash, so that timing tells nothing.
        known = self._known.get(authorization)
        if known is not None and (known.expires is None or self._now() < known.expires):
            return known.principal
        credential = credential_of(authorization)
        if credential is None:
            return ANONYMOUS
        digest = hashlib.sha256(credential).digest()
        matches = [key for key in self.keys if hmac.compare_digest(key.digest, digest)]
        if matches and (matches[0].expires is None or self._now() < matches[0].expires):
            if len(self._known) < MOST_KNOWN:
                self._known[authorization] = matches[0]
            return matches[0].principal
        return ANONYMOUS


def credential_of(authorization: bytes | None) -> bytes | None:
    """Return the credential of an `Authorization` header (RFC 6750 section 2.1), None when it is of another scheme."""
    if authorization is None or len(authorization) > LONGEST_CREDENTIAL:
        return None
    scheme, _, credential = authorization.partition(b" ")
    return credential.strip() if scheme.lower() == b"bearer" else None
