"""The models that a key names, as they are served: all of them, none, or these."""

from __future__ import annotations

import re

MODEL_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_@+-]|\.(?!\.)){0,127}")
"""The names that a call may carry: what can be asked for can be named (`wire.parameters`)."""

_REMEDY = "name models as they are served, with commas between, or write `*` for all or `none`"


def parse(text: str) -> frozenset[str] | None:
    """Return the names, None for all of them. Raises `ValueError`."""
    parts = [part.strip() for part in text.split(",")]
    if parts == ["*"]:
        return None
    if parts == ["none"]:
        return frozenset()
    for part in parts:
        _verify(part)
    return frozenset(parts)


def _verify(part: str) -> None:
    if not part:
        raise ValueError(f"leaves a name empty; {_REMEDY}")
    # INVARIANT: what could mean all or none beside names means nothing: neither reading is taken.
    if part in {"*", "none"}:
        raise ValueError(f"holds `{part}` beside names; {_REMEDY}")
    if MODEL_NAME.fullmatch(part) is None:
        raise ValueError(f"holds `{part}`, which is not the name of a model; {_REMEDY}")
