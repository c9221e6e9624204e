"""The certificates: what a TLS listener shows, what it proves that with, and whose clients it believes.

From `certificate_file` and `private_key_file`, or from `keystore`, as in ConfigManager.getSslContext; less the
self-signed certificate that stock makes up when there is none, which fails on Java 17.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings import keystore

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

LARGEST_FILE = 1024 * 1024
LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
SELF_SIGNED = (
    "openssl req -x509 -newkey rsa:3072 -sha256 -nodes -days 90 -subj /CN=HOST -addext subjectAltName=DNS:HOST "
    "-addext extendedKeyUsage=serverAuth -keyout key.pem -out cert.pem"
)


class Unusable(ConfigError):
    """A file that TLS cannot be made from: the key that names it, its path, why not, and what to do."""

    def __init__(self, key: str, path: Path | None, why: str) -> None:
        super().__init__(f"{key} `{path}`: {why}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Sources:
    """The files that TLS is made from, absolute: a pair, or a key store, which wins (ConfigManager.getSslContext)."""

    certificate: Path | None = None
    key: Path | None = None
    keystore: Path | None = None
    password: str = field(default="changeit", repr=False)
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that are read."""
        own = (self.keystore,) if self.keystore is not None else (self.certificate, self.key)
        return tuple(path for path in (*own, self.client_ca) if path is not None)

    @property
    def missing(self) -> str | None:
        """Return the key that is not given and has to be, None when there is what it takes."""
        if self.keystore is not None or (self.certificate is not None and self.key is not None):
            return None
        return "certificate_file" if self.certificate is None else "private_key_file"

    @property
    def secret(self) -> Path:
        """Return the file that holds the private key."""
        path = self.keystore or self.key
        assert path is not None  # noqa: S101 - asked of `missing` before
        return path

    @property
    def shown(self) -> Path:
        """Return the file that holds the certificate."""
        path = self.keystore or self.certificate
        assert path is not None  # noqa: S101 - asked of `missing` before
        return path

    @property
    def secret_key(self) -> str:
        """Return the name of the key that names the private key."""
        return "private_key_file" if self.keystore is None else "keystore"

    @property
    def shown_key(self) -> str:
        """Return the name of the key that names the certificate."""
        return "certificate_file" if self.keystore is None else "keystore"

    def stamp(self) -> tuple[tuple[int, ...], ...]:
        """Return what changes when one of the files does."""
        return tuple(_stamp(path) for path in self.files)


@dataclass(frozen=True, slots=True)
class Tls:
    """What listeners with TLS need: PEM all, the chain with the server's own certificate first, the key unencrypted.

    `names` are those that clients may ask for, `fingerprint` is SHA-256 over the certificate, in hexadecimal;
    `client_ca` is None when no client certificates are asked for. `stamp` is that of the files before they were read.
    `strays` counts certificates in the file that are not part of the chain, `disordered` says that the file does not
    have them in order.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]
    fingerprint: str
    client_ca: bytes | None
    sources: Sources
    stamp: tuple[tuple[int, ...], ...]
    strays: int = 0
    disordered: bool = False


def read(sources: Sources) -> Tls:
    """Return what the files hold, the key proved to be the certificate's. Raises `ConfigError`; looks at no clock."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - a third of start-up; only TLS pays it

    stamp = sources.stamp()
    key, found = _from_keystore(sources) if sources.keystore is not None else _from_pair(sources)
    chain = _chain(sources, _public(key), found)
    return Tls(
        certificate=_pem(chain),
        key=key,
        not_before=chain[0].not_valid_before_utc,
        not_after=chain[0].not_valid_after_utc,
        names=names_of(chain[0]),
        fingerprint=chain[0].fingerprint(hashes.SHA256()).hex(),
        client_ca=_client_ca(sources.client_ca) if sources.client_ca is not None else None,
        sources=sources,
        stamp=stamp,
        strays=len(found) - len(chain),
        disordered=found[: len(chain)] != chain,
    )


def missing(key: str) -> str:
    """Return the words for a certificate that is not there, with a way to make one to begin with."""
    return (
        f"asks for TLS, and `{key}` is not given; name `certificate_file` and `private_key_file`, or a `keystore`; "
        f"to begin with, `{SELF_SIGNED}` makes the two"
    )


def names_of(certificate: Certificate) -> tuple[str, ...]:
    """Return the subject alternative names of a server's certificate, DNS names and addresses; () when it has none."""
    from cryptography import x509  # noqa: PLC0415 - see `read`

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return ()
    return tuple(str(one.value) for one in extension if isinstance(one, x509.DNSName | x509.IPAddress))


def certificates_in(pem: bytes) -> list[Certificate]:
    """Return the certificates of a PEM text. Raises `ValueError`."""
    from cryptography import x509  # noqa: PLC0415 - see `read`

    return x509.load_pem_x509_certificates(pem)


# --- the key and its certificates -----------------------------------------------------------------------------------


def _from_pair(sources: Sources) -> tuple[bytes, list[Certificate]]:
    found = _certificates("certificate_file", sources.shown)
    return _key(sources.secret), found


def _from_keystore(sources: Sources) -> tuple[bytes, list[Certificate]]:
    from cryptography import x509  # noqa: PLC0415 - see `read`

    path = sources.secret
    try:
        held = keystore.parse(_content("keystore", path), sources.password)
        found = [x509.load_der_x509_certificate(one) for one in held.chain]
    except (ValueError, x509.InvalidVersion) as error:
        raise Unusable("keystore", path, f"the key store {error}") from error
    return _normal("keystore", path, held.key, der=True), found


def _key(path: Path) -> bytes:
    data = _content("private_key_file", path)
    labels = [label.decode() for label in LABEL.findall(data) if label.endswith(b"PRIVATE KEY")]
    if len(labels) != 1:
        raise Unusable("private_key_file", path, f"it holds {len(labels)} private keys in PEM; exactly one is needed")
    if labels[0].startswith("ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in data:
        raise Unusable(
            "private_key_file",
            path,
            "the key is encrypted, and nobody is there to give the password; decrypt it with `openssl pkey`, or put "
            "it into a `keystore`",
        )
    return _normal("private_key_file", path, data, der=False)


def _normal(key: str, path: Path, data: bytes, *, der: bool) -> bytes:
    """Return a private key as PEM in PKCS#8, of a kind that TLS servers use. Raises `ConfigError`."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see `read`
    from cryptography.hazmat.primitives import serialization as forms  # noqa: PLC0415 - see `read`
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa  # noqa: PLC0415 - see `read`

    usable = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
    try:
        private = (forms.load_der_private_key if der else forms.load_pem_private_key)(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Unusable(key, path, "the private key in it cannot be read; write it anew, unencrypted") from error
    if not isinstance(private, usable):
        raise Unusable(key, path, "its private key is of a kind that TLS does not use; make an RSA or EC key")
    return private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())


def _public(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as forms  # noqa: PLC0415 - see `read`

    public = forms.load_pem_private_key(key, None).public_key()
    return public.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)


def _chain(sources: Sources, public: bytes, found: list[Certificate]) -> list[Certificate]:
    """Return the key's certificate and those that lead from it to its root, as far as they are there."""
    own = [one for one in found if _subject_key(one) == public]
    if not own:
        raise Unusable(
            sources.secret_key,
            sources.secret,
            f"the private key is not that of any certificate in `{sources.shown}`; name the two that belong together",
        )
    chain = own[:1]
    rest = [one for one in found if one is not chain[0]]
    while issuer := next((one for one in rest if _issued(chain[-1], one)), None):
        chain.append(issuer)
        rest.remove(issuer)
    return chain


def _subject_key(certificate: Certificate) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see `read`
    from cryptography.hazmat.primitives import serialization as forms  # noqa: PLC0415 - see `read`

    try:
        return certificate.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _issued(certificate: Certificate, issuer: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415 - see `read`

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return certificate != issuer


def _pem(chain: Iterable[Certificate]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 - see `read`

    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def _certificates(key: str, path: Path) -> list[Certificate]:
    """Return the certificates of a file, PEM or DER (CertificateFactory.generateCertificates reads both)."""
    from cryptography import x509  # noqa: PLC0415 - see `read`

    data = _content(key, path)
    try:
        return certificates_in(data) if LABEL.search(data) else [x509.load_der_x509_certificate(data)]
    except (ValueError, x509.InvalidVersion) as error:
        raise Unusable(key, path, "it holds no certificate that can be read; name a PEM file") from error


def _client_ca(path: Path) -> bytes:
    """Return the certificates of authorities whose clients are believed. Raises `ConfigError`."""
    # A revocation list in there would be read by nobody, and whoever put it there would think otherwise.
    labels = {label.decode() for label in LABEL.findall(_content("guard.client_ca", path))}
    if labels != {"CERTIFICATE"}:
        held = f"it holds {', '.join(sorted(labels - {'CERTIFICATE'}))}" if labels else "it is not PEM"
        raise Unusable("guard.client_ca", path, f"{held}; nothing but certificates in PEM may be there")
    return _pem(_certificates("guard.client_ca", path))


# --- files ----------------------------------------------------------------------------------------------------------


def _content(key: str, path: Path) -> bytes:
    """Return what a regular file holds, within a limit; a pipe is not waited for. Raises `ConfigError`."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
                raise Unusable(key, path, f"it is not a file of at most {LARGEST_FILE} bytes; name another")
            return file.read(LARGEST_FILE)
    except OSError as error:
        raise Unusable(
            key, path, f"it cannot be read ({error.strerror}); name a file that this user may read"
        ) from error


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
