"""The metadata: what of a call's head is believed, and what of TorchServe's goes back.

Of a client's metadata the guard reads a credential and a request id; nothing goes on: TorchServe's interceptor
looks at `authorization` alone (GRPCInterceptor.java), and a handler sees none of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torchserve_guard.errors import BadRequest, HeaderTooLarge, Refusal
from torchserve_guard.wire.headers import REQUEST_ID
from torchserve_guard.wire.trace import trace_id_of

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

_NAME = re.compile(rb"[0-9a-z_.!#$%&'*+^`|~-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e]*")
_PATH = re.compile(rb"/[\x21-\x7e]+")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONTENT = re.compile(rb"application/grpc(\+proto)?(;[\t\x20-\x7e]*)?")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_SCHEMES = frozenset({b"http", b"https"})
# What frames a message in HTTP/1, which has no place here (RFC 9113 section 8.2.2).
_OF_ONE_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_ONCE = frozenset({b"authorization", b"content-length", b"content-type", b"te", b"grpc-timeout", b"grpc-encoding"})
_LENGTH = re.compile(rb"[0-9]{1,18}")
_MOST_FIELDS = 100
_OVERHEAD = 32  # of each field, as HTTP/2 counts (RFC 9113 section 6.5.2)


class NotACall(BadRequest):
    """The request is nothing of gRPC's, so that it is answered as HTTP has it (415)."""

    status = 415


class NotAPost(NotACall):
    """A call is a POST (HTTP 405)."""

    status = 405


class CallHead(NamedTuple):
    """What a call says of itself; `refusal` says why it is no call.

    `request_id` is None unless it is well formed, `from_page` tells of an `Origin`, `timeout` is in seconds, `trace`
    the id that a valid `traceparent` names; `length` is what all of the body must have, None when that is not said.
    """

    path: str = ""
    authorization: bytes | None = None
    request_id: bytes | None = None
    from_page: bool = False
    timeout: float | None = None
    encoding: bytes = b"identity"
    trace: bytes = b""
    length: int | None = None
    refusal: Refusal | None = None


class AnswerHead(NamedTuple):
    """What TorchServe says at the beginning or the end of an answer: `code` is gRPC's, None when it says none.

    `details` are as they came, `trailing` what else of it the client gets.
    """

    is_grpc: bool
    code: int | None
    details: bytes
    trailing: Fields


def parse_call_head(fields: Fields, largest: int) -> CallHead:
    """Return what the fields of a call say; `largest` is what they may be together, in bytes."""
    given: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    for name, value in fields:
        if name in given:
            repeated.add(name)
        given[name] = value
    request_id = given.get(b"x-request-id", b"")
    head = CallHead(
        given.get(b":path", b"").decode("latin-1"),
        None if b"authorization" in repeated else given.get(b"authorization"),
        request_id if b"x-request-id" not in repeated and REQUEST_ID.fullmatch(request_id) else None,
        b"origin" in given,
        trace=b"" if b"traceparent" in repeated else trace_id_of(given.get(b"traceparent", b"")) or b"",
    )
    try:
        _verify_size(fields, largest)
        _verify(fields, given, repeated)
        timeout, length = _timeout(given.get(b"grpc-timeout")), _length(given.get(b"content-length"))
    except Refusal as refusal:
        return head._replace(refusal=refusal)
    return head._replace(timeout=timeout, length=length, encoding=given.get(b"grpc-encoding", b"identity"))


def parse_answer_head(fields: Fields) -> AnswerHead:
    """Return what TorchServe says; details and trailing metadata as they came, but for what frames the call."""
    given = dict(fields)
    status, code = given.get(b":status"), given.get(b"grpc-status")
    return AnswerHead(
        is_grpc=status in {None, b"200"}
        and given.get(b"content-type", _GRPC).startswith(_GRPC)
        and all(_may_be_said(name, value) for name, value in fields),
        code=int(code) if code is not None and _CODE.fullmatch(code) else None,
        details=given.get(b"grpc-message", b""),
        trailing=tuple(field for field in fields if _returned(field[0])),
    )


_GRPC = b"application/grpc"
_ANSWERED = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_CODE = re.compile(rb"[0-9]|1[0-6]")
_OF_THE_CALL = (b"grpc-", b":", b"x-request-id", b"content-type")


def _may_be_said(name: bytes, value: bytes) -> bool:
    """Whether a field may go on: where a client's proxy speaks HTTP/1, an end of line in it would begin another."""
    if name == b":status":
        return True
    return bool(_NAME.fullmatch(name) and _ANSWERED.fullmatch(value)) and name not in _OF_ONE_HOP


def _returned(name: bytes) -> bool:
    return name == b"grpc-status-details-bin" or not name.startswith(_OF_THE_CALL)


def _verify_size(fields: Fields, largest: int) -> None:
    if len(fields) > _MOST_FIELDS or sum(len(name) + len(value) + _OVERHEAD for name, value in fields) > largest:
        raise HeaderTooLarge("The call's metadata is too large.", rule="wire.metadata")


def _verify(fields: Fields, given: Mapping[bytes, bytes], repeated: set[bytes]) -> None:
    if repeated & _ONCE:
        raise _refused(f"{min(repeated & _ONCE).decode()} is given more than once")
    _verify_names(fields)
    if repeated & _PSEUDO or not given.keys() >= {b":method", b":scheme", b":path"}:
        raise _refused("the request has no method, scheme or path, or more than one")
    if given[b":method"] != b"POST":
        raise NotAPost("A call is a POST.", rule="wire.metadata")
    if given[b":scheme"] not in _SCHEMES or not _PATH.fullmatch(given[b":path"]):
        raise _refused("the scheme or the path is not one that a call has")
    if not _CONTENT.fullmatch(given.get(b"content-type", b"")):
        raise NotACall("This port takes gRPC only.", reason="the content type is not gRPC's", rule="wire.metadata")
    if given.get(b"te") != b"trailers":
        raise _refused("the client does not say that it takes trailers, as all of gRPC do")


def _verify_names(fields: Fields) -> None:
    ordinary = False
    for name, value in fields:
        if name.startswith(b":"):
            if ordinary or name not in _PSEUDO:
                raise _refused("a pseudo header field is unknown, or stands behind others")
        else:
            ordinary = True
            if name in _OF_ONE_HOP or not _NAME.fullmatch(name):
                raise _refused("a header field has a name that none may have")
        if not _VALUE.fullmatch(value):
            raise _refused("a header field has a value that none may have")


def _timeout(value: bytes | None) -> float | None:
    if value is None:
        return None
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise _refused("grpc-timeout is not a time")
    return int(match[1]) * _UNITS[match[2]]


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not _LENGTH.fullmatch(value):
        raise _refused("content-length is not a length")
    return int(value)


def rendered_timeout(seconds: float) -> bytes:
    """Return a time as `grpc-timeout` has it: at most eight digits, never more than was given."""
    for unit, length in ((b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0)):
        number = int(seconds / length)
        if number < _MOST_UNITS:
            return b"%d%b" % (number, unit)
    return b"%dS" % (_MOST_UNITS - 1)


_MOST_UNITS = 10**8


def _refused(reason: str) -> BadRequest:
    return BadRequest("The call's metadata is not acceptable.", reason=reason, rule="wire.metadata")
