"""The text: a report for people, grouped by file, worst first, with the verdict at its end. Pure.

What stands in it of names and words from outside never makes a line or steers the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torchserve_guard.escape import printable
from torchserve_guard.findings import Finding, Report, Severity
from torchserve_guard.reporting.account import Account, Outcome
from torchserve_guard.reporting.catalogue import link

PALETTE: Mapping[str, str] = {
    "critical": "bold white on red",
    "high": "bold red",
    "medium": "yellow",
    "low": "cyan",
    "info": "dim",
    "waived": "dim",
    "place": "bold",
    "faint": "dim",
    "good": "green",
    "bad": "bold red",
}
"""The styles of the parts of a report, in the words of `rich`."""

Paint = Callable[[str, str], str]


def plain(_style: str, text: str) -> str:
    """Return the text as it is: no colours."""
    return text


def as_text(report: Report, threshold: Severity, paint: Paint = plain, home: str | None = None) -> str:
    """Return the report: subjects, findings by file and worst first, and the verdict."""
    return "\n".join((*_body(report, paint, home), _verdict(report, threshold, paint))) + "\n"


def told(account: Account, paint: Paint = plain) -> str:
    """Return all reports, and behind several the sum of them."""
    return _told(account, account.outcomes, paint)


def brief(account: Account) -> str:
    """Return, of several reports, those that do not pass and the sum of all."""
    return _told(account, [one for one in account.outcomes if one.exit_code or not account.several], plain)


def _told(account: Account, outcomes: Iterable[Outcome], paint: Paint) -> str:
    blocks = [_outcome(outcome, paint, account.home) for outcome in outcomes]
    return "\n".join([*blocks, *([_sum(account, paint) + "\n"] if account.several else [])])


def _outcome(outcome: Outcome, paint: Paint, home: str | None) -> str:
    if outcome.error is None:
        return as_text(outcome.report, outcome.threshold, paint, home)
    failed = paint("bad", f"{printable(outcome.report.target)}: refused, exit code {outcome.exit_code}")
    return "\n".join((*_body(outcome.report, paint, home), failed)) + "\n"


def _body(report: Report, paint: Paint, home: str | None) -> Iterable[str]:
    for one in report.subjects:
        subject = f"  {printable(one.name)}  sha256:{one.digest}  {one.size:,} bytes"
        yield paint("good" if one.state == "verified" else "medium", printable(one.state)) + subject
    for place, findings in _groups(report):
        yield paint("place", place)
        for finding in findings:
            yield from _finding(finding, paint, home)


def _groups(report: Report) -> Iterable[tuple[str, list[Finding]]]:
    """Return the findings by file, the file with the worst first; what is waived comes last everywhere."""
    groups: dict[str, list[Finding]] = {}
    for finding in sorted(report.findings, key=_rank):
        path = finding.location.path if finding.location is not None else report.target
        groups.setdefault(printable(path), []).append(finding)
    return groups.items()


def _rank(finding: Finding) -> tuple[bool, int]:
    return finding.waiver is not None, -finding.severity


def _finding(finding: Finding, paint: Paint, home: str | None) -> Iterable[str]:
    waiver = finding.waiver
    where = f"{printable(str(finding.location))}: " if finding.location is not None else ""
    state = f"{finding.severity!s:8}" if waiver is None else "waived  "
    yield f"  {paint(state.strip(), state)}  {finding.rule}  {where}{printable(finding.message)}"
    if waiver is not None:
        why = f"by {waiver.owner} until {waiver.expires} ({waiver.written}): {waiver.reason}"
        yield "            " + paint("faint", f"waived {printable(why)}")
        return
    yield f"            remedy: {printable(finding.remedy)}"
    yield "            " + paint("faint", f"see: {link(finding.rule, home)}")


def _verdict(report: Report, threshold: Severity, paint: Paint) -> str:
    stopping = len(report.at_or_above(threshold))
    waived = sum(finding.waiver is not None for finding in report.findings)
    verified = sum(subject.state == "verified" for subject in report.subjects)
    counted = f"{len(report.findings)} findings" + (f" ({waived} waived)" if waived else "")
    verdict = f"{stopping} stop a start" if stopping else "none stops a start"
    said = f"{printable(report.target)}: {verified} archives verified, {counted}, {verdict}"
    return paint("bad" if stopping else "good", said)


def _sum(account: Account, paint: Paint) -> str:
    codes = [outcome.exit_code for outcome in account.outcomes]
    failed = ", ".join(f"{codes.count(code)} with exit code {code}" for code in sorted({*codes} - {0}, reverse=True))
    good = f"{len(codes)} configurations: {codes.count(0)} pass"
    return paint("bad" if failed else "good", f"{good}, {failed}" if failed else good)
