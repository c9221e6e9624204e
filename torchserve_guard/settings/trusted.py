"""The trusted: whose keys count under a manifest, and how many of them, or which roles, must have signed it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torchserve_guard.settings.reading import Reading

ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")
LABELLED = re.compile(r"(?:(?P<role>[a-z][a-z0-9-]{0,31})\s*=\s*)?(?P<path>.+)")
MOST = 32


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """The file of a public key or of certificates, and the role of who holds it."""

    path: Path
    role: str | None = None


def read_keys(reading: Reading) -> tuple[TrustedKey, ...]:
    """Return the trusted keys; a complaint goes to the reading."""
    default = cast("tuple[TrustedKey, ...]", ())
    return reading.read("guard.trusted_keys", lambda text: parse_keys(text, reading.around.cwd), default)


def read_threshold(reading: Reading) -> tuple[int, tuple[str, ...]]:
    """Return how many of them must have signed, and in which roles: one, when there are any and nothing is said."""
    keys = read_keys(reading)
    default = (1 if keys else 0, cast("tuple[str, ...]", ()))
    asked = reading.read("guard.signature_threshold", parse_threshold, default)
    why = fault(keys, *asked)
    if why is not None:
        reading.complain("guard.signature_threshold", why)
    return asked


def parse_keys(text: str, cwd: Path) -> tuple[TrustedKey, ...]:
    """Return what `guard.trusted_keys` names: `FILE` or `ROLE=FILE`, with commas between. Raises `ValueError`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ValueError("names an empty path; name files of public keys or certificates with commas between")
    if len(parts) > MOST:
        raise ValueError(f"names more than {MOST} files; trust the certificate of an authority instead")
    found = [match for part in parts if (match := LABELLED.fullmatch(part)) is not None]
    return tuple(TrustedKey(cwd / match["path"], match["role"]) for match in found)


def parse_threshold(text: str) -> tuple[int, tuple[str, ...]]:
    """Return how many must have signed, and in which roles: `2`, or `release,security`. Raises `ValueError`."""
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text), ()
    roles = tuple(part.strip() for part in text.split(","))
    if not all(ROLE.fullmatch(role) for role in roles) or len(roles) > MOST:
        raise ValueError("is neither a number nor the names of roles with commas between, such as `release,security`")
    return len(roles), roles


def fault(keys: tuple[TrustedKey, ...], count: int, roles: tuple[str, ...]) -> str | None:
    """Return why no manifest could ever meet this, or None."""
    if count > 0 and not keys:
        return "asks for signatures, and `guard.trusted_keys` names nobody who could give one"
    unheld = sorted(set(roles) - {key.role for key in keys})
    if unheld:
        return f"asks for the role `{unheld[0]}`, which no key has; write `{unheld[0]}=FILE` in `guard.trusted_keys`"
    return None
