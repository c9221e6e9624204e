"""The identity: who made a signature without a key of his own, as Sigstore's authorities and logs vouch for it.

The certificate lives for minutes and its key is thrown away. So three things must come together: an authority says who
holds the key, a log of certificates has noted that, and a log of signatures has noted the signature while it held.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import LogEntryType, SignatureAlgorithm, SignedCertificateTimestamp
from cryptography.x509.oid import ExtendedKeyUsageOID

from torchserve_guard.archives.signing import certificates, keys, log_entry, log_tree, trusted_root
from torchserve_guard.archives.signing.bundle import Bundle
from torchserve_guard.archives.signing.demand import Identity, Signer
from torchserve_guard.archives.signing.log_entry import Entry
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.archives.signing.trusted_root import TrustedRoot

ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
OLD_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
"""Where Fulcio writes who has seen the identity (fulcio/docs/oid-info.md); the old one is no DER, but the bare text."""

_UTF8_STRING = b"\x0c"
_LONGEST_ISSUER = 2 + 0x7F


@dataclass(frozen=True, slots=True)
class Trusted:
    """The identities whose word counts, and the Sigstore that is believed about them."""

    root: TrustedRoot
    identities: tuple[Identity, ...]


def load(root: Path | None, identities: tuple[Identity, ...]) -> Trusted | None:
    """Return whom to believe, None where no identity is trusted; raise ConfigError."""
    return Trusted(trusted_root.load(root), identities) if root is not None and identities else None


def signer(bundle: Bundle, entry: Entry, trusted: Trusted | None, now: datetime) -> tuple[keys.PublicKey, Signer]:
    """Return the key and the identity that signed; raise `Rejected` unless all that must vouch for it does.

    The signature itself is still to be verified, by that key.
    """
    certificate = certificates.decode(bundle.certificates[0])
    who = _identity(certificate)
    if trusted is None:
        raise Rejected(f"it is by {who}, and no identity is trusted")
    at = _time(entry, now)
    # The log first: what was signed when is what all else is held against.
    _verify_logged(entry, trusted.root, at)
    log_entry.verify_about(entry, bundle.payload, bundle.signature, bundle.certificates[0])
    issuer = _verify_issued(certificate, trusted.root, at)
    _verify_noted(certificate, issuer, trusted.root)
    known = [one for one in trusted.identities if (one.name, one.issuer) == (who.name, who.issuer)]
    if not known:
        raise Rejected(f"it is by {who}, who is not trusted")
    roles = frozenset(one.role for one in known if one.role is not None)
    # An identity is one signer, however many keys it has had.
    counted = hashlib.sha256(f"{who.issuer}\n{who.name}".encode()).hexdigest()
    return keys.accepted(certificate.public_key()), Signer(counted, str(who), roles, identity=True)


def claimed(certificate: bytes) -> str:
    """Return who a certificate says has signed, believed by nobody yet; raise `Rejected`."""
    return str(_identity(certificates.decode(certificate)))


def _time(entry: Entry, now: datetime) -> datetime:
    try:
        at = datetime.fromtimestamp(entry.time, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise Rejected("the log's entry is of a time that there is none of") from error
    if at > now:
        raise Rejected(f"the log's entry is of {at.isoformat()}, which is still to come: look at this machine's clock")
    return at


def _verify_logged(entry: Entry, root: TrustedRoot, at: datetime) -> None:
    """Return if a trusted log has promised the entry at this time and has it in its tree; raise `Rejected`."""
    log = trusted_root.known(root.signature_logs, entry.log, at, "the entry")
    _verify_by(log.key, entry.promise, entry.promised, "the log's promise")
    checkpoint = log_tree.verify_included(entry.body, entry.proof)
    own = [signature for hint, signature in checkpoint.signatures if hint == log.identifier[: log_tree.HINT]]
    if len(own) != 1:
        raise Rejected("the log's checkpoint is not signed by the log, once")
    _verify_by(log.key, own[0], checkpoint.note, "the log's checkpoint")


def _verify_issued(certificate: x509.Certificate, root: TrustedRoot, at: datetime) -> x509.Certificate:
    """Return the certificate of the authority that issued this one, for signing code at the time; raise `Rejected`."""
    reasons = [Rejected(f"the trusted root has no authority that counted at {at.isoformat()}")]
    for authority in root.authorities:
        if not authority.window.holds(at):
            continue
        try:
            certificates.verify_path([certificate, *authority.chain[:-1]], authority.chain[-1], at)
            _verify_for_code(certificate)
        except Rejected as why:
            reasons.append(why)
        else:
            return authority.chain[0]
    raise reasons[-1]


def _verify_for_code(certificate: x509.Certificate) -> None:
    """Raise `Rejected` where a certificate does not say what it is for: one of Sigstore's does."""
    used = [one.value for one in certificate.extensions if isinstance(one.value, x509.ExtendedKeyUsage)]
    if not used or ExtendedKeyUsageOID.CODE_SIGNING not in used[0]:
        raise Rejected("the certificate's extended key usage is not `codeSigning`")


def _verify_noted(certificate: x509.Certificate, issuer: x509.Certificate, root: TrustedRoot) -> None:
    """Return if a trusted log of certificates has promised to note this one (RFC 6962, 3.2); raise `Rejected`."""
    promise = _promise(certificate)
    try:
        at = promise.timestamp.replace(tzinfo=UTC)
        data = _noted(promise, certificate.tbs_precertificate_bytes, issuer)
        kinds = (promise.version.value, promise.entry_type, promise.signature_algorithm)
        algorithm = promise.signature_hash_algorithm
    except (ValueError, OverflowError, UnsupportedAlgorithm) as error:
        raise Rejected(f"the promise of a log of certificates cannot be read: {error}") from error
    # RFC 6962, 2.1.4: whatever the curve, the hash is SHA-256; `keys` takes it for P-256 only, as all such logs have.
    wanted = (0, LogEntryType.PRE_CERTIFICATE, SignatureAlgorithm.ECDSA)
    if kinds != wanted or not isinstance(algorithm, hashes.SHA256):
        raise Rejected("the promise of a log of certificates is of a kind that is not judged here")
    log = trusted_root.known(root.certificate_logs, promise.log_id, at, "the promise to note the certificate")
    _verify_by(log.key, promise.signature, data, "the promise to note the certificate")


def _promise(certificate: x509.Certificate) -> SignedCertificateTimestamp:
    found = [
        one.value
        for one in certificate.extensions
        if isinstance(one.value, x509.PrecertificateSignedCertificateTimestamps)
    ]
    promises: list[SignedCertificateTimestamp] = list(found[0]) if found else []
    if len(promises) != 1:
        raise Rejected(f"the certificate carries {len(promises)} promises of logs of certificates, and not one")
    return promises[0]


def _noted(promise: SignedCertificateTimestamp, body: bytes, issuer: x509.Certificate) -> bytes:
    """Return what a log signs when it promises to note a certificate."""
    whose = hashlib.sha256(issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    moment = promise.timestamp.replace(tzinfo=UTC)
    milliseconds = int(moment.timestamp()) * 1000 + moment.microsecond // 1000
    extensions = promise.extension_bytes
    head = struct.pack("!BBQH32s", 0, 0, milliseconds, 1, whose)
    return head + len(body).to_bytes(3, "big") + body + struct.pack("!H", len(extensions)) + extensions


def _verify_by(key: keys.PublicKey, signature: bytes, data: bytes, what: str) -> None:
    try:
        keys.verify(key, signature, data)
    except Rejected as why:
        raise Rejected(f"{what} is not signed by that log") from why


def _identity(certificate: x509.Certificate) -> Identity:
    """Return the one name in a certificate, and who has seen it; raise `Rejected`."""
    extensions = [one.value for one in certificate.extensions]
    names = [name for one in extensions if isinstance(one, x509.SubjectAlternativeName) for name in one]
    if len(names) != 1 or not isinstance(names[0], x509.RFC822Name | x509.UniformResourceIdentifier):
        raise Rejected("the certificate names no single mail address or URI")
    unknown = [one for one in extensions if isinstance(one, x509.UnrecognizedExtension)]
    issuers = {_issuer(one) for one in unknown if one.oid in {ISSUER, OLD_ISSUER}}
    if len(issuers) != 1:
        raise Rejected(f"the certificate names {len(issuers)} issuers of the identity, and not one")
    return Identity(None, str(names[0].value), issuers.pop())


def _issuer(extension: x509.UnrecognizedExtension) -> str:
    data = extension.value
    if extension.oid == ISSUER:
        # X.690, 8.1.3.5: a longer length begins with another byte; an issuer is short.
        if data[:1] != _UTF8_STRING or len(data) > _LONGEST_ISSUER or data[1:2] != bytes([len(data) - 2]):
            raise Rejected("the certificate's issuer of the identity is no text")
        data = data[2:]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected("the certificate's issuer of the identity is no text") from error
