"""The status: how a refusal ends a call, and what the end of a call is in HTTP.

The record speaks of HTTP's numbers for both, so that one question finds both. GRPCUtils.java has the same pairs.
"""

from __future__ import annotations

from http import HTTPStatus
from types import MappingProxyType

from torchserve_guard.errors import Refusal, Unauthenticated

_TOKEN_FAILED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"  # noqa: S105 - stock's words

_CODES = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.NOT_FOUND: "UNIMPLEMENTED",
    HTTPStatus.METHOD_NOT_ALLOWED: "PERMISSION_DENIED",
    HTTPStatus.REQUEST_TIMEOUT: "DEADLINE_EXCEEDED",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RESOURCE_EXHAUSTED",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "RESOURCE_EXHAUSTED",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "INVALID_ARGUMENT",
    HTTPStatus.NOT_IMPLEMENTED: "UNIMPLEMENTED",
    HTTPStatus.BAD_GATEWAY: "UNAVAILABLE",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
}

NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""The codes by their numbers (google.rpc.Code)."""
CODES = MappingProxyType({name: number for number, name in enumerate(NAMES)})

HTTP_OF = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 416, 501, 500, 503, 500, 401)
"""What each code is in HTTP."""

_PRINTED = frozenset(range(0x20, 0x7F)) - {0x25}


def refusal_status(refusal: Refusal) -> tuple[int, str]:
    """Return the code and the details of a refusal."""
    message = _TOKEN_FAILED if isinstance(refusal, Unauthenticated) else refusal.message
    return CODES[_CODES.get(HTTPStatus(refusal.status), "INTERNAL")], message


def printed(details: str) -> bytes:
    """Return details as `grpc-message` has them: all but printable ASCII, and the percent sign, is percent-encoded."""
    return b"".join(b"%c" % byte if byte in _PRINTED else b"%%%02X" % byte for byte in details.encode())
