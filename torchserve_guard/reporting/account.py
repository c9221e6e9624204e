"""The account: what came of checking one configuration, or several, and all that telling it takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torchserve_guard.errors import ConfigError, GuardError, VerificationError
from torchserve_guard.findings import Finding, Location, Report, Severity, Subject
from torchserve_guard.reporting.catalogue import CONFIG, FAILED, VERIFY, Rule

FINDINGS = 3
REMEDIES = {
    CONFIG: "correct what the message names",
    VERIFY: "put back the archive that was reviewed, or review and list this one",
    FAILED: "see the message",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of checking one target: its report, the threshold, and the error that cut the check short, if any."""

    report: Report
    threshold: Severity
    error: GuardError | None = None

    @classmethod
    def of_error(
        cls,
        target: str,
        error: GuardError,
        threshold: Severity,
        found: Iterable[Finding] = (),
        subjects: tuple[Subject, ...] = (),
    ) -> Outcome:
        """Return the outcome of a check that ended in an error: each complaint is told like a finding."""
        return cls(Report(target, (*found, *complaints(target, error)), subjects), threshold, error)

    @property
    def exit_code(self) -> int:
        """Return the code by which a check of this target alone ends."""
        if self.error is not None:
            return self.error.exit_code
        return FINDINGS if self.report.at_or_above(self.threshold) else 0


@dataclass(frozen=True, slots=True)
class Account:
    """The outcomes, and how to tell them.

    `several` says that several configurations, or a folder of them, were asked for. `root` is the folder from which
    paths are told (the checkout, in a pipeline), `home` where the documents are published.
    """

    outcomes: tuple[Outcome, ...]
    version: str
    root: str
    several: bool = False
    home: str | None = None
    rules: Mapping[str, Rule] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """Return the worst code: 4 (verification), then 3 (findings), then 2 (configuration), then 0."""
        return max((outcome.exit_code for outcome in self.outcomes), default=0)


def complaints(target: str, error: GuardError) -> tuple[Finding, ...]:
    """Return each complaint of an error as a finding: critical, since nothing starts with it."""
    rule = CONFIG if isinstance(error, ConfigError) else VERIFY if isinstance(error, VerificationError) else FAILED
    told = error.complaints if isinstance(error, ConfigError | VerificationError) else (str(error),)
    return tuple(
        Finding(rule, Severity.CRITICAL, message, REMEDIES[rule], place)
        for place, message in (_placed(target, complaint) for complaint in told)
    )


def _placed(target: str, complaint: str) -> tuple[Location, str]:
    """Return where a complaint says it is, and the rest of it; the target where it names no file."""
    where, separator, rest = complaint.removeprefix(target).partition(": ")
    if complaint.startswith(target) and separator and (not where or where.startswith(":")):
        path, line = target, where.removeprefix(":")
    else:
        where, separator, rest = complaint.partition(": ")
        path, _, line = where.rpartition(":") if where.rpartition(":")[2].isdecimal() else (where, "", "")
        if not (separator and path.startswith("/") and "`" not in path and path.isprintable()):
            return Location(target), complaint
    number = int(line) if line.isascii() and line.isdecimal() and len(line) < len("1000000000") else None
    return Location(path, number), rest
