"""A handler that takes as many seconds as its input says (60 without one)."""

from __future__ import annotations

import time
from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str]:
    """Sleep, then answer `slept`."""
    if data is None:
        return []
    time.sleep(max(_seconds(row) for row in data))
    return ["slept"] * len(data)


def _seconds(row: dict[str, Any]) -> float:
    body = row.get("body", row.get("data"))
    return float(body) if isinstance(body, int | float | str) else float(bytes(body or b"60"))
