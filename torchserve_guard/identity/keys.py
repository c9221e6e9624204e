"""The key file: three keys in the shape of TorchServe's `key_file.json`, made and checked by the guard.

Shape, expiry and meaning are TorchServe's (Token.java): `management` and `inference` expire after
`token_expiration_min` minutes, `API` never. The keys are the guard's own, 256 bits each (TorchServe's have
48, hazard H70), and never those that TorchServe itself is given upstream. A key that expires is renewed
in the file, so that whoever may read the file always finds a key that works.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from torchserve_guard import draft
from torchserve_guard.access import ANONYMOUS, Principal
from torchserve_guard.errors import ConfigError
from torchserve_guard.identity.ring import MOST_KNOWN, Hashed, credential_of

KEY_BYTES = 32
LARGEST_FILE = 65536


class KeyKind(Enum):
    """The three keys, by the names that TorchServe gives them in the file."""

    API = "API"
    MANAGEMENT = "management"
    INFERENCE = "inference"


@dataclass(frozen=True, slots=True)
class Key:
    """One key, the second (since the epoch) from which it is no longer good, and whom it stands for."""

    secret: bytes = field(repr=False)
    expires: float | None
    principal: Principal


def new_key(kind: KeyKind, now: float, lifetime: float) -> Key:
    """Return a fresh key of `kind`; the API key never expires."""
    secret = secrets.token_urlsafe(KEY_BYTES).encode()
    principal = Principal(f"{kind.value.lower()}-key", frozenset({kind.value.lower()}))
    return Key(secret, None if kind is KeyKind.API else now + lifetime, principal)


class KeyFile:
    """The keys in force, and the file that tells them.

    `lifetime` is in seconds. `now` gives seconds since the epoch.
    """

    def __init__(self, path: Path, lifetime: float, now: Callable[[], float]) -> None:
        self.path = path
        self._lifetime = lifetime
        self._now = now
        started = now()
        self._keys = {kind: new_key(kind, started, lifetime) for kind in KeyKind}
        self._known: dict[bytes | None, Key] = {}

    def __repr__(self) -> str:
        """Return the path, and no key."""
        return f"KeyFile({str(self.path)!r})"

    def identify(self, authorization: bytes | None) -> Principal:
        """Return whom an `Authorization` header stands for (RFC 6750 section 2.1).

        No header, another scheme, an unknown or an expired key: nobody in particular, `ANONYMOUS`.
        """
        # INVARIANT: what is remembered was right as a whole, and is found by its hash, so that timing tells nothing.
        remembered = self._known
        known = remembered.get(authorization)
        if known is not None and (known.expires is None or self._now() < known.expires):
            return known.principal
        credential = credential_of(authorization)
        if credential is None:
            return ANONYMOUS
        # INVARIANT: every key is compared, each in constant time, so that timing tells nothing.
        matches = [key for key in self._keys.values() if hmac.compare_digest(key.secret, credential)]
        if matches and (matches[0].expires is None or self._now() < matches[0].expires):
            if len(remembered) < MOST_KNOWN:
                remembered[authorization] = matches[0]
            return matches[0].principal
        return ANONYMOUS

    def hashed(self) -> tuple[Hashed, ...]:
        """Return the keys in force for those who check them elsewhere."""
        return tuple(
            Hashed(hashlib.sha256(key.secret).digest(), key.expires, key.principal) for key in self._keys.values()
        )

    def rotate(self, kind: KeyKind) -> None:
        """Replace one key and write the file; the old key is good for nothing from here on."""
        fresh = new_key(kind, self._now(), self._lifetime)
        self._write({**self._keys, kind: fresh})
        self._keys[kind] = fresh
        # INVARIANT: another one, not this one emptied: whoever is about to remember the old key does it in vain.
        self._known = {}

    def renew_expired(self) -> tuple[KeyKind, ...]:
        """Replace the keys that have expired; return which."""
        now = self._now()
        expired = tuple(kind for kind, key in self._keys.items() if key.expires is not None and key.expires <= now)
        for kind in expired:
            self.rotate(kind)
        return expired

    def next_expiry(self) -> float:
        """Return the second since the epoch at which the next key expires."""
        return min(key.expires for key in self._keys.values() if key.expires is not None)

    def write(self) -> None:
        """Write the file: mode 0600 from its first byte, in one rename, never through a link (hazard H71)."""
        self._write(self._keys)

    def _write(self, keys: dict[KeyKind, Key]) -> None:
        document = json.dumps({kind.value: _shown(key) for kind, key in keys.items()}, indent=2)
        try:
            draft.replace(self.path, (document + "\n").encode())
        except OSError as error:
            raise ConfigError(
                f"{self.path}: the key file cannot be written ({error.strerror}); start in a directory that "
                "this user may write, or switch token authorization off with `disable_token_authorization=true`"
            ) from error

    def remove(self) -> None:
        """Remove the file if it still holds these keys: another guard's file in the same folder is left alone."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            shown = json.loads(_content(self.path))
            ours = self._keys[KeyKind.API].secret.decode()
            if hmac.compare_digest(str(shown[KeyKind.API.value]["key"]).encode(), ours.encode()):
                self.path.unlink()


def _content(path: Path) -> bytes:
    """Return what a small regular file holds, nothing of any other; what became a pipe is not waited for."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return file.read(LARGEST_FILE) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def _shown(key: Key) -> dict[str, str]:
    """Return one key as Token.java writes it: `expiration time` is an ISO 8601 instant."""
    shown = {"key": key.secret.decode()}
    if key.expires is not None:
        shown["expiration time"] = datetime.fromtimestamp(key.expires, UTC).isoformat().replace("+00:00", "Z")
    return shown
