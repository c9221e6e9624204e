"""A little Sigstore for tests: an authority for identities, a log of certificates, a log of signatures; and every lie.

A `World` signs as `model_signing sign sigstore` does against Fulcio and Rekor. Each argument of its methods is one
thing that a verifier must look at; `test_signing_keyless.py` holds what it makes against what the real ones made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

import pki
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from torchserve_guard.archives.signing import bundle, keys

NAME, ISSUER = "release@example.org", "https://accounts.example.org"
AT = pki.NOW - timedelta(days=90)
"""When the signatures were made: long before now, and the certificates lived for ten minutes."""

SCT = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUERS = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
OLD_ISSUERS = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ORIGIN = "log.example.org"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def der(public) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def signed(private, data: bytes) -> bytes:
    return private.sign(data, ec.ECDSA(hashes.SHA256()))


def identifier(private) -> bytes:
    return hashlib.sha256(der(private.public_key())).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def tree(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree of leaves (RFC 9162, 2.1.1), by its definition."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return node(tree(leaves[:half]), tree(leaves[half:]))


def way(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes beside the way of a leaf (RFC 9162, 2.1.3.1), by their definition."""
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if index < half:
        return [*way(leaves[:half], index), tree(leaves[half:])]
    return [*way(leaves[half:], index - half), tree(leaves[:half])]


def utf8(value: str) -> bytes:
    data = value.encode()
    return bytes([0x0C, len(data)]) + data


@dataclass(frozen=True)
class Said:
    """What a certificate says; each field is one thing to look at."""

    names: tuple[x509.GeneralName, ...] = (x509.RFC822Name(NAME),)
    issuer: bytes | None = utf8(ISSUER)
    old_issuer: bytes | None = ISSUER.encode()
    begins: datetime = AT
    lives: timedelta = timedelta(minutes=10)
    extended: tuple[x509.ObjectIdentifier, ...] = (pki.CODE_SIGNING,)
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    promises: int = 1
    promised_by: object = None
    promised_at: datetime | None = None
    promised_under: object = None
    promised_with: bytes = b"\4\3"
    """SHA-256 and ECDSA, as TLS 1.2 numbers them."""


LASTING = pki.Wanted("lasting", begins=pki.NOW - timedelta(days=900), ends=pki.NOW + timedelta(days=900))


@dataclass(frozen=True)
class World:
    """Authorities and logs, each with a key of its own; the certificates of the authorities are `lasting`."""

    lasting: pki.Wanted = LASTING
    founding: ec.EllipticCurvePrivateKey = field(default_factory=pki.key)
    issuing: ec.EllipticCurvePrivateKey = field(default_factory=pki.key)
    certificates: ec.EllipticCurvePrivateKey = field(default_factory=pki.key)
    signatures: ec.EllipticCurvePrivateKey = field(default_factory=pki.key)

    @cached_property
    def root(self) -> pki.Held:
        known = known_by(self.founding, self.founding)
        return self.lasting.but(name="root", ca=True, extensions=known, private=self.founding).by()

    @cached_property
    def middle(self) -> pki.Held:
        """The authority below the root, which issues the certificates."""
        wanted = self.lasting.but(name="middle", ca=True, path_length=0, extended=(pki.CODE_SIGNING,))
        return wanted.but(extensions=known_by(self.issuing, self.founding), private=self.issuing).by(self.root)

    def trusted(self, **windows: tuple[datetime, datetime | None]) -> bytes:
        """The `trusted_root.json` of this world; `tlogs`, `ctlogs` and `authorities` count in the windows given."""
        whole = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log(self.signatures, windows.get("tlogs"))],
            "ctlogs": [_log(self.certificates, windows.get("ctlogs"))],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "example.org", "commonName": "authority"},
                    "uri": "https://authority.example.org",
                    "certChain": {
                        "certificates": [{"rawBytes": text(one.der)} for one in (self.middle, self.root)],
                    },
                    "validFor": _window(windows.get("authorities")),
                }
            ],
            "timestampAuthorities": [],
        }
        return json.dumps(whole, indent=2).encode()

    def certificate(self, private, said: Said = Said()) -> bytes:
        """A certificate for a key, noted by the log of certificates as its extension says."""
        serial = x509.random_serial_number()
        body = self._built(private, said, serial).sign(self.middle.key, hashes.SHA256()).tbs_certificate_bytes
        if not said.promises:
            return self._built(private, said, serial).sign(self.middle.key, hashes.SHA256()).public_bytes(DER)
        promise = self._promise(body, said)
        listed = b"".join(struct.pack("!H", len(promise)) + promise for _ in range(said.promises))
        value = struct.pack("!H", len(listed)) + listed
        extension = x509.UnrecognizedExtension(SCT, _octets(value))
        made = self._built(private, said, serial).add_extension(extension, critical=False)
        return made.sign(self.middle.key, hashes.SHA256()).public_bytes(DER)

    def entry(
        self,
        payload: bytes,
        signature: bytes,
        certificate: bytes,
        *,
        at: datetime | None = None,
        size: int = 7,
        index: int = 4,
        private=None,
        **body: object,
    ) -> dict[str, object]:
        """The entry of the log of signatures, in a tree of so many entries at this place."""
        private = private or self.signatures
        leaf = _body(payload, signature, certificate, **body)
        leaves = [b"entry %d" % number if number != index else leaf for number in range(size)]
        moment = int((at or AT + timedelta(seconds=5)).timestamp())
        promised = {
            "body": text(leaf), "integratedTime": moment, "logID": identifier(private).hex(), "logIndex": 1000 + index,
        }  # fmt: skip
        return {
            "logIndex": str(1000 + index),
            "logId": {"keyId": text(identifier(private))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {
                "signedEntryTimestamp": text(signed(private, json.dumps(promised, separators=(",", ":")).encode())),
            },
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": text(tree(leaves)),
                "treeSize": str(size),
                "hashes": [text(one) for one in way(leaves, index)],
                "checkpoint": {"envelope": checkpoint(private, size, tree(leaves))},
            },
            "canonicalizedBody": text(leaf),
        }

    def bundle(
        self, payload: bytes, said: Said = Said(), private=None, certificate: bytes | None = None, **entry: object
    ) -> dict[str, object]:
        """The bundle of a signature by an identity, as JSON's values."""
        private = private or pki.key()
        shown = certificate or self.certificate(private, said)
        draft = bundle.Bundle(payload, b"", certificates=(shown,))
        made = keys.sign(private, draft.signed)
        return {
            "mediaType": bundle.MEDIA_TYPE,
            "verificationMaterial": {
                "certificate": {"rawBytes": text(shown)},
                "tlogEntries": [self.entry(payload, made, shown, **entry)],
            },
            "dsseEnvelope": {
                "payload": text(payload),
                "payloadType": bundle.PAYLOAD_TYPE,
                "signatures": [{"sig": text(made)}],
            },
        }

    def _built(self, private, said: Said, serial: int) -> x509.CertificateBuilder:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.middle.certificate.subject)
            .public_key(private.public_key())
            .serial_number(serial)
            .not_valid_before(said.begins)
            .not_valid_after(said.begins + said.lives)
            .add_extension(x509.KeyUsage(*[True], *[False] * 8), critical=True)
        )
        if said.extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(said.extended), critical=False)
        if said.names:
            builder = builder.add_extension(x509.SubjectAlternativeName(said.names), critical=True)
        for oid, value in ((OLD_ISSUERS, said.old_issuer), (ISSUERS, said.issuer)):
            if value is not None:
                builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        for extension, critical in (*known_by(private, self.issuing), *said.more):
            builder = builder.add_extension(extension, critical=critical)
        return builder

    def _promise(self, body: bytes, said: Said) -> bytes:
        """A signed certificate timestamp (RFC 6962, 3.2 and 3.3)."""
        private = said.promised_by or self.certificates
        moment = int((said.promised_at or said.begins).timestamp() * 1000)
        issuer = hashlib.sha256(der((said.promised_under or self.middle.key).public_key())).digest()
        data = struct.pack("!BBQH", 0, 0, moment, 1) + issuer + len(body).to_bytes(3, "big") + body + b"\0\0"
        made = signed(private, data)
        return (
            struct.pack("!B32sQH", 0, identifier(private), moment, 0)
            + said.promised_with
            + struct.pack("!H", len(made))
            + made
        )


DER = serialization.Encoding.DER


def known_by(private, issuing) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """What says whose key it is, and whose key has signed the certificate."""
    return (
        (x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key()), False),
    )


def checkpoint(private, size: int, root: bytes, origin: str = f"{ORIGIN} - 1193050959916656506") -> str:
    """A log's signed note about its tree."""
    note = f"{origin}\n{size}\n{text(root)}\n"
    return f"{note}\n\u2014 {ORIGIN} {text(identifier(private)[:4] + signed(private, note.encode()))}\n"


def _body(payload: bytes, signature: bytes, certificate: bytes, **changes: object) -> bytes:
    body = base64.encodebytes(certificate).replace(b"\n", b"")
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    pem = b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])
    spec = {
        "envelopeHash": {"algorithm": "sha256", "value": "ab" * 32},
        "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
        "signatures": [{"signature": text(signature), "verifier": text(pem)}],
    }
    return json.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec | changes}, separators=(",", ":")).encode()


def _log(private, window) -> dict[str, object]:
    return {
        "baseUrl": "https://log.example.org",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": text(der(private.public_key())),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": _window(window),
        },
        "logId": {"keyId": text(identifier(private))},
    }


def _window(window) -> dict[str, str]:
    begins, ends = window or (AT - timedelta(days=100), None)
    spelt = {"start": begins.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    return spelt | ({"end": ends.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.999Z")} if ends is not None else {})


def _octets(data: bytes) -> bytes:
    """A DER octet string."""
    length = len(data)
    if length < 0x80:
        return bytes([4, length]) + data
    spelt = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([4, 0x80 | len(spelt)]) + spelt + data
