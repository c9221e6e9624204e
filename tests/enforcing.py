"""An enforcer as the guard makes one, with nothing behind it that registers models."""

from __future__ import annotations

import time
from typing import Any

from torchserve_guard.access import Operation
from torchserve_guard.audit import AuditLog
from torchserve_guard.identity import KeyFile
from torchserve_guard.policy import Access, decide
from torchserve_guard.proxy import Enforcer


async def as_it_is(operation: Operation) -> Operation:
    """Let a change go on as it was asked for."""
    return operation


async def unnoticed(_operation: Operation, _status: int | None) -> None:
    """Take no note of what became of a change."""


def enforcer(access: Access, keys: KeyFile, audit: AuditLog, **more: Any) -> Enforcer:
    """Return an enforcer with these keys and this record; `prepare`, `settled` and the like where they matter."""
    steps = {"prepare": as_it_is, "settled": unnoticed, **more}
    return Enforcer(
        access=access,
        identify=keys.identify,
        decide=decide,
        audit=audit,
        rotate=keys.rotate,
        now=time.time,
        **steps,
    )
