"""The vigil: whether anybody looks at what is served."""

from __future__ import annotations

from collections.abc import Iterator

from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told

KEY = "guard.verify_interval"


def _nobody(told: Told) -> Iterator[Hit]:
    if not told.settings.limits.verify_interval:
        yield Hit("`guard.verify_interval=0`: nobody looks whether what is served stays what was verified", KEY)


RULES = (
    Rule(
        "TSG120",
        Severity.MEDIUM,
        "a model that is changed while it serves is found at the next start, and runs until then",
        "leave the key out (a round costs little, see drift.md), or have `tsguard status --verify` run by a timer",
        ("H20",),
        _nobody,
    ),
)
