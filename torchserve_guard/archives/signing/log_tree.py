"""The log's tree: the way from an entry to the root, and what the log has signed of that root.

Pure. The proof binds an entry to a tree (RFC 9162, section 2.1.3), the checkpoint binds the tree to the log: a signed
note as C2SP writes them (tlog-checkpoint). Whether the signature is the log's, is for others to say.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.archives.signing.spelling import NUMBER, plain_base64

MOST_SIGNATURES = 8
"""Signatures under a checkpoint: the log's own, and those of its witnesses."""

HINT = 4
"""Bytes of a key's identifier that stand before its signature under a checkpoint."""

_SIGNATURE = re.compile(r"\u2014 (\S+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log has signed of its tree: size and root, the signed bytes, and signatures by the hint of their key."""

    size: int
    root: bytes
    note: bytes
    signatures: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """The place of an entry in a tree, the hashes beside its way to the root, and the log's word for that root."""

    index: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str


def verify_included(body: bytes, proof: Proof) -> Checkpoint:
    """Return the checkpoint, signed or not, if the body of an entry leads to its root; raise `Rejected`."""
    found = _checkpoint(proof.checkpoint)
    if (found.size, found.root) != (proof.size, proof.root):
        raise Rejected("the log's checkpoint is of another tree than the proof")
    if _root(proof, hashlib.sha256(b"\0" + body).digest()) != proof.root:
        raise Rejected("the proof does not lead from the entry to the root of the log")
    return found


def _checkpoint(text: str) -> Checkpoint:
    """Return what a signed note says of a log's tree; raise `Rejected`."""
    header, blank, rest = text.partition("\n\n")
    lines = header.split("\n")
    signatures = [_SIGNATURE.fullmatch(line) for line in rest.removesuffix("\n").split("\n")]
    if not blank or not rest.endswith("\n") or len(lines) < len(("origin", "size", "root")) or not lines[0]:
        raise Rejected("the log's checkpoint is no signed note")
    if None in signatures or len(signatures) > MOST_SIGNATURES or NUMBER.fullmatch(lines[1]) is None:
        raise Rejected("the log's checkpoint is no signed note of a tree")
    try:
        root = base64.b64decode(plain_base64(lines[2]))
        signed = tuple(base64.b64decode(plain_base64(match[2])) for match in signatures if match is not None)
    except ValueError as why:
        raise Rejected(f"the log's checkpoint is no signed note: what it holds {why}") from why
    return Checkpoint(int(lines[1]), root, f"{header}\n".encode(), tuple((one[:HINT], one[HINT:]) for one in signed))


def _root(proof: Proof, leaf: bytes) -> bytes | None:
    """Return the root that a leaf leads to (RFC 9162, 2.1.3.2); None when the proof is not as long as it must be."""
    at, last, node = proof.index, proof.size - 1, leaf
    if at > last:
        return None
    for one in proof.hashes:
        if last == 0:
            return None
        if at % 2 or at == last:
            node = _parent(one, node)
            while at % 2 == 0 and at:
                at, last = at >> 1, last >> 1
        else:
            node = _parent(node, one)
        at, last = at >> 1, last >> 1
    return node if last == 0 else None


def _parent(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
