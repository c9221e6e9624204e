"""The status: how a refusal ends a call, and what the end of a call is in HTTP, by the names of gRPC's codes.

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
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.BAD_GATEWAY: "UNAVAILABLE",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
}

HTTP_OF = MappingProxyType(
    {
        "OK": 200,
        "CANCELLED": 499,
        "INVALID_ARGUMENT": 400,
        "DEADLINE_EXCEEDED": 504,
        "NOT_FOUND": 404,
        "ALREADY_EXISTS": 409,
        "PERMISSION_DENIED": 403,
        "RESOURCE_EXHAUSTED": 429,
        "FAILED_PRECONDITION": 400,
        "ABORTED": 409,
        "OUT_OF_RANGE": 416,
        "UNIMPLEMENTED": 501,
        "INTERNAL": 500,
        "UNAVAILABLE": 503,
        "DATA_LOSS": 500,
        "UNAUTHENTICATED": 401,
        "UNKNOWN": 500,
    }
)


def refusal_status(refusal: Refusal) -> tuple[str, str]:
    """Return the code's name and the details of a refusal."""
    message = _TOKEN_FAILED if isinstance(refusal, Unauthenticated) else refusal.message
    return _CODES.get(HTTPStatus(refusal.status), "INTERNAL"), message
