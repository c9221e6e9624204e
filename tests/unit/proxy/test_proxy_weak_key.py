"""A key that OpenSSL finds too weak: served where that is only reported, refused with the remedy elsewhere."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from torchserve_guard.errors import ConfigError
from torchserve_guard.proxy import context_of


def shown(bits: int) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, as PEM."""
    key = rsa.generate_private_key(65537, bits)
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    end = now + timedelta(days=9)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, end).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return certificate.public_bytes(pem), key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)


def test_a_weak_key_is_served_only_where_weak_ones_are():
    certificate, key = shown(1024)
    with pytest.raises(ConfigError, match="not weaker than RSA 2048"):
        context_of(certificate, key, None)
    assert context_of(certificate, key, None, weak=True).security_level == 1


def test_everybody_else_keeps_the_usual_level():
    assert context_of(*shown(2048), None).security_level > 1
