"""The reports: what a porter tells the guard, as documents and back. Pure.

A porter stands where the network is, and may not be itself any more: each parser raises `ValueError` for whatever a
porter does not say.
"""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from typing import NamedTuple

from torchserve_guard import errors
from torchserve_guard.access import CERTIFIED, Principal
from torchserve_guard.audit import Entry
from torchserve_guard.errors import Refusal
from torchserve_guard.identity import Certificate
from torchserve_guard.porters.channel import Document
from torchserve_guard.porters.orders import BYTES
from torchserve_guard.proxy import Stats
from torchserve_guard.proxy.enforcement import Asked
from torchserve_guard.wire import Listener

MOST_FIELDS = 64
# What a porter has to say for the record: who was turned away. The rest is recorded where it is decided.
EVENTS = frozenset({"refusal", "refusals-summarized"})
LARGEST = 1 << 62
# What `audit.entry.render` says itself: nobody else says when, in which order, and what it was.
STAMPED = frozenset({"time", "sequence", "event", "process"})
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_REFUSALS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Refusal) and kind is not Refusal
}


class Wanted(NamedTuple):
    """A management request that came in at a porter; `ticket` is the porter's name for it."""

    ticket: int
    asked: Asked
    body: bytes | None


def took(number: int, stats: Stats | None) -> Document:
    """Return the report that an order was carried out."""
    return {"report": "took", "number": number, "stats": None if stats is None else asdict(stats)}


def entry(told: Entry) -> Document:
    """Return the report of what is to be recorded."""
    return {"report": "entry", "event": told.event, "fields": dict(told.fields)}


def wanted(want: Wanted) -> Document:
    """Return the report of a management request."""
    asked = want.asked
    return {
        "report": "wanted",
        "ticket": want.ticket,
        "listener": asked.listener.value,
        "peer": asked.peer,
        "method": asked.method,
        "target": asked.target.decode(BYTES),
        "request_id": asked.request_id.decode(BYTES),
        "authorization": _shown(asked.authorization),
        "certificate": _certificate(asked.certificate),
        "host": _shown(asked.host),
        "from_page": asked.from_page,
        "body": _shown(want.body),
    }


def outcome(ticket: int, status: int | None) -> Document:
    """Return the report of how a permitted request ended."""
    return {"report": "outcome", "ticket": ticket, "status": status}


def granted(ticket: int, line: bytes | None) -> Document:
    """Return the answer to `wanted`: what is to be said upstream, None when it is done."""
    return {"order": "granted", "ticket": ticket, "line": _shown(line)}


def refused(ticket: int, why: Refusal) -> Document:
    """Return the answer to `wanted` that turns it away."""
    told = [type(why).__name__, why.message, why.reason, why.rule]
    return {"order": "refused", "ticket": ticket, "refusal": told}


def number_of(document: Document, name: str = "number") -> int:
    """Return a whole number that is not negative."""
    value = document.get(name)
    if type(value) is not int or not 0 <= value < LARGEST:
        raise ValueError(f"`{name}` is no number")
    return value


def stats_of(document: Document) -> Stats | None:
    """Return what a porter has counted; None when it has no door yet."""
    counted = document.get("stats")
    if counted is None:
        return None
    if not isinstance(counted, dict):
        raise ValueError("`stats` is no object")  # noqa: TRY004 - see `channel`
    return Stats(**{field.name: number_of(counted, field.name) for field in fields(Stats)})


def entry_of(document: Document, now: float) -> Entry:
    """Return an entry: words and numbers, under names that do not pass for the guard's own."""
    event, told = _text(document, "event"), document.get("fields")
    if event not in EVENTS or not isinstance(told, dict) or len(told) > MOST_FIELDS:
        raise ValueError("an entry that is not a porter's to make")
    for name, value in told.items():
        if _NAME.fullmatch(name) is None or name in STAMPED or not (_plain(value) or _plain_object(value)):
            raise ValueError("an entry with a field that is none")
    return Entry(now, event, told)


def _plain(value: object) -> bool:
    return isinstance(value, str | None) or (isinstance(value, int) and 0 <= value < LARGEST)


def _plain_object(value: object) -> bool:
    return isinstance(value, dict) and len(value) <= MOST_FIELDS and all(map(_plain, value.values()))


def wanted_of(document: Document) -> Wanted:
    """Return a management request."""
    asked = Asked(
        listener=Listener(document.get("listener")),
        peer=_text(document, "peer"),
        method=_text(document, "method"),
        target=_bytes(document, "target") or b"",
        request_id=_bytes(document, "request_id") or b"",
        authorization=_bytes(document, "authorization"),
        certificate=_certificate_of(document),
        host=_bytes(document, "host"),
        from_page=document.get("from_page") is not False,
    )
    return Wanted(number_of(document, "ticket"), asked, _bytes(document, "body"))


def outcome_of(document: Document) -> tuple[int, int | None]:
    """Return a ticket and a status."""
    ticket = number_of(document, "ticket")
    return ticket, None if document.get("status") is None else number_of(document, "status")


def line_of(document: Document) -> bytes | None:
    """Return the line in `granted`."""
    return _bytes(document, "line")


def why_of(document: Document) -> Refusal:
    """Return the refusal in `refused`."""
    kind, message, reason, rule = document["refusal"]
    return _REFUSALS.get(kind, errors.Forbidden)(message, reason=reason, rule=rule)


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value.decode(BYTES)


def _text(document: Document, name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is no text")  # noqa: TRY004 - see `channel`
    return value


def _bytes(document: Document, name: str) -> bytes | None:
    return None if document.get(name) is None else _text(document, name).encode(BYTES)


def _certificate(one: Certificate | None) -> Document | None:
    if one is None:
        return None
    return {**asdict(one), "principal": one.principal.name}


def _certificate_of(document: Document) -> Certificate | None:
    told = document.get("certificate")
    if told is None:
        return None
    try:
        # INVARIANT: whoever a porter says that it is, it is nobody who has a key.
        principal = Principal(str(told["principal"]), frozenset({CERTIFIED}))
        dates = float(told["not_before"]), float(told["not_after"])
        return Certificate(principal, tuple(map(str, told["names"])), *dates)
    except (KeyError, TypeError) as error:
        raise ValueError("`certificate` is none") from error
