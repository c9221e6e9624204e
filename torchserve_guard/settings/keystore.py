"""The key store: the one private key in a JKS or PKCS#12 file, with its chain.

Pure. The kind is told by the first bytes and not by `keystore_type`, as Java does it
(sun.security.provider.JavaKeyStore, DualFormatJKS). Functions raise `ValueError` that completes the sentence
"the key store ...".
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

JKS, JCEKS = b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce"
VERSIONS = (1, 2)
PRIVATE_KEY, TRUSTED = 1, 2
WHITENER = b"Mighty Aphrodite"  # sun.security.provider.JavaKeyStore.getPreKeyedHash
SHA1 = 20
# 1.3.6.1.4.1.42.2.17.1.1, Sun's own way to hide a key (sun.security.provider.KeyProtector), without parameters.
PROTECTED = bytes.fromhex("300e060a2b060104012a021101010500")
KINDS = ("PKCS12", "JKS")


@dataclass(frozen=True, slots=True)
class Held:
    """What a key store holds: the key (PKCS#8, DER) and its certificates (DER), the key's own first."""

    key: bytes = field(repr=False)
    chain: tuple[bytes, ...]


def parse(data: bytes, password: str) -> Held:
    """Return the private key of a key store and its chain. Raises `ValueError`."""
    if data.startswith(JKS):
        return _jks(data, password)
    if data.startswith(JCEKS):
        raise ValueError(
            "is a JCEKS store, which is not read here; convert it with `keytool -importkeystore -srckeystore FILE "
            "-srcstoretype JCEKS -destkeystore FILE.p12 -deststoretype PKCS12`"
        )
    return _pkcs12(data, password)


def _pkcs12(data: bytes, password: str) -> Held:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only who serves TLS pays for it
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - likewise
        Encoding,
        NoEncryption,
        PrivateFormat,
        pkcs12,
    )

    try:
        key, certificate, others = pkcs12.load_key_and_certificates(data, password.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"cannot be opened ({_why(error)})") from error
    if key is None or certificate is None:
        raise ValueError("holds no private key with a certificate; make one with `keytool -genkeypair`, or import one")
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Held(der, tuple(one.public_bytes(Encoding.DER) for one in (certificate, *others)))


def _why(error: Exception) -> str:
    text = str(error).lower()
    if "password" in text or "mac" in text:
        return "the password in `keystore_pass` is wrong"
    return "it is neither PKCS#12 nor JKS, or damaged, or uses a cipher that is no longer supported"


# --- JKS ----------------------------------------------------------------------------------------------------------


class _Bytes:
    """Bytes read from front to back; there are enough, or it is an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise ValueError("is cut off or damaged; copy it again")
        self._at += size
        return taken

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "big")

    def text(self) -> str:
        """Return a string of DataInputStream.readUTF; names and types are compared, and shown, never trusted."""
        return self.take(self.number(2)).decode("utf-8", "replace")

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def _jks(data: bytes, password: str) -> Held:
    """Read a JKS store as sun.security.provider.JavaKeyStore.engineLoad does, after its digest was found right."""
    secret = password.encode("utf-16-be")
    body, digest = data[:-SHA1], data[-SHA1:]
    if not hmac.compare_digest(hashlib.sha1(secret + WHITENER + body).digest(), digest):  # noqa: S324 - the format's
        raise ValueError("cannot be opened (the password in `keystore_pass` is wrong, or the file is damaged)")
    stream = _Bytes(body)
    stream.take(len(JKS))
    version = stream.number()
    if version not in VERSIONS:
        raise ValueError(f"is a JKS store of version {version}, and only 1 and 2 are known")
    keys = dict(filter(None, [_entry(stream, version) for _ in range(_bounded(stream))]))
    if stream.left:
        raise ValueError("has bytes behind its last entry; copy it again")
    if len(keys) != 1:
        named = f" ({', '.join(sorted(keys))})" if keys else ""
        raise ValueError(f"holds {len(keys)} private keys{named}; which one is meant must be clear: leave one in it")
    ((protected, chain),) = keys.values()
    return Held(_revealed(protected, secret), chain)


def _bounded(stream: _Bytes) -> int:
    """Return a number of things to come, each of which has at least one byte."""
    number = stream.number()
    if number > stream.left:
        raise ValueError("is cut off or damaged; copy it again")
    return number


def _entry(stream: _Bytes, version: int) -> tuple[str, tuple[bytes, tuple[bytes, ...]]] | None:
    """Read one entry; return a private key's alias, protected key and chain, None for a trusted certificate."""
    tag, alias, _created = stream.number(), stream.text(), stream.take(8)
    if tag == TRUSTED:
        _certificate(stream, version)
        return None
    if tag != PRIVATE_KEY:
        raise ValueError(f"has an entry of the unknown kind {tag}")
    protected = stream.take(stream.number())
    chain = tuple(_certificate(stream, version) for _ in range(_bounded(stream)))
    if not chain:
        raise ValueError(f"holds no certificate for its key `{alias}`")
    return alias, (protected, chain)


def _certificate(stream: _Bytes, version: int) -> bytes:
    kind = stream.text() if version > 1 else "X.509"
    if kind != "X.509":
        raise ValueError("holds a certificate that is not X.509")
    return stream.take(stream.number())


def _revealed(protected: bytes, secret: bytes) -> bytes:
    """Return the key behind Sun's stream of SHA-1 (KeyProtector.recover): salt, key XOR stream, check."""
    hidden = _octets(protected)
    salt, masked, check = hidden[:SHA1], hidden[SHA1:-SHA1], hidden[-SHA1:]
    stream, block = b"", salt
    while len(stream) < len(masked):
        block = hashlib.sha1(secret + block).digest()  # noqa: S324 - the format's
        stream += block
    key = bytes(one ^ other for one, other in zip(masked, stream, strict=False))
    if not hmac.compare_digest(hashlib.sha1(secret + key).digest(), check):  # noqa: S324 - the format's
        raise ValueError("cannot be opened (its key has another password than the store; `keystore_pass` is for both)")
    return key


def _octets(protected: bytes) -> bytes:
    """Return what an EncryptedPrivateKeyInfo (RFC 5208) of Sun's kind holds."""
    info = _Bytes(_value(_Bytes(protected), 0x30))
    if info.take(len(PROTECTED)) != PROTECTED:
        raise ValueError("protects its key in a way that is not known here; convert it to PKCS12 with `keytool`")
    hidden = _value(info, 0x04)
    if len(hidden) <= 2 * SHA1:
        raise ValueError("is cut off or damaged; copy it again")
    return hidden


def _value(stream: _Bytes, tag: int) -> bytes:
    """Return the contents of one DER value of a definite length (X.690 section 8.1.3), the last of its stream."""
    if stream.number(1) != tag:
        raise ValueError("is damaged: its key is not DER")
    size = stream.number(1)
    if size & 0x80:
        size = stream.number(size & 0x7F)
    contents = stream.take(size)
    if stream.left:
        raise ValueError("is damaged: there are bytes behind its key")
    return contents
