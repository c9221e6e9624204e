"""The demand: whose signatures a manifest needs, and how many different ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.escape import printable


@dataclass(frozen=True, slots=True)
class Signer:
    """One who signed: the key's SHA-256, what it is called, the roles it is trusted in, and until when that holds.

    An `identity` has many keys, each for minutes; what it is known by is made of its name and issuer instead.
    """

    fingerprint: str
    name: str
    roles: frozenset[str] = frozenset()
    until: datetime | None = None
    identity: bool = False

    def __str__(self) -> str:
        """Return the name, with the roles."""
        return f"{self.name} ({', '.join(sorted(self.roles))})" if self.roles else self.name


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs without a key of his own: the role, the mail address or URI, and the issuer that has seen it."""

    role: str | None
    name: str
    issuer: str

    def __str__(self) -> str:
        """Return the name with its issuer, as one line."""
        return printable(f"`{self.name}` of {self.issuer}")


@dataclass(frozen=True, slots=True)
class Demand:
    """Files of trusted keys and certificates, each with the role of its holder; how many must sign, or in which roles.

    With roles, each needs a different signer; `count` is then their number. `root` is whom to believe about identities.
    """

    keys: tuple[tuple[str | None, Path], ...] = ()
    count: int = 0
    roles: tuple[str, ...] = ()
    identities: tuple[Identity, ...] = ()
    root: Path | None = None

    def __str__(self) -> str:
        """Return how it reads in the configuration."""
        return ",".join(self.roles) or str(self.count)


def different(signers: Iterable[Signer]) -> tuple[Signer, ...]:
    """Return each key once, in the roles that it has anywhere: two signatures by one key are one signer's."""
    found: dict[str, Signer] = {}
    for one in signers:
        known = found.get(one.fingerprint, one)
        until = max(known.until, one.until) if known.until is not None and one.until is not None else None
        found[one.fingerprint] = replace(known, roles=known.roles | one.roles, until=until)
    return tuple(found[key] for key in sorted(found))


def verify_met(demand: Demand, signers: tuple[Signer, ...]) -> None:
    """Return if these different signers are enough; raise `Rejected` that says who is missing."""
    signed = f"signed by {'; '.join(map(str, signers))}" if signers else "signed by nobody whose word counts"
    if len(signers) < demand.count:
        who = ("key", "keys") if not demand.identities else ("key or identity", "keys or identities")
        wanted = f"one trusted {who[0]}" if demand.count == 1 else f"{demand.count} different trusted {who[1]}"
        raise Rejected(f"{signed}, and `guard.signature_threshold={demand}` asks for {wanted}")
    if not _assigned(demand.roles, signers):
        raise Rejected(f"{signed}, and `guard.signature_threshold={demand}` asks for a different key in each role")


def _assigned(roles: tuple[str, ...], signers: tuple[Signer, ...]) -> bool:
    """Whether each role can have a signer of its own."""
    if not roles:
        return True
    return any(
        _assigned(roles[1:], (*signers[:place], *signers[place + 1 :]))
        for place, one in enumerate(signers)
        if roles[0] in one.roles
    )
