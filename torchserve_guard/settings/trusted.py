"""The trusted: whose keys and identities count under a manifest, and how many, or which roles, must have signed it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torchserve_guard.settings.reading import Reading

ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")
LABELLED = re.compile(r"(?:(?P<role>[a-z][a-z0-9-]{0,31})\s*=\s*)?(?P<path>.+)")
IDENTITY = re.compile(r"(?:(?P<role>[a-z][a-z0-9-]{0,31})\s*=\s*)?(?P<name>\S+)\s+(?P<issuer>https?://\S+)")
MOST = 32


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """The file of a public key or of certificates, and the role of who holds it."""

    path: Path
    role: str | None = None


@dataclass(frozen=True, slots=True)
class TrustedIdentity:
    """A mail address or URI as Sigstore certifies it, the issuer that has seen it, and the role of who it is."""

    name: str
    issuer: str
    role: str | None = None


Trusted = tuple[TrustedKey | TrustedIdentity, ...]


def read_keys(reading: Reading) -> tuple[TrustedKey, ...]:
    """Return the trusted keys; a complaint goes to the reading."""
    default = cast("tuple[TrustedKey, ...]", ())
    return reading.read("guard.trusted_keys", lambda text: parse_keys(text, reading.around.cwd), default)


def read_identities(reading: Reading) -> tuple[TrustedIdentity, ...]:
    """Return the trusted identities; a complaint goes to the reading."""
    default = cast("tuple[TrustedIdentity, ...]", ())
    found = reading.read("guard.trusted_identities", parse_identities, default)
    if found and "guard.sigstore_root" not in reading.given:
        reading.complain("guard.trusted_identities", WITHOUT_ROOT)
    return found


def read_root(reading: Reading) -> Path | None:
    """Return the file of the Sigstore that is believed about identities; a complaint goes to the reading."""
    if "guard.sigstore_root" not in reading.given:
        return None
    if "guard.trusted_identities" not in reading.given:
        reading.complain("guard.sigstore_root", "has no effect: name whom to trust in `guard.trusted_identities`")
    return reading.path("guard.sigstore_root", Path())


def read_threshold(reading: Reading) -> tuple[int, tuple[str, ...]]:
    """Return how many of them must have signed, and in which roles: one, when there are any and nothing is said."""
    trusted: Trusted = (*read_keys(reading), *read_identities(reading))
    default = (1 if trusted else 0, cast("tuple[str, ...]", ()))
    asked = reading.read("guard.signature_threshold", parse_threshold, default)
    why = fault(trusted, *asked)
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


def parse_identities(text: str) -> tuple[TrustedIdentity, ...]:
    """Return what `guard.trusted_identities` names: `NAME ISSUER` or `ROLE=NAME ISSUER`, with commas between.

    Raises `ValueError`.
    """
    parts = [part.strip() for part in text.split(",")]
    found = [match for part in parts if (match := IDENTITY.fullmatch(part)) is not None]
    if len(found) != len(parts) or len(parts) > MOST:
        raise ValueError(
            "is not a list, with commas, of a mail address or URI, a blank, and the URL of who has seen it, such as "
            "`alice@example.org https://accounts.google.com`"
        )
    return tuple(TrustedIdentity(match["name"], match["issuer"], match["role"]) for match in found)


WITHOUT_ROOT = (
    "names identities, and `guard.sigstore_root` does not say whom to believe about them: name the file of a "
    "`trusted_root.json`"
)


def parse_threshold(text: str) -> tuple[int, tuple[str, ...]]:
    """Return how many must have signed, and in which roles: `2`, or `release,security`. Raises `ValueError`."""
    if re.fullmatch(r"[0-9]{1,2}", text):
        return int(text), ()
    roles = tuple(part.strip() for part in text.split(","))
    if not all(ROLE.fullmatch(role) for role in roles) or len(roles) > MOST:
        raise ValueError("is neither a number nor the names of roles with commas between, such as `release,security`")
    return len(roles), roles


def fault(trusted: Trusted, count: int, roles: tuple[str, ...]) -> str | None:
    """Return why no manifest could ever meet this, or None."""
    if count > 0 and not trusted:
        return "asks for signatures, and `guard.trusted_keys` names nobody who could give one"
    unheld = sorted(set(roles) - {one.role for one in trusted})
    if unheld:
        return f"asks for the role `{unheld[0]}`, which no key has; write `{unheld[0]}=FILE` in `guard.trusted_keys`"
    return None
