"""An authority for tests: keys and certificates as a test wants them, good and bad."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int = 2048):
    return rsa.generate_private_key(65537, bits)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key; `chain` is what a server shows: PEM, its own certificate first."""

    certificate: x509.Certificate
    private: object
    issuers: tuple[Issued, ...] = ()

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def chain(self) -> bytes:
        return b"".join(one.pem for one in (self, *self.issuers))

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def written(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """Write chain and key, and return their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.chain)
        key.write_bytes(self.key)
        key.chmod(0o600)
        return certificate, key

    def issue(self, name: str = "server", **more) -> Issued:
        """Issue a certificate; a root is not part of the chain."""
        issuers = () if self.certificate.issuer == self.certificate.subject else (self, *self.issuers)
        return issue(name, issuer=self, issuers=issuers, **more)


def issue(
    name: str,
    *,
    issuer: Issued | None = None,
    issuers: tuple[Issued, ...] = (),
    dns: Sequence[str] = ("localhost",),
    addresses: Sequence[str] = ("127.0.0.1",),
    uris: Sequence[str] = (),
    usage=SERVER,
    since: float = -1,
    days: float = 90,
    authority: bool = False,
    key=None,
    digest=None,
    where: str | None = None,
    now: datetime | None = None,
) -> Issued:
    """Make a certificate, self-signed without an issuer; dates are in days from now."""
    now = now or datetime.now(UTC)
    key = key or ec_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    names: list[x509.GeneralName] = [x509.DNSName(one) for one in dns]
    names += [x509.IPAddress(ipaddress.ip_address(one)) for one in addresses]
    names += [x509.UniformResourceIdentifier(one) for one in uris]
    if names and not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if where is not None:
        place = x509.AccessDescription(
            x509.AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(where)
        )
        builder = builder.add_extension(x509.AuthorityInformationAccess([place]), critical=False)
    signer = issuer.private if issuer else key
    return Issued(builder.sign(signer, digest or hashes.SHA256()), key, issuers)


def root(name: str = "Test Root", **more) -> Issued:
    """Make a root authority."""
    return issue(name, authority=True, days=more.pop("days", 3650), **more)
