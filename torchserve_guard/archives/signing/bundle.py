"""The bundle: one signature over one payload, as Sigstore's JSON (v0.3) spells it.

Pure. Read strictly: the fields of a signature by key or by certificate, each once, and no other. A bundle of keyless
signing, with its entries of a transparency log, is told apart and refused by name.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, StrictStr

from torchserve_guard.archives import document
from torchserve_guard.archives.document import Malformed

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
LARGEST = 1 << 20
"""Bytes of the largest bundle that is read beside a manifest."""

DEEPEST = 16
MOST_CERTIFICATES = 8


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signature over a payload, and which key made it: the key's hint, or its certificates in DER, its own first."""

    payload: bytes
    signature: bytes
    hint: str | None = None
    certificates: tuple[bytes, ...] = ()

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
    _refuse_keyless(value)
    shape = document.shaped(_Bundle, value)
    (signature,) = shape.dsseEnvelope.signatures
    material = shape.verificationMaterial
    if (material.publicKey is None) == (material.x509CertificateChain is None):
        raise Malformed("names neither a key nor certificates, or both")
    chain = material.x509CertificateChain
    return Bundle(
        payload=_decoded(shape.dsseEnvelope.payload),
        signature=_decoded(signature.sig),
        hint=material.publicKey.hint if material.publicKey is not None else None,
        certificates=tuple(_decoded(one.rawBytes) for one in chain.certificates) if chain is not None else (),
    )


def render(bundle: Bundle) -> bytes:
    """Return the bundle as `model_signing` reads it."""
    material: dict[str, Any] = {"tlogEntries": []}
    if bundle.hint is not None:
        material["publicKey"] = {"hint": bundle.hint}
    else:
        material["x509CertificateChain"] = {"certificates": [{"rawBytes": _text(one)} for one in bundle.certificates]}
    return document.render(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": material,
            "dsseEnvelope": {
                "payload": _text(bundle.payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": _text(bundle.signature), "keyid": ""}],
            },
        }
    )


def _base64(value: str) -> str:
    # INVARIANT: one spelling for each sequence of bytes; padding bits and stray characters carry nothing.
    try:
        decoded = base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error
    if _text(decoded) != value or not decoded:
        raise ValueError("is not base64 in its one spelling, or empty")
    return value


def _decoded(value: str) -> bytes:
    return base64.b64decode(value)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


Bytes = Annotated[StrictStr, AfterValidator(_base64)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Hint(_Shape):
    hint: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]


class _Certificate(_Shape):
    rawBytes: Bytes  # noqa: N815 - the format's word


class _Chain(_Shape):
    certificates: Annotated[tuple[_Certificate, ...], FailFast(), Field(min_length=1, max_length=MOST_CERTIFICATES)]


class _Material(_Shape):
    publicKey: _Hint | None = None  # noqa: N815 - the format's words
    x509CertificateChain: _Chain | None = None  # noqa: N815
    tlogEntries: Annotated[tuple[Any, ...], FailFast(), Field(max_length=0)] = ()  # noqa: N815


class _Signature(_Shape):
    sig: Bytes
    keyid: Literal[""] = ""


class _Envelope(_Shape):
    payload: Bytes
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815
    signatures: Annotated[tuple[_Signature, ...], FailFast(), Field(min_length=1, max_length=1)]


class _Bundle(_Shape):
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]  # noqa: N815
    verificationMaterial: _Material  # noqa: N815
    dsseEnvelope: _Envelope  # noqa: N815


def _refuse_keyless(value: Any) -> None:
    material = value.get("verificationMaterial") if isinstance(value, dict) else None
    if not isinstance(material, dict):
        return
    if material.get("certificate") or material.get("tlogEntries") or material.get("timestampVerificationData"):
        raise Malformed(
            "is of keyless signing (Sigstore), which this version does not verify: sign with a key or a certificate"
        )
