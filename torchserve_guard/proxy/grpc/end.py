"""The end of a call: what TorchServe said, or what the guard says in its place, as a client's header block has it."""

from __future__ import annotations

from typing import NamedTuple

from torchserve_guard.http2 import Code, Fields, encoded
from torchserve_guard.wire.grpc.metadata import AnswerHead
from torchserve_guard.wire.grpc.status import CODES, printed

# What a stream's end without a word means (gRPC over HTTP2, Errors).
_RESETS = {
    Code.REFUSED: "UNAVAILABLE",
    Code.CANCEL: "CANCELLED",
    Code.CALM: "RESOURCE_EXHAUSTED",
}


class Told(NamedTuple):
    """What TorchServe said at the beginning or the end of an answer, and that in a client's header block."""

    head: AnswerHead
    block: bytes


class End(NamedTuple):
    """How a call ended: a code of gRPC's, and the block that tells the client; `gone` says why TorchServe told none."""

    code: int
    block: bytes
    gone: str = ""


def ended(code: str, details: str = "") -> End:
    """Return the end of a call that is not TorchServe's."""
    return End(CODES[code], status_block(CODES[code], printed(details)))


def reset_end(code: int) -> End:
    """Return the end of a call whose stream TorchServe gave up."""
    known = {int(one): name for one, name in _RESETS.items()}
    return ended(known.get(code, "INTERNAL"), "TorchServe broke the call off.")


def told_end(told: Told) -> End:
    """Return the end that trailers tell."""
    return End(CODES["UNKNOWN"] if told.head.code is None else told.head.code, told.block)


def status_block(code: int, details: bytes, trailing: Fields = ()) -> bytes:
    """Return the part of a header block that ends a call."""
    message = ((b"grpc-message", details),) if details else ()
    return encoded(((b"grpc-status", b"%d" % code), *message, *trailing))


def too_long() -> End:
    """Return the end of a call whose answer is longer than it may be."""
    return ended("RESOURCE_EXHAUSTED", "The answer is too large.")
