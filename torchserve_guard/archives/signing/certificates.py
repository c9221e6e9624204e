"""The certificates: which may sign, and by which path they are vouched for (RFC 5280, section 6).

The path is found and verified by `cryptography`: signatures, validity at the time given, basic constraints, path
length. What it must be for is added here: signing of code, and no extension that nobody here has judged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from cryptography.x509.verification import Criticality, ExtensionPolicy

from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError
from torchserve_guard.escape import printable

LONGEST_PATH = 4
"""How many authorities may stand between a certificate and the trusted one."""

JUDGED = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
"""Extensions that may be critical. RFC 5280, 4.2: a critical one that is not processed rejects the certificate."""

UNREADABLE = (ValueError, x509.InvalidVersion, CryptographyDeprecationWarning)
UNPARSED = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What cryptography raises for a key or an extension when it is asked for, and not before."""


def parse(data: bytes, where: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM file; raise ConfigError."""
    try:
        with _without_leniency():
            found = x509.load_pem_x509_certificates(data)
        for one in found:
            _verify_readable(one)
    except UNREADABLE as error:
        raise ConfigError(f"{where}: cannot be used as a certificate: {error}") from error
    return tuple(found)


def decode(data: bytes) -> x509.Certificate:
    """Return the certificate in DER; raise `Rejected`."""
    try:
        with _without_leniency():
            found = x509.load_der_x509_certificate(data)
    except UNREADABLE as error:
        raise Rejected(f"a certificate cannot be read: {error}") from error
    _verify_readable(found)
    # X.690, 11.2: cryptography takes a bit string that claims unused bits, which gives one signature several spellings.
    if not data.endswith(b"\0" + found.signature):
        raise Rejected("a certificate is not in DER's one spelling: its signature claims unused bits")
    return found


def encoded(certificate: x509.Certificate) -> bytes:
    """Return the certificate's DER."""
    return certificate.public_bytes(Encoding.DER)


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether the certificate is one that may issue others."""
    return any(isinstance(one.value, x509.BasicConstraints) and one.value.ca for one in certificate.extensions)


def is_issuer(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether an authority has signed another's certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def called(certificate: x509.Certificate) -> str:
    """Return the name that the certificate gives to its holder, as one line."""
    return printable(certificate.subject.rfc4514_string()) or f"serial number {certificate.serial_number}"


def named(certificate: x509.Certificate, authority: x509.Name) -> str:
    """Return what an authority calls the holder of a certificate, in subject and alternative names: a renewal keeps it.

    RFC 5280, 7.1: case, blanks and the kind of a string make no other name.
    """
    others = [one.value for one in certificate.extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    alternative = sorted(_folded(str(name)) for one in others for name in one)
    return "\n".join([_compared(authority), _compared(certificate.subject), *alternative])


def verify_path(found: Sequence[x509.Certificate], trusted: x509.Certificate, now: datetime) -> None:
    """Return if the first certificate may sign and the trusted one vouches for it by the others; raise `Rejected`."""
    policy = verification.PolicyBuilder().store(verification.Store([trusted])).time(now).max_chain_depth(LONGEST_PATH)
    verifier = policy.extension_policies(ca_policy=_AUTHORITY, ee_policy=_SIGNER).build_client_verifier()
    try:
        path = verifier.verify(found[0], list(found[1:])).chain
    except (verification.VerificationError, ValueError) as error:
        raise Rejected(f"`{called(found[0])}` is not vouched for by `{called(trusted)}`: {_short(error)}") from error
    for one in path:
        _verify_nothing_unjudged(one)
    stray = [one for one in found if one not in path]
    if stray:
        raise Rejected(f"the bundle carries `{called(stray[0])}`, which has no part in the path to the trusted one")


def verify_itself(certificate: x509.Certificate, now: datetime) -> None:
    """Return if a certificate that is trusted by itself may sign now; raise `Rejected`."""
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Rejected(
            f"`{called(certificate)}` is valid from {certificate.not_valid_before_utc.isoformat()} "
            f"to {certificate.not_valid_after_utc.isoformat()} only"
        )
    found = {type(one.value): one.value for one in certificate.extensions}
    try:
        _may_sign(None, certificate, found.get(x509.KeyUsage))
        _is_for_code(None, certificate, found.get(x509.ExtendedKeyUsage))
        _is_no_authority(None, certificate, found.get(x509.BasicConstraints))
    except ValueError as error:
        raise Rejected(f"`{called(certificate)}`: {error}") from error
    _verify_nothing_unjudged(certificate)


@contextmanager
def _without_leniency() -> Iterator[None]:
    """Let what cryptography still reads but warns of be an error: a serial that is not positive (RFC 5280, 4.1.2.2)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        yield


def _verify_readable(certificate: x509.Certificate) -> None:
    """Raise `Rejected` unless key and extensions can be read; a certificate is read lazily."""
    try:
        certificate.public_key()
        list(certificate.extensions)
        certificate.subject.rfc4514_string()
    except UNPARSED as error:
        raise Rejected(f"a certificate cannot be read: {error}") from error


def _verify_nothing_unjudged(certificate: x509.Certificate) -> None:
    for one in certificate.extensions:
        # Name constraints bind whether critical or not, and are about names that are not compared here.
        if (one.critical and one.oid not in JUDGED) or isinstance(one.value, x509.NameConstraints):
            raise Rejected(
                f"`{called(certificate)}` has the extension {one.oid.dotted_string}, which is not judged here"
            )


def _may_sign(_policy: Any, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is None or not usage.digital_signature:
        raise ValueError("its key usage is not `digitalSignature`")


def _is_for_code(_policy: Any, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    if usage is not None and ExtendedKeyUsageOID.CODE_SIGNING not in usage:
        raise ValueError("its extended key usage is not `codeSigning`")


def _is_no_authority(_policy: Any, _certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("it is an authority's, which signs certificates and nothing else")


def _may_issue(_policy: Any, _certificate: x509.Certificate, usage: x509.KeyUsage) -> None:
    if not usage.key_cert_sign:
        raise ValueError("an authority's key usage is not `keyCertSign`")


def _is_authority(_policy: Any, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("basic constraints: it is not an authority's")


# INVARIANT: `permit_all` still refuses critical extensions that no rule takes up, and cryptography itself verifies
# signatures, validity, issuer and path length (seen in tests, for each of them).
_SIGNER = (
    ExtensionPolicy.permit_all()
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_code)
    .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_no_authority)
)
_AUTHORITY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.CRITICAL, _is_authority)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_issue)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_code)
)


def _compared(name: x509.Name) -> str:
    rows = (sorted(f"{one.oid.dotted_string}={_folded(str(one.value))}" for one in part) for part in name.rdns)
    return ",".join("+".join(row) for row in rows)


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _short(error: Exception) -> str:
    """Return cryptography's reason without the certificate that it quotes."""
    text = str(error).partition(" (encountered processing")[0]
    return text.removeprefix("validation failed: ").removeprefix("Python extension validator failed: ValueError: ")
