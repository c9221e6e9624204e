"""The demand: whose signatures a manifest needs, and how many different ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from pathlib import Path

from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.escape import printable


@dataclass(frozen=True, slots=True)
class Signer:
    """One who signed: the key's SHA-256, what it is called, the roles it is trusted in, and until when that holds.

    An `identity` has many keys, each for minutes; what it is known by is made of its name and issuer instead.
    `holders` are the names under which authorities know who holds the key: one person has another key in each renewal.
    """

    fingerprint: str
    name: str
    roles: frozenset[str] = frozenset()
    until: datetime | None = None
    identity: bool = False
    holders: frozenset[str] = frozenset()

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
    """Return each signer once, in the roles that it has anywhere.

    Two signatures by one key are one signer's, and so are those by two keys that one authority certified for one name.
    """
    groups: list[list[Signer]] = []
    for one in signers:
        same = [group for group in groups if any(_is_same(known, one) for known in group)]
        groups = [group for group in groups if group not in same]
        groups.append([one, *(known for group in same for known in group)])
    return tuple(sorted((reduce(_together, group) for group in groups), key=lambda one: one.fingerprint))


def verify_met(demand: Demand, signers: tuple[Signer, ...]) -> None:
    """Return if these different signers are enough; raise `Rejected` that says who is missing."""
    signed = f"signed by {'; '.join(map(str, signers))}" if signers else "signed by nobody whose word counts"
    unmet = _unmet(demand, signers)
    if unmet is not None:
        raise Rejected(f"{signed}, and `guard.signature_threshold={demand}` asks for {unmet}")


def _unmet(demand: Demand, signers: tuple[Signer, ...]) -> str | None:
    """Return what is asked for and not there, or None."""
    missing = sorted(set(demand.roles) - {role for one in signers for role in one.roles})
    if signers and missing:
        return f"{' and '.join(f'`{role}`' for role in missing)} too, and in that role nobody has signed"
    if not _assigned(demand.roles, signers):
        return "a different key in each role"
    if len(signers) < demand.count:
        who = ("key", "keys") if not demand.identities else ("key or identity", "keys or identities")
        return f"one trusted {who[0]}" if demand.count == 1 else f"{demand.count} different trusted {who[1]}"
    return None


def _is_same(one: Signer, other: Signer) -> bool:
    return one.fingerprint == other.fingerprint or not one.holders.isdisjoint(other.holders)


def _together(one: Signer, other: Signer) -> Signer:
    """Return two that are the same signer as one, known by the first of their keys."""
    first = min(one, other, key=lambda each: (each.fingerprint, each.name))
    until = max(one.until, other.until) if one.until is not None and other.until is not None else None
    return replace(first, roles=one.roles | other.roles, until=until, holders=one.holders | other.holders)


def _assigned(roles: tuple[str, ...], signers: tuple[Signer, ...]) -> bool:
    """Whether each role can have a signer of its own."""
    if not roles:
        return True
    return any(
        _assigned(roles[1:], (*signers[:place], *signers[place + 1 :]))
        for place, one in enumerate(signers)
        if roles[0] in one.roles
    )
