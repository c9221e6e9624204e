"""The entry: what one line of the record says.

There is no I/O here, and no clock: an entry comes with its time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from torchserve_guard.access import Decision, Operation, Principal
from torchserve_guard.origin import redacted

LONGEST_TEXT = 1024

Value = str | int | float | bool | None | list[str] | dict[str, str] | dict[str, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: `time` in seconds since the epoch, `event` a word such as `start`, `request`, `refusal`."""

    time: float
    event: str
    fields: Mapping[str, Value] = field(default_factory=dict)


def render(entry: Entry, sequence: int) -> bytes:
    """Return the entry as one line of JSON: ASCII only, so that no byte of a client's reaches a terminal raw."""
    document = {
        "time": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "sequence": sequence,
        "event": entry.event,
        **{key: _shortened(value) for key, value in entry.fields.items() if value is not None},
    }
    return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def _shortened(value: Value) -> Value:
    """Return the value with long text cut, and without what in an address opens something.

    A client decides how long a target is, not how fast the disk fills.
    """
    if isinstance(value, dict):
        return cast("Value", {key: _shortened(one) for key, one in value.items()})
    if not isinstance(value, str):
        return value
    told = redacted(value)
    return told if len(told) <= LONGEST_TEXT else told[:LONGEST_TEXT] + "..."


def of_request(
    event: str, time: float, principal: Principal, operation: Operation, decision: Decision, **more: Value
) -> Entry:
    """Return the entry of a request that was understood and decided."""
    fields: dict[str, Value] = {
        "principal": principal.name,
        "action": operation.action.value,
        "resource": str(operation.resource),
        "parameters": dict(operation.parameters) if operation.action.changes else None,
        "decision": decision.effect.value,
        "rules": sorted(decision.rules),
        **more,
    }
    return Entry(time, event, fields)
