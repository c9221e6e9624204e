"""What was found: severity, location, remedy, and the report that collects them.

Pure: no I/O, no clock, no environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import IntEnum


class Severity(IntEnum):
    """How bad, in order: a start stops at `guard.fail_on` and above."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    def __str__(self) -> str:
        """Return the name as the configuration spells it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Location:
    """Where: a file or archive, and in it a line (from 1; 0 for what no line holds) or a member."""

    path: str
    line: int | None = None
    member: str | None = None

    def __str__(self) -> str:
        """Return `path`, `path:line`, `path!member` or `path!member:line`."""
        place = self.path if self.member is None else f"{self.path}!{self.member}"
        return f"{place}:{self.line}" if self.line else place


@dataclass(frozen=True, slots=True)
class Waiver:
    """A finding that somebody accepted: bound to a rule and to one subject, or to one key with one value.

    `expires` is the last day on which it applies (UTC); `path` narrows it to findings in that one file.
    """

    rule: str
    owner: str
    reason: str
    expires: date
    written: Location
    subject: str | None = None
    key: str | None = None
    value: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, and what to do about it; `waiver` is the one that applies, if any."""

    rule: str
    severity: Severity
    message: str
    remedy: str
    location: Location | None = None
    digest: str | None = None
    key: str | None = None
    waiver: Waiver | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """One archive as the report names it: `state` is `verified`, or what is wrong with it."""

    name: str
    digest: str
    size: int
    state: str = "verified"


@dataclass(frozen=True, slots=True)
class Report:
    """What a preflight found: the findings, the verified subjects, and what was looked at."""

    target: str
    findings: tuple[Finding, ...] = ()
    subjects: tuple[Subject, ...] = ()

    def at_or_above(self, threshold: Severity) -> tuple[Finding, ...]:
        """Return the findings that stop a start at this threshold; what is waived does not."""
        return tuple(one for one in self.findings if one.severity >= threshold and one.waiver is None)
