"""The keys: EC on P-256, P-384 or P-521, and Ed25519; how one is read, named, and signs. Nothing else is a key here."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
"""The hash that goes with a curve, as in Sigstore's table of algorithms."""

KINDS = "EC on P-256, P-384 or P-521, or Ed25519"


def accepted(key: object) -> PublicKey:
    """Return the key if it is of a kind that signs here; raise `Rejected`."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in HASHES:
        return key
    raise Rejected(f"the key is of another kind than {KINDS}")


def fingerprint(key: PublicKey) -> str:
    """Return what a key is known and counted by, whatever certificate it comes in: the SHA-256 of its PEM.

    It is the hint that `model_signing` writes into a bundle, and the `sha256sum` of `openssl pkey -pubin -pubout`.
    """
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def verify(key: PublicKey, signature: bytes, data: bytes) -> None:
    """Return if the key made the signature over the data; raise `Rejected`."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            key.verify(signature, data, ec.ECDSA(HASHES[key.curve.name]))
    except InvalidSignature as error:
        raise Rejected("the signature is not by that key over this payload") from error


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Return the key's signature over the data."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, ec.ECDSA(HASHES[key.curve.name]))


def parse_public(data: bytes, where: str) -> PublicKey:
    """Return the public key in a PEM file; raise ConfigError."""
    try:
        return accepted(load_pem_public_key(data))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = str(error) if isinstance(error, Rejected) else "it is not the PEM of one"
        raise ConfigError(f"{where}: cannot be used as a public key: {why}") from error


def parse_private(data: bytes, passphrase: bytes | None, where: str) -> PrivateKey:
    """Return the private key in a PEM file; raise ConfigError, which never quotes any of it."""
    try:
        key = load_pem_private_key(data, passphrase)
        accepted(key.public_key())
    except TypeError as error:
        told = "is encrypted; name the file of its passphrase with --passphrase-file"
        raise ConfigError(
            f"{where}: {told if passphrase is None else 'is not encrypted; give no passphrase'}"
        ) from error
    except Rejected as error:
        raise ConfigError(f"{where}: {error}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        why = (
            "it is not the PEM of one" if passphrase is None else "the passphrase is wrong, or it is not the PEM of one"
        )
        raise ConfigError(f"{where}: cannot be used as a private key: {why}") from error
    assert isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey)  # noqa: S101 - as its public key is
    return key
