"""JUnit XML: one suite for each configuration, one case for each rule and each archive. Pure.

Written in the dialect that Jenkins and GitLab read: at most one verdict below a case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torchserve_guard.escape import markup
from torchserve_guard.findings import Finding, Severity, Subject
from torchserve_guard.reporting.account import Account, Outcome
from torchserve_guard.reporting.catalogue import FAILURES, SCANNED, link


@dataclass(frozen=True, slots=True)
class Case:
    """One test case: what was found, and what it comes to: `error`, `failure`, `skipped` or nothing."""

    name: str
    findings: tuple[Finding, ...]
    verdict: str | None


def as_junit(account: Account) -> str:
    """Return the XML of all outcomes."""
    suites = [(outcome, list(_cases(account, outcome))) for outcome in account.outcomes]
    every = [case for _, cases in suites for case in cases]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<testsuites name="tsguard check"{_counts(every)}>']
    for outcome, cases in suites:
        lines.append(f'  <testsuite name="{markup(outcome.report.target)}"{_counts(cases)}>')
        lines += [line for case in cases for line in _case(case, outcome.report.target, account.home)]
        lines.append("  </testsuite>")
    return "\n".join((*lines, "</testsuites>")) + "\n"


def _counts(cases: list[Case]) -> str:
    verdicts = [case.verdict for case in cases]
    failed, errors, skipped = (verdicts.count(verdict) for verdict in ("failure", "error", "skipped"))
    return f' tests="{len(cases)}" failures="{failed}" errors="{errors}" skipped="{skipped}"'


def _cases(account: Account, outcome: Outcome) -> Iterator[Case]:
    """Return a case for each rule of the settings and each archive; of a check that was cut short, what it found."""
    evaluated = () if outcome.error is not None else account.rules
    found: dict[str, list[Finding]] = {rule: [] for rule in evaluated if not rule.startswith(SCANNED)}
    found |= {subject.name: [] for subject in outcome.report.subjects}
    for finding in outcome.report.findings:
        found.setdefault(_name(finding, outcome.report.subjects), []).append(finding)
    for name, findings in found.items():
        yield Case(name, tuple(findings), _verdict(findings, outcome.threshold))


def _name(finding: Finding, subjects: Iterable[Subject]) -> str:
    """Return the case of a finding: its archive (of two that are alike, the one it is told of), or else its rule."""
    same = [subject.name for subject in subjects if subject.digest == finding.digest]
    place = finding.location.path if finding.location is not None else ""
    return next((name for name in same if place.endswith(f"/{name}")), same[0] if same else finding.rule)


def _verdict(findings: list[Finding], threshold: Severity) -> str | None:
    standing = [finding for finding in findings if finding.waiver is None]
    if any(finding.rule in FAILURES for finding in standing):
        return "error"
    if any(finding.severity >= threshold for finding in standing):
        return "failure"
    return "skipped" if findings and not standing else None


def _case(case: Case, target: str, home: str | None) -> Iterator[str]:
    head = f'    <testcase name="{markup(case.name)}" classname="{markup(target)}"'
    if not case.findings:
        yield head + "/>"
        return
    yield head + ">"
    worst = max(case.findings, key=lambda finding: (finding.waiver is None, finding.severity))
    said = "\n".join(_said(finding, home) for finding in case.findings)
    if case.verdict == "skipped":
        yield f'      <skipped message="{markup(_waived(worst))}"/>'
    elif case.verdict is not None:
        attributes = f'message="{markup(worst.message)}" type="{markup(worst.rule)}"'
        yield f"      <{case.verdict} {attributes}>{said}</{case.verdict}>"
    if case.verdict in {None, "skipped"}:
        yield f"      <system-out>{said}</system-out>"
    yield "    </testcase>"


def _said(finding: Finding, home: str | None) -> str:
    where = f"{finding.location}: " if finding.location is not None else ""
    waived = f"; {_waived(finding)}" if finding.waiver is not None else ""
    line = f"{finding.severity} {finding.rule} {where}{finding.message}{waived}; remedy: {finding.remedy}"
    return markup(f"{line}; see {link(finding.rule, home)}")


def _waived(finding: Finding) -> str:
    waiver = finding.waiver
    return "" if waiver is None else f"waived by {waiver.owner} until {waiver.expires}: {waiver.reason}"
