"""The trusted root: the authorities and logs of a Sigstore that the operator believes, each for its time.

The file is Sigstore's own `trusted_root.json`, brought by the operator. Nothing is fetched, nothing is built in.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pydantic import AfterValidator, FailFast, Field, StrictStr

from torchserve_guard.archives import contents, document
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.signing import certificates, keys
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.archives.signing.spelling import Bytes, Shape
from torchserve_guard.errors import ConfigError

LARGEST = 1 << 20
MOST = 64
DEEPEST = 16

_KINDS: Final = frozenset({"PKIX_ECDSA_P256_SHA_256", "PKIX_ECDSA_P384_SHA_384", "PKIX_ECDSA_P521_SHA_512"})
"""The keys of logs that are judged here; a log with another is left out, and what it says does not count."""

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6})\d{0,3})?Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when something counts, both included; `ends` is None where it still does."""

    begins: datetime
    ends: datetime | None

    def holds(self, moment: datetime) -> bool:
        """Whether the moment is within."""
        return self.begins <= moment and (self.ends is None or moment <= self.ends)


@dataclass(frozen=True, slots=True)
class Log:
    """A log: its key, known by the SHA-256 of it, and when its word counts."""

    identifier: bytes
    key: keys.PublicKey
    window: Window


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority that issues certificates to identities: those between (first) and the trusted one (last)."""

    chain: tuple[x509.Certificate, ...]
    window: Window


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """Who issues certificates, which logs note signatures, and which note certificates."""

    authorities: tuple[Authority, ...]
    signature_logs: tuple[Log, ...]
    certificate_logs: tuple[Log, ...]


def load(path: Path) -> TrustedRoot:
    """Return the trusted root in a file; raise ConfigError."""
    data = contents.read(path, LARGEST, "trusted root", "bring the `trusted_root.json` of the Sigstore that you trust")
    try:
        return parse(data)
    except (Malformed, Rejected) as why:
        raise ConfigError(f"{path}: cannot be used as a trusted root of Sigstore: {why}") from why


def parse(data: bytes) -> TrustedRoot:
    """Return the trusted root that the bytes spell; raise `Malformed` or `Rejected`."""
    shape = document.shaped(_Root, document.parse(data, deepest=DEEPEST))
    found = TrustedRoot(
        tuple(_authority(one) for one in shape.certificateAuthorities),
        tuple(_logs(shape.tlogs)),
        tuple(_logs(shape.ctlogs)),
    )
    if not (found.authorities and found.signature_logs and found.certificate_logs):
        raise Malformed("needs an authority, a log of signatures and a log of certificates with an EC key")
    return found


def known(logs: Iterable[Log], identifier: bytes, moment: datetime, what: str) -> Log:
    """Return the log of this identifier whose word counted at the moment; raise `Rejected`."""
    named = [log for log in logs if log.identifier == identifier]
    if not named:
        raise Rejected(f"{what} is by the log {identifier.hex()[:16]}..., which is not in the trusted root")
    current = [log for log in named if log.window.holds(moment)]
    if not current:
        raise Rejected(f"{what} is of {moment.isoformat()}, when the trusted root did not count that log")
    return current[0]


def _authority(shape: _Authority) -> Authority:
    chain = tuple(certificates.decode(base64.b64decode(one.rawBytes)) for one in shape.certChain.certificates)
    return Authority(chain, shape.validFor.window())


def _logs(shapes: Iterable[_Log]) -> Iterator[Log]:
    for shape in shapes:
        if shape.publicKey.keyDetails not in _KINDS:
            continue
        key = _key(base64.b64decode(shape.publicKey.rawBytes))
        named = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        if base64.b64decode(shape.logId.keyId) != named:
            raise Malformed(f"names the log {shape.baseUrl!a} by another identifier than the SHA-256 of its key")
        yield Log(named, key, shape.publicKey.validFor.window())


def _key(data: bytes) -> keys.PublicKey:
    try:
        return keys.accepted(load_der_public_key(data))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed(f"has a log's key that cannot be read: {error}") from error


def _moment(value: str) -> str:
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError("is not a time like `2030-01-31T12:00:00Z`")
    datetime.fromisoformat(match[1])
    return f"{match[1]}.{(match[2] or '').ljust(6, '0')}+00:00"


Moment = Annotated[StrictStr, AfterValidator(_moment)]


class _Window(Shape):
    start: Moment
    end: Moment | None = None

    def window(self) -> Window:
        ends = datetime.fromisoformat(self.end) if self.end is not None else None
        return Window(datetime.fromisoformat(self.start), ends)


class _Key(Shape):
    rawBytes: Bytes  # noqa: N815 - the format's words, here and below
    keyDetails: StrictStr  # noqa: N815
    validFor: _Window  # noqa: N815


class _Named(Shape):
    keyId: Bytes  # noqa: N815


class _Log(Shape):
    baseUrl: StrictStr = ""  # noqa: N815
    hashAlgorithm: Literal["SHA2_256"]  # noqa: N815
    publicKey: _Key  # noqa: N815
    logId: _Named  # noqa: N815
    checkpointKeyId: _Named | None = None  # noqa: N815
    operator: StrictStr = ""


class _Certificate(Shape):
    rawBytes: Bytes  # noqa: N815


class _Chain(Shape):
    certificates: Annotated[tuple[_Certificate, ...], FailFast(), Field(min_length=1, max_length=8)]


class _Authority(Shape):
    subject: Any = None
    uri: StrictStr = ""
    certChain: _Chain  # noqa: N815
    validFor: _Window  # noqa: N815
    operator: StrictStr = ""


class _Root(Shape):
    mediaType: Literal[  # noqa: N815
        "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "application/vnd.dev.sigstore.trustedroot.v0.2+json",
    ]
    tlogs: Annotated[tuple[_Log, ...], FailFast(), Field(max_length=MOST)] = ()
    certificateAuthorities: Annotated[tuple[_Authority, ...], FailFast(), Field(max_length=MOST)] = ()  # noqa: N815
    ctlogs: Annotated[tuple[_Log, ...], FailFast(), Field(max_length=MOST)] = ()
    timestampAuthorities: Any = None  # noqa: N815
