"""The rules for certificates: those that load, and that clients may yet refuse, or others misuse.

`docs/checks.md` has a section for each rule. The time is an argument.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings.certificates import SELF_SIGNED, Tls, certificates_in

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SOON = timedelta(days=30)
LEAST_RSA_BITS = 2048
LEAST_EC_BITS = 256
WEAK_DIGESTS = frozenset({"md5", "sha1"})
RENEW = "have it issued anew; the guard takes the new files without a restart"


def check(tls: Tls, now: datetime) -> tuple[Finding, ...]:
    """Return what is to be said of the certificates at this time."""
    chain = certificates_in(tls.certificate)
    authorities = certificates_in(tls.client_ca) if tls.client_ca is not None else []
    return (
        *_dates(tls, now),
        *_self_signed(tls, chain),
        *_weak(tls, chain),
        *_purpose(tls, chain[0]),
        *_order(tls, chain),
        *_readable(tls),
        *_authorities(tls, authorities, now),
    )


def _about(tls: Tls, rule: str, severity: Severity, message: str, remedy: str = RENEW) -> Finding:
    sources = tls.sources
    return Finding(rule, severity, message, remedy, Location(str(sources.shown)), key=sources.shown_key)


def _dates(tls: Tls, now: datetime) -> Iterator[Finding]:
    if now > tls.not_after:
        yield _about(tls, "TSG060", Severity.CRITICAL, f"the certificate expired on {_day(tls.not_after)}")
    elif now < tls.not_before:
        message = f"the certificate is good only from {_day(tls.not_before)} on"
        yield _about(tls, "TSG060", Severity.CRITICAL, message, "set the clock of this machine, or wait")
    elif now > tls.not_after - SOON:
        yield _about(tls, "TSG061", Severity.MEDIUM, f"the certificate expires on {_day(tls.not_after)}")


def _day(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC")


def _self_signed(tls: Tls, chain: list[Certificate]) -> Iterator[Finding]:
    if _is_root(chain[0]):
        yield _about(
            tls,
            "TSG062",
            Severity.LOW,
            "the certificate is self-signed: a client that was not given it cannot tell the guard from anyone else",
            "have an authority issue one, or give this certificate to every client",
        )


def _is_root(certificate: Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _weak(tls: Tls, chain: list[Certificate]) -> Iterator[Finding]:
    for certificate in chain:
        for weakness in _weaknesses(certificate):
            message = f"{certificate.subject.rfc4514_string() or 'the certificate'} {weakness}"
            yield _about(tls, "TSG063", Severity.HIGH, message)


def _weaknesses(certificate: Certificate) -> Iterator[str]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415 - only who serves TLS pays for it

    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        least = LEAST_RSA_BITS if isinstance(key, rsa.RSAPublicKey) else LEAST_EC_BITS
        if key.key_size < least:
            yield f"has a key of {key.key_size} bits, and less than {least} is too little"
    digest = certificate.signature_hash_algorithm
    # Nobody verifies the signature of a root: it is trusted for being known.
    if digest is not None and digest.name in WEAK_DIGESTS and not _is_root(certificate):
        yield f"is signed with {digest.name.upper()}, which can be forged"


def _purpose(tls: Tls, certificate: Certificate) -> Iterator[Finding]:
    from cryptography import x509  # noqa: PLC0415 - see `_weaknesses`
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage  # noqa: PLC0415 - see `_weaknesses`

    if not tls.names:
        yield _about(
            tls,
            "TSG064",
            Severity.MEDIUM,
            "the certificate has no subject alternative name: clients look at nothing else (RFC 9110 section 4.3.4)",
            f"have it issued with the names and addresses that clients use; to begin with: `{SELF_SIGNED}`",
        )
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if Usage.SERVER_AUTH not in usages and Usage.ANY_EXTENDED_KEY_USAGE not in usages:
        message = "the certificate was not issued for servers (extended key usage): clients refuse it"
        yield _about(tls, "TSG066", Severity.HIGH, message, "have one issued with `extendedKeyUsage=serverAuth`")


def _order(tls: Tls, chain: list[Certificate]) -> Iterator[Finding]:
    if tls.disordered or tls.strays:
        yield _about(
            tls,
            "TSG067",
            Severity.MEDIUM,
            f"the chain is out of order, or holds certificates that are not part of it ({tls.strays}): stock and other "
            "servers would show it so, the guard puts it in order",
            "write the server's certificate first, each issuer behind what it issued, and nothing else",
        )
    elif len(chain) == 1 and _names_issuer(chain[0]):
        yield _about(
            tls,
            "TSG067",
            Severity.MEDIUM,
            "the chain ends with the server's certificate, which says where its issuer's is to be had: clients that do "
            "not fetch it refuse the connection",
            "append the certificates of the intermediate authorities, which come with the server's (`fullchain.pem`)",
        )


def _names_issuer(certificate: Certificate) -> bool:
    """Whether it names a place of its issuer's certificate (RFC 5280 section 4.2.2.1): intermediates do that."""
    from cryptography import x509  # noqa: PLC0415 - see `_weaknesses`
    from cryptography.x509.oid import AuthorityInformationAccessOID as Access  # noqa: PLC0415 - see `_weaknesses`

    try:
        places = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(place.access_method == Access.CA_ISSUERS for place in places)


def _readable(tls: Tls) -> Iterator[Finding]:
    secret, ca = tls.sources.secret, tls.sources.client_ca
    if _open_to_all(secret, stat.S_IROTH | stat.S_IWOTH):
        yield Finding(
            "TSG065",
            Severity.HIGH,
            f"every user of this machine may read or replace the private key in {secret}",
            f"chmod 600 {secret}, and have a new key and certificate made if others were there",
            Location(str(secret)),
            key=tls.sources.secret_key,
        )
    if ca is not None and _open_to_all(ca, stat.S_IWOTH):
        yield Finding(
            "TSG065",
            Severity.HIGH,
            f"every user of this machine may name authorities in {ca}, and so let himself in as a client",
            f"chmod go-w {ca}",
            Location(str(ca)),
            key="guard.client_ca",
        )


def _open_to_all(path: Path, bits: int) -> bool:
    """Whether anybody has these rights to the file and may reach it: no folder above it is closed to others."""
    try:
        exposed = path.stat().st_mode & bits
        folders = [folder.stat().st_mode for folder in path.resolve().parents]
    except OSError:
        return False
    return bool(exposed) and all(mode & stat.S_IXOTH for mode in folders)


def _authorities(tls: Tls, authorities: list[Certificate], now: datetime) -> Iterator[Finding]:
    for certificate in authorities:
        name = certificate.subject.rfc4514_string() or "a certificate without a name"
        why = _useless(certificate, now)
        if why is not None:
            yield Finding(
                "TSG068",
                Severity.HIGH,
                f"{name} in `guard.client_ca` {why}: no client that it vouches for gets in",
                "name the certificates of the authorities that issue those of your clients, and no expired ones",
                Location(str(tls.sources.client_ca)),
                key="guard.client_ca",
            )


def _useless(certificate: Certificate, now: datetime) -> str | None:
    from cryptography import x509  # noqa: PLC0415 - see `_weaknesses`

    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return f"is good only from {_day(certificate.not_valid_before_utc)} to {_day(certificate.not_valid_after_utc)}"
    try:
        issues = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        issues = False
    return None if issues else "is not an authority's"
