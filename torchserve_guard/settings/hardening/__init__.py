"""Hardening: what is acceptable and yet unwise, in a table of rules. `docs/checks.md` has a section for each.

A rule is a row of a module that is called after what it looks at; it looks, and changes nothing.
"""

from torchserve_guard.findings import Finding
from torchserve_guard.settings.hardening import (
    copies,
    effect,
    environment,
    exposure,
    files,
    leftovers,
    networks,
    process,
    secrets,
    sizes,
    sockets,
    sources,
    strangers,
    vigil,
)
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told

__all__ = ["RULES", "Hit", "Rule", "Told", "check"]

ROOMS = (
    *(exposure, strangers, sockets, effect, sources, environment, files),
    *(secrets, sizes, leftovers, process, copies, vigil, networks),
)
RULES: tuple[Rule, ...] = tuple(sorted((rule for room in ROOMS for rule in room.RULES), key=lambda one: one.identifier))


def check(told: Told) -> tuple[Finding, ...]:
    """Return the findings of every rule, in the order of the table."""
    return tuple(finding for rule in RULES for finding in rule.check(told))
