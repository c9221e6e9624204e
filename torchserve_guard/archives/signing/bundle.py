"""The bundle: one signature over one payload, as Sigstore's JSON (v0.3) spells it.

Pure. Read strictly: the fields of a signature by key, by certificates, or by an identity, each once, and no other. One
by an identity has the entry of a log; what cannot be judged of such entries is told apart and refused by name.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import FailFast, Field, StrictStr

from torchserve_guard.archives import document
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.signing.log_entry import Entry, EntryShape, refuse_newer
from torchserve_guard.archives.signing.spelling import Bytes, Shape, to_base64

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
LARGEST = 1 << 20
"""Bytes of the largest bundle that is read beside a manifest."""

DEEPEST = 16
MOST_CERTIFICATES = 8
MOST_TIMESTAMPS = 8


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signature over a payload, and which key made it: the key's hint, or its certificates in DER, its own first.

    With the entry of a log, the one certificate is an identity's.
    """

    payload: bytes
    signature: bytes
    hint: str | None = None
    certificates: tuple[bytes, ...] = ()
    entry: Entry | None = None

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over: DSSE's pre-authentication encoding of the payload."""
        from securesystemslib.dsse import Envelope  # noqa: PLC0415 - slow to import, and most starts need none

        return Envelope(self.payload, PAYLOAD_TYPE, {}).pae()


def looks_like_one(data: bytes) -> bool:
    """Whether the bytes claim to be a bundle. Says nothing about whether they are a good one."""
    if b'"dsseEnvelope"' not in data:
        return False
    try:
        value = document.parse(data)
    except Malformed:
        return False
    return isinstance(value, dict) and "dsseEnvelope" in value


def parse(data: bytes) -> Bundle:
    """Return the bundle that the bytes spell; raise `Malformed`."""
    value = document.parse(data, deepest=DEEPEST)
    _refuse_newer(value)
    shape = document.shaped(_Bundle, value)
    (signature,) = shape.dsseEnvelope.signatures
    material = shape.verificationMaterial
    if sum(one is not None for one in (material.publicKey, material.x509CertificateChain, material.certificate)) != 1:
        raise Malformed("names neither a key nor certificates, or both")
    if (material.certificate is None) != (not material.tlogEntries):
        raise Malformed("has the certificate of an identity without the entry of a log, or an entry without one")
    if material.certificate is None and material.timestampVerificationData is not None:
        raise Malformed("has the stamp of a time, which is not judged for keys and certificates of one's own")
    return Bundle(
        payload=_decoded(shape.dsseEnvelope.payload),
        signature=_decoded(signature.sig),
        hint=material.publicKey.hint if material.publicKey is not None else None,
        certificates=tuple(_decoded(one.rawBytes) for one in material.chain),
        entry=material.tlogEntries[0].value() if material.tlogEntries else None,
    )


def render(bundle: Bundle) -> bytes:
    """Return the bundle of a key or of certificates as `model_signing` reads it; none of an identity is made here."""
    material: dict[str, Any] = {"tlogEntries": []}
    if bundle.hint is not None:
        material["publicKey"] = {"hint": bundle.hint}
    else:
        material["x509CertificateChain"] = {
            "certificates": [{"rawBytes": to_base64(one)} for one in bundle.certificates]
        }
    return document.render(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": to_base64(bundle.payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": to_base64(bundle.signature), "keyid": ""}],
            },
        }
    )


def _decoded(value: str) -> bytes:
    return base64.b64decode(value)


class _Hint(Shape):
    hint: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]


class _Certificate(Shape):
    rawBytes: Bytes  # noqa: N815 - the format's word


class _Chain(Shape):
    certificates: Annotated[tuple[_Certificate, ...], FailFast(), Field(min_length=1, max_length=MOST_CERTIFICATES)]


class _Timestamp(Shape):
    signedTimestamp: Bytes  # noqa: N815


class _Timestamps(Shape):
    rfc3161Timestamps: Annotated[tuple[_Timestamp, ...], FailFast(), Field(max_length=MOST_TIMESTAMPS)] = ()  # noqa: N815


class _Material(Shape):
    publicKey: _Hint | None = None  # noqa: N815 - the format's words
    x509CertificateChain: _Chain | None = None  # noqa: N815
    certificate: _Certificate | None = None
    tlogEntries: Annotated[tuple[EntryShape, ...], FailFast(), Field(max_length=1)] = ()  # noqa: N815
    # Written beside what the log says of the time, and of no weight: nobody's word is taken for them.
    timestampVerificationData: _Timestamps | None = None  # noqa: N815

    @property
    def chain(self) -> tuple[_Certificate, ...]:
        """The certificates, the signer's own first."""
        if self.certificate is not None:
            return (self.certificate,)
        return self.x509CertificateChain.certificates if self.x509CertificateChain is not None else ()


class _Signature(Shape):
    sig: Bytes
    keyid: Literal[""] = ""


class _Envelope(Shape):
    payload: Bytes
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815
    signatures: Annotated[tuple[_Signature, ...], FailFast(), Field(min_length=1, max_length=1)]


class _Bundle(Shape):
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]  # noqa: N815
    verificationMaterial: _Material  # noqa: N815
    dsseEnvelope: _Envelope  # noqa: N815


def _refuse_newer(value: Any) -> None:
    material = value.get("verificationMaterial") if isinstance(value, dict) else None
    if isinstance(material, dict):
        refuse_newer(material.get("tlogEntries"))
