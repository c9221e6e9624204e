"""The log's entry: what Sigstore's log of signatures (Rekor) says of one signature, and the proof that it stands there.

Pure. Only what the log has signed is believed: the promise binds the body to a time, the proof to the log's tree
(`log_tree`). Whose key has signed, is for others to say.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, StrictStr

from torchserve_guard.archives import document
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.signing.log_tree import Proof
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.archives.signing.spelling import Bytes, Hash, Number, Shape, to_base64

MOST_HASHES = 64
LARGEST_CHECKPOINT = 8192
_PEM_LINE = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the log's identifier, the entry's number and time there, the log's promise, the body, the proof."""

    log: bytes
    index: int
    time: int
    promise: bytes
    body: bytes
    proof: Proof

    @property
    def promised(self) -> bytes:
        """The bytes that the promise is a signature over (RFC 8785: sorted keys, no blanks)."""
        value = {
            "body": to_base64(self.body),
            "integratedTime": self.time,
            "logID": self.log.hex(),
            "logIndex": self.index,
        }
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def verify_about(entry: Entry, payload: bytes, signature: bytes, certificate: bytes) -> None:
    """Return if the entry is about this signature over this payload by this certificate; raise `Rejected`.

    The hash of the envelope is not compared: it is over JSON in a spelling that nobody kept.
    """
    try:
        spec = document.shaped(_Body, document.parse(entry.body, deepest=8)).spec
    except Malformed as why:
        raise Rejected(f"the log's entry is not one of a signed statement: {why}") from why
    (one,) = spec.signatures
    said = (spec.payloadHash.value, one.signature, one.verifier)
    wanted = (hashlib.sha256(payload).hexdigest(), to_base64(signature), to_base64(_pem(certificate)))
    if said != wanted:
        raise Rejected("the log's entry is about another signature than this one")


def _pem(certificate: bytes) -> bytes:
    body = to_base64(certificate)
    lines = "\n".join(body[at : at + _PEM_LINE] for at in range(0, len(body), _PEM_LINE))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n".encode()


class _LogId(Shape):
    keyId: Hash  # noqa: N815 - the format's words, here and below


class _Kind(Shape):
    kind: Literal["dsse"]
    version: Literal["0.0.1"]


class _Promise(Shape):
    signedEntryTimestamp: Bytes  # noqa: N815


class _Note(Shape):
    envelope: Annotated[StrictStr, Field(max_length=LARGEST_CHECKPOINT)]


class _Proof(Shape):
    logIndex: Number  # noqa: N815
    rootHash: Hash  # noqa: N815
    treeSize: Number  # noqa: N815
    hashes: Annotated[tuple[Hash, ...], FailFast(), Field(max_length=MOST_HASHES)] = ()
    checkpoint: _Note


class EntryShape(Shape):
    """An entry as a bundle spells it."""

    logIndex: Number  # noqa: N815
    logId: _LogId  # noqa: N815
    kindVersion: _Kind  # noqa: N815
    integratedTime: Number  # noqa: N815
    inclusionPromise: _Promise  # noqa: N815
    inclusionProof: _Proof  # noqa: N815
    canonicalizedBody: Bytes  # noqa: N815

    def value(self) -> Entry:
        """Return the entry that is spelt."""
        proof = self.inclusionProof
        return Entry(
            log=base64.b64decode(self.logId.keyId),
            index=self.logIndex,
            time=self.integratedTime,
            promise=base64.b64decode(self.inclusionPromise.signedEntryTimestamp),
            body=base64.b64decode(self.canonicalizedBody),
            proof=Proof(
                proof.logIndex,
                proof.treeSize,
                base64.b64decode(proof.rootHash),
                tuple(map(base64.b64decode, proof.hashes)),
                proof.checkpoint.envelope,
            ),
        )


class _Digest(Shape):
    algorithm: Literal["sha256"]
    value: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]


class _Signature(Shape):
    signature: StrictStr
    verifier: StrictStr


class _Spec(Shape):
    envelopeHash: _Digest  # noqa: N815
    payloadHash: _Digest  # noqa: N815
    signatures: Annotated[tuple[_Signature, ...], FailFast(), Field(min_length=1, max_length=1)]


class _Body(Shape):
    apiVersion: Literal["0.0.1"]  # noqa: N815
    kind: Literal["dsse"]
    spec: _Spec


def refuse_newer(entries: Any) -> None:
    """Raise `Malformed`, with the reason in words, for an entry of a log of the second generation."""
    first = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else {}
    if first and not first.get("inclusionPromise"):
        raise Malformed(
            "has an entry of a log that promises no time (Rekor v2): what a time stamp authority says is not judged by "
            "this version; sign with a log that does, such as https://rekor.sigstore.dev"
        )
