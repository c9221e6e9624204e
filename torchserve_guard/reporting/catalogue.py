"""The catalogue: what each rule looks at and why, as `docs/checks.md` has it. Pure.

`checks.md` beside this file is that document: what a report says of a rule and what is documented are one text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

DOCUMENT = "docs/checks.md"
CONFIG = "TSG-CONFIG"
VERIFY = "TSG-VERIFY"
FAILED = "TSG-FAILED"
SCANNED = "TSG-SCAN-"
_SECTION = re.compile(r"^## (TSG\S+)\n(.*?)(?=^#{1,2} |\Z)", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^(```.*?^```|(?: {4}.*\n?)+)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it looks at, why, what to do, and its whole section in Markdown."""

    identifier: str
    looks_at: str
    why: str
    remedy: str
    section: str


FAILURES: Mapping[str, Rule] = {
    rule.identifier: rule
    for rule in (
        Rule(
            CONFIG,
            "What the configuration may not say at all.",
            "A start would refuse it with exit code 2.",
            "The message says what to write.",
            "What the configuration may not say at all; a start would refuse it with exit code 2.",
        ),
        Rule(
            VERIFY,
            "An archive that is not what the manifest promises.",
            "A start would refuse it with exit code 4.",
            "Find out who changed it; put back the archive that was reviewed, or review and list this one.",
            "An archive that is not what the manifest promises; a start would refuse it with exit code 4.",
        ),
        Rule(
            FAILED,
            "A check that could not be made.",
            "What was not checked is not known to be good.",
            "The message says what stood in the way.",
            "A check that could not be made.",
        ),
    )
}


def parse(document: str) -> dict[str, Rule]:
    """Return the rules that the document has a section for, in its order."""
    return {name: _rule(name, text.strip()) for name, text in _SECTION.findall(document)}


def _rule(name: str, text: str) -> Rule:
    return Rule(
        name, _part(text, "Looks at", "Severity"), _part(text, "Why.", "Remedy."), _part(text, "Remedy.", None), text
    )


def _part(text: str, start: str, end: str | None) -> str:
    """Return the sentences between two bold words, on one line, as they read without Markdown."""
    _, _, after = _FENCE.sub("", text).partition(f"**{start}**")
    part = after.partition(f"**{end}**")[0] if end is not None else after
    return " ".join(part.replace("`", "").split())


def link(rule: str, home: str | None = None) -> str:
    """Return where the rule is described: below `home`, or in the documents that come with the guard."""
    anchor = "errors" if rule in FAILURES else rule.lower()
    return f"{home or DOCUMENT}#{anchor}"


def described(rule: str, rules: Mapping[str, Rule]) -> Rule:
    """Return what is known of a rule; of one that is in no document, its name."""
    return rules.get(rule) or FAILURES.get(rule) or Rule(rule, rule, "", "", rule)
