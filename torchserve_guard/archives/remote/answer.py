"""The answer: what the head of an HTTP response says of the body that follows, taken or refused. Pure.

RFC 9110 sections 13.1.5 (If-Range), 14 (ranges), 15.3.7 (206); nothing is believed that was not asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import NoReturn

from torchserve_guard.archives.remote.failure import refused, unfetched
from torchserve_guard.origin import Origin, redacted

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LENGTH = re.compile(r"[0-9]{1,19}")
_STRONG = re.compile(r'"[\x21\x23-\x7e]{0,200}"')
_DATE = re.compile(r"[A-Za-z]{3}, [0-9]{2} [A-Za-z]{3} [0-9]{4} [0-9:]{8} GMT")
LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: the rest from `offset` of the file with this validator; `size` is the listed one, if any."""

    origin: Origin
    offset: int
    validator: str | None
    size: int | None
    largest: int


@dataclass(frozen=True, slots=True)
class Body:
    """What follows: from `offset`, of `total` bytes where that is told, with the validator to continue by."""

    offset: int
    total: int | None
    validator: str | None


def read(status: int, headers: Message, asked: Asked) -> Body | None:
    """Return what follows, None when what was there cannot be continued; raise `VerificationError` or `Unfetched`."""
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked.offset:
        return None
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        _verify_no_redirect(status, headers, asked)
        unfetched(asked.origin, f"the host answers {status}")
    _verify_plain(headers, asked)
    body = _whole(headers) if status == HTTPStatus.OK else _rest(headers, asked)
    _verify_size(body.total, asked)
    return body


def validator_of(headers: Message) -> str | None:
    """Return what a file can be continued by: a strong ETag, or the time of its last change."""
    etag, changed = headers.get("ETag", ""), headers.get("Last-Modified", "")
    if _STRONG.fullmatch(etag):
        return etag
    return changed if _DATE.fullmatch(changed) and not etag else None


def _whole(headers: Message) -> Body:
    return Body(0, _length(headers), validator_of(headers))


def _rest(headers: Message, asked: Asked) -> Body:
    told = headers.get("Content-Range", "")
    found = _RANGE.fullmatch(told)
    if not asked.offset or found is None:
        _lies(asked, f"the host answers with the part `{told[:LONGEST_SHOWN]}`, which was not asked for")
    first, last, total = (int(number) for number in found.groups())
    length = _length(headers)
    if first != asked.offset or last != total - 1 or length not in {None, total - first}:
        _lies(asked, f"the host was asked for what follows byte {asked.offset}, and answers with `{told}`")
    if "ETag" in headers and validator_of(headers) != asked.validator:
        _lies(asked, "the host continues another file than the one that was begun")
    return Body(first, total, asked.validator)


def _lies(asked: Asked, why: str) -> NoReturn:
    refused(asked.origin, why)


def _length(headers: Message) -> int | None:
    told = headers.get("Content-Length")
    return int(told) if told is not None and "Transfer-Encoding" not in headers else None


def _verify_no_redirect(status: int, headers: Message, asked: Asked) -> None:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        where = redacted(headers.get("Location", "nowhere"))[:LONGEST_SHOWN]
        refused(
            asked.origin,
            f"the host sends us on to `{where}` ({status}), and redirects are not followed: name the address where the "
            "archive really is, and let `allowed_urls` allow it",
        )


def _verify_plain(headers: Message, asked: Asked) -> None:
    for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        for told in headers.get_all(name, []):
            if told.strip().lower() != plain:
                refused(asked.origin, f"the host sends `{name}: {told[:LONGEST_SHOWN]}`, which was not asked for")
    lengths = headers.get_all("Content-Length", [])
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(one) for one in lengths):
        refused(asked.origin, "the host tells a length that is none, or more than one")


def _verify_size(total: int | None, asked: Asked) -> None:
    if total is None:
        return
    if asked.size is not None and total != asked.size:
        refused(asked.origin, f"has {total} bytes, and the manifest lists {asked.size}")
    if total > asked.largest:
        refused(asked.origin, f"has {total} bytes, more than {asked.largest} (`guard.fetch_max_size`)")
