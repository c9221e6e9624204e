"""A handler that answers as KServe does (version 2 of its protocol): each tensor comes back as it went in."""

from __future__ import annotations

import json
from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[str]:
    """Answer each request with its own tensors."""
    return [] if data is None else [_answer(row, context) for row in data]


def _answer(row: dict[str, Any], context: Any) -> str:
    asked = row.get("body") or row.get("data")
    asked = asked if isinstance(asked, dict) else json.loads(bytes(asked))
    version = context.manifest["model"]["modelVersion"]
    return json.dumps(
        {"id": asked["id"], "model_name": asked["model_name"], "model_version": version, "outputs": asked["inputs"]}
    )
