"""The answers: what goes back to a client, TorchServe's and the guard's own, as bytes."""

from __future__ import annotations

from torchserve_guard.errors import Refusal, TooMany, Unauthenticated, Unavailable
from torchserve_guard.proxy.answer_head import ResponseHead
from torchserve_guard.wire import refusal_body

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
RETRY_AFTER_S = 1

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Request Entity Too Large",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
}
_AGAIN = b"Retry-After: %d\r\n" % RETRY_AFTER_S
_EXTRA = {
    Unauthenticated.status: b"WWW-Authenticate: Bearer\r\n",
    TooMany.status: _AGAIN,
    Unavailable.status: _AGAIN,
}
# As stock says it in each of its own answers (NettyUtils.sendHttpResponse), the semicolon included: a cache that reads
# `no-cache; no-store` as one unknown directive is still held by the other lines.
_UNCACHED = (
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache; no-store, must-revalidate, private\r\n"
    b"Expires: Thu, 01 Jan 1970 00:00:00 UTC\r\n"
)
_BODILESS = frozenset({204, 304})


class RequestTimeout(Refusal):
    """The client took too long for its head or its body (HTTP 408)."""

    status = 408
    kind = "RequestTimeoutException"


def connection_line(minor: int, close: bool) -> bytes:  # noqa: FBT001 - hot
    """Return the line that says whether the connection stays, where the version does not say it itself."""
    if close:
        return b"Connection: close\r\n"
    return b"" if minor else b"Connection: keep-alive\r\n"


def begun(head: ResponseHead, request_id: bytes, framing: bytes, connection: bytes) -> bytes:
    """Return the head of an answer of TorchServe's."""
    return b"".join(
        (head.start, *head.passed, b"X-Request-Id: ", request_id, b"\r\n", framing, connection, b"\r\n"),
    )


def whole(head: ResponseHead, request_id: bytes, connection: bytes, body: bytes, head_only: bool) -> bytes:  # noqa: FBT001
    """Return an answer of TorchServe's that came at once."""
    if head.status in _BODILESS:
        framing = b""
    elif not head_only:
        framing = b"Content-Length: %d\r\n" % len(body)
    elif head.length is not None:
        framing = b"Content-Length: %d\r\n" % head.length
    else:
        framing = b"Transfer-Encoding: chunked\r\n" if head.chunked else b""
    return b"".join(
        (head.start, *head.passed, b"X-Request-Id: ", request_id, b"\r\n", framing, connection, b"\r\n", body),
    )


def refused(refusal: Refusal, request_id: bytes, connection: bytes, *, head_only: bool) -> bytes:
    """Return a refusal in TorchServe's shape."""
    body = refusal_body(refusal)
    return own(refusal.status, request_id, connection, body, head_only=head_only)


def own(status: int, request_id: bytes, connection: bytes, body: bytes = b"", *, head_only: bool = False) -> bytes:
    """Return an answer of the guard's own; no cache keeps it."""
    return b"".join(
        (
            b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Refused")),
            b"Content-Type: application/json\r\n" if body else b"",
            _UNCACHED,
            _EXTRA.get(status, b""),
            b"X-Request-Id: %b\r\nContent-Length: %d\r\n" % (request_id, len(body)),
            connection,
            b"\r\n",
            b"" if head_only else body,
        )
    )
