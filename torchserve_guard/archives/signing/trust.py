"""The trust: the keys and certificates whose word counts, and who of them made a signature."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from torchserve_guard.archives import contents
from torchserve_guard.archives.signing import certificates, keyless, keys
from torchserve_guard.archives.signing.bundle import Bundle
from torchserve_guard.archives.signing.demand import Signer
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError

LARGEST = 256 << 10
"""Bytes of the largest file of a key or of certificates."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """One trusted thing: a bare key, a certificate trusted by itself, or an authority; and the role of its holder."""

    where: str
    role: str | None
    key: keys.PublicKey | None
    certificate: x509.Certificate | None = None

    @property
    def roles(self) -> frozenset[str]:
        """The role, as a set."""
        return frozenset() if self.role is None else frozenset({self.role})


def load(named: Iterable[tuple[str | None, Path]]) -> tuple[Anchor, ...]:
    """Return what the files hold; raise ConfigError for one that cannot be read or used."""
    return tuple(anchor for role, path in named for anchor in _anchors(role, path))


def shared(anchors: tuple[Anchor, ...], roles: tuple[str, ...]) -> tuple[str, ...]:
    """Return a line for each authority that vouches for several of these roles: whom it certifies has them all."""
    found: dict[str, str] = {}
    for one in anchors:
        below = {other.role for other in anchors if other.role in roles and _is_above(one, other)}
        if one.certificate is not None and len(below) > 1:
            named = " and ".join(f"`{role}`" for role in sorted(filter(None, below)))
            called = certificates.called(one.certificate)
            found.setdefault(called, f"`{called}` vouches for {named} alike: two of those whom it certifies are enough")
    return tuple(found.values())


def signer(
    bundle: Bundle, anchors: tuple[Anchor, ...], now: datetime, identities: keyless.Trusted | None = None
) -> Signer:
    """Return who made the signature; raise `Rejected` unless it is good and by somebody trusted.

    A bundle is judged by what it carries: with certificates, by them, even where their key is trusted barely; with the
    entry of a log, as an identity's, and never as what an authority of `anchors` vouches for.
    """
    if bundle.entry is not None:
        key, told = keyless.signer(bundle, bundle.entry, identities, now)
    elif bundle.certificates:
        key, told = _by_certificate(bundle, anchors, now)
    else:
        key, told = _by_hint(bundle, anchors, now)
    keys.verify(key, bundle.signature, bundle.signed)
    return told


def _by_hint(bundle: Bundle, anchors: tuple[Anchor, ...], now: datetime) -> tuple[keys.PublicKey, Signer]:
    known = [(one, one.key) for one in anchors if one.key is not None and keys.fingerprint(one.key) == bundle.hint]
    if not known:
        raise Rejected(f"it is by the key {str(bundle.hint)[:16]}..., which is not trusted")
    reasons: list[Rejected] = []
    good: list[Anchor] = []
    for one, _ in known:
        try:
            if one.certificate is not None:
                certificates.verify_itself(one.certificate, now)
            good.append(one)
        except Rejected as why:
            reasons.append(why)
    if not good:
        raise reasons[0]
    roles = frozenset(role for one in good for role in one.roles)
    holders = frozenset(name for one in good if one.certificate is not None for name in _issued(one.certificate))
    return known[0][1], Signer(keys.fingerprint(known[0][1]), good[0].where, roles, _until(good), holders=holders)


def _by_certificate(bundle: Bundle, anchors: tuple[Anchor, ...], now: datetime) -> tuple[keys.PublicKey, Signer]:
    found = [certificates.decode(one) for one in bundle.certificates]
    key = keys.accepted(found[0].public_key())
    good: list[Anchor] = []
    reasons = [Rejected(f"it is by `{certificates.called(found[0])}`, and no certificate is trusted")]
    for one in anchors:
        if one.certificate is None:
            continue
        try:
            _verify_vouched(found, one, one.certificate, now)
            good.append(one)
        except Rejected as why:
            reasons.append(why)
    if not good:
        raise reasons[-1]
    roles = frozenset(role for one in good for role in one.roles)
    until = min(one.not_valid_after_utc for one in found)
    vouching = (one.certificate.subject for one in good if one.certificate is not None and one.key is None)
    holders = _issued(found[0]) | {certificates.named(found[0], authority) for authority in vouching}
    return key, Signer(keys.fingerprint(key), certificates.called(found[0]), roles, until, holders=holders)


def _issued(certificate: x509.Certificate) -> frozenset[str]:
    """Return what its issuer calls the holder of a certificate; none where nobody but the holder says so."""
    own = certificate.issuer == certificate.subject
    return frozenset() if own else frozenset({certificates.named(certificate, certificate.issuer)})


def _is_above(one: Anchor, other: Anchor) -> bool:
    """Whether an authority is the other one, or has certified it; what is trusted by itself is nobody's."""
    if one.key is not None or other.key is not None or one.certificate is None or other.certificate is None:
        return False
    return one.certificate.subject == other.certificate.subject or certificates.is_issuer(
        one.certificate, other.certificate
    )


def _verify_vouched(found: list[x509.Certificate], anchor: Anchor, trusted: x509.Certificate, now: datetime) -> None:
    """Return if the anchor vouches for the first certificate, or is it; raise `Rejected`."""
    if anchor.key is None:
        certificates.verify_path(found, trusted, now)
    elif found == [trusted]:
        certificates.verify_itself(trusted, now)
    else:
        raise Rejected(f"`{certificates.called(found[0])}` is not the trusted certificate of {anchor.where}")


def _until(anchors: Iterable[Anchor]) -> datetime | None:
    """Return until when the last of these holds; None when one holds for ever."""
    ends = [one.certificate.not_valid_after_utc if one.certificate is not None else None for one in anchors]
    return max((one for one in ends if one is not None), default=None) if None not in ends else None


def _anchors(role: str | None, path: Path) -> list[Anchor]:
    data = contents.read(path, LARGEST, "trusted key", "name the file of a public key or of a certificate")
    if b"PRIVATE KEY-----" in data:
        raise ConfigError(f"{path}: holds a private key: keep it from this machine, and name the public key here")
    if b"-----BEGIN CERTIFICATE-----" not in data:
        return [Anchor(str(path), role, keys.parse_public(data, str(path)))]
    return [_of_certificate(role, path, one) for one in certificates.parse(data, str(path))]


def _of_certificate(role: str | None, path: Path, certificate: x509.Certificate) -> Anchor:
    if certificates.is_authority(certificate):
        return Anchor(str(path), role, None, certificate)
    try:
        return Anchor(str(path), role, keys.accepted(certificate.public_key()), certificate)
    except Rejected as error:
        raise ConfigError(f"{path}: `{certificates.called(certificate)}`: {error}") from error
