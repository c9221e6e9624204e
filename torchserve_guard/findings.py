"""What was found: severity, location, remedy, and the report that collects them.

Pure: no I/O, no clock, no environment.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """Where: a file or archive, and in it a line (from 1) or a member."""

    path: str
    line: int | None = None
    member: str | None = None

    def __str__(self) -> str:
        """Return `path`, `path:line` or `path!member`."""
        if self.line is not None:
            return f"{self.path}:{self.line}"
        return self.path if self.member is None else f"{self.path}!{self.member}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, and what to do about it."""

    rule: str
    severity: Severity
    message: str
    remedy: str
    location: Location | None = None
    digest: str | None = None
    key: str | None = None


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
        """Return the findings that stop a start at this threshold."""
        return tuple(finding for finding in self.findings if finding.severity >= threshold)
