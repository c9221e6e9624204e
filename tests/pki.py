"""Keys and certificates for tests: an authority of one's own, and everything that can be wrong with one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
CODE_SIGNING = ExtendedKeyUsageOID.CODE_SIGNING
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")


def key(kind: str = "P-256"):
    """A new private key, of a curve or Ed25519."""
    return ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else ec.generate_private_key(CURVES[kind])


def public_pem(private) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private_pem(private, passphrase: bytes | None = None) -> bytes:
    locked = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@dataclass(frozen=True)
class Held:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: object

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True)
class Wanted:
    """A certificate to be made; each field is one thing that a verifier must look at."""

    name: str
    ca: bool = False
    path_length: int | None = None
    constraints: bool = True
    usage: bool = True
    digital_signature: bool | None = None
    may_issue: bool | None = None
    extended: tuple[x509.ObjectIdentifier, ...] = ()
    begins: datetime = NOW - timedelta(days=30)
    ends: datetime = NOW + timedelta(days=30)
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    kind: str = "P-256"
    private: object = field(default=None, compare=False)

    def by(self, issuer: Held | None = None, signed_with: object = None) -> Held:
        """The certificate, issued by another or by itself."""
        private = self.private or key(self.kind)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer is not None else subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins)
            .not_valid_after(self.ends)
        )
        for extension, critical in self._extensions():
            builder = builder.add_extension(extension, critical=critical)
        signer = signed_with or (issuer.key if issuer is not None else private)
        algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return Held(builder.sign(signer, algorithm), private)

    def but(self, **changes: object) -> Wanted:
        return replace(self, **changes)

    def _extensions(self):
        if self.constraints:
            yield x509.BasicConstraints(self.ca, self.path_length), True
        if self.usage:
            signs = not self.ca if self.digital_signature is None else self.digital_signature
            issues = self.ca if self.may_issue is None else self.may_issue
            yield x509.KeyUsage(signs, not signs and not self.ca, *[False] * 3, issues, self.ca, *[False] * 2), True
        if self.extended:
            yield x509.ExtendedKeyUsage(self.extended), False
        yield from self.extensions


ROOT = Wanted("root", ca=True)
MIDDLE = Wanted("middle", ca=True, path_length=0)
SIGNER = Wanted("release@example.org", extended=(CODE_SIGNING,))
