"""SARIF 2.1.0: outcomes as one run that code scanning accepts. Pure.

The standard: docs.oasis-open.org/sarif/sarif/v2.1.0. GitHub's own limits: "SARIF support for code scanning" in its
documentation; it counts results in runs, shows them at one location, and ignores `suppressions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torchserve_guard.escape import linkless, printable
from torchserve_guard.findings import Finding, Severity
from torchserve_guard.reporting.account import Account, Outcome
from torchserve_guard.reporting.catalogue import FAILURES, Rule, described, link
from torchserve_guard.reporting.document import rendered
from torchserve_guard.reporting.place import Fingerprints, below, location_of, uri

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
ROOT = "%SRCROOT%"
MOST_RESULTS = 25_000
LONGEST_DESCRIPTION = 1024
LEVELS = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
    Severity.INFO: "note",
}
# Above 9.0 GitHub says critical, from 7.0 high, from 4.0 medium, below low.
SCORES = {Severity.CRITICAL: "9.5", Severity.HIGH: "8.0", Severity.MEDIUM: "5.5", Severity.LOW: "2.5"}


def as_sarif(account: Account) -> str:
    """Return one run with the results of all targets, worst first, and at most as many as GitHub takes."""
    found = sorted(
        ((finding, outcome) for outcome in account.outcomes for finding in outcome.report.findings),
        key=lambda one: (one[0].waiver is not None, -one[0].severity),
    )
    kept = found[:MOST_RESULTS]
    worst = {finding.rule: finding.severity for finding, _ in sorted(kept, key=lambda one: one[0].severity)}
    names = list(dict.fromkeys((*account.rules, *FAILURES, *worst)))
    run = {
        "tool": {"driver": _driver(account, names, worst)},
        "automationDetails": {"id": "tsguard/"},
        "invocations": [_invocation(account, len(found) - len(kept))],
        "originalUriBaseIds": {ROOT: {"uri": _folder(account.root)}},
        "columnKind": "unicodeCodePoints",
        "results": list(_results(account, kept, {name: n for n, name in enumerate(names)})),
    }
    return rendered({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _folder(root: str) -> str:
    return f"file://{uri(root).rstrip('/')}/"


def _driver(account: Account, names: Iterable[str], worst: dict[str, Severity]) -> dict[str, object]:
    return {
        "name": "tsguard",
        "version": account.version,
        "rules": [_rule(described(name, account.rules), worst.get(name), account.home) for name in names],
    }


def _rule(rule: Rule, worst: Severity | None, home: str | None) -> dict[str, object]:
    """Return what the viewer shows of a rule: the score is that of its worst finding here."""
    severity = Severity.MEDIUM if worst is None else worst
    help_text = " ".join(filter(None, (rule.looks_at, rule.why, rule.remedy))) + f" See {link(rule.identifier, home)}"
    row: dict[str, object] = {
        "id": rule.identifier,
        "shortDescription": {"text": _described(rule.looks_at or rule.identifier)},
        "fullDescription": {"text": _described(f"{rule.looks_at or rule.identifier} {rule.why}".strip())},
        "help": {"text": help_text, "markdown": f"{rule.section}\n\nSee {link(rule.identifier, home)}"},
        "defaultConfiguration": {"level": LEVELS[severity]},
        "properties": {"tags": ["security"], "precision": "high"}
        | ({"security-severity": SCORES[severity]} if severity in SCORES else {}),
    }
    return row | ({"helpUri": link(rule.identifier, home)} if home is not None else {})


def _described(text: str) -> str:
    return text if len(text) <= LONGEST_DESCRIPTION else text[: LONGEST_DESCRIPTION - 3] + "..."


def _invocation(account: Account, left_out: int) -> dict[str, object]:
    row: dict[str, object] = {
        "executionSuccessful": all(outcome.error is None for outcome in account.outcomes),
        "exitCode": account.exit_code,
        "workingDirectory": {"uri": _folder(account.root)},
    }
    if left_out:
        text = f"{left_out} results left out: code scanning takes no more than {MOST_RESULTS} in a run"
        row["toolExecutionNotifications"] = [{"level": "warning", "message": {"text": text}}]
    return row


def _results(
    account: Account, found: Iterable[tuple[Finding, Outcome]], index: dict[str, int]
) -> Iterator[dict[str, object]]:
    fingerprints = Fingerprints(account.root)
    for finding, outcome in found:
        place = location_of(finding, outcome.report.target)
        named = fingerprints.of(finding, place)
        yield {
            "ruleId": finding.rule,
            "ruleIndex": index[finding.rule],
            "level": LEVELS[finding.severity] if finding.waiver is None else "note",
            "message": {"text": linkless(f"{finding.message}. Remedy: {finding.remedy}.")},
            "locations": [_location(account.root, place.path, place.line, place.member)],
            "partialFingerprints": {"primaryLocationLineHash": named, "tsguardFinding/v1": named},
            # 3.27.23: either every result of a run has this property or none has.
            "suppressions": [_suppression(finding)] if finding.waiver is not None else [],
            "properties": {"severity": str(finding.severity), "target": printable(outcome.report.target)},
        }


def _location(root: str, path: str, line: int | None, member: str | None) -> dict[str, object]:
    relative = below(root, path)
    artifact = {"uri": uri(relative), "uriBaseId": ROOT} if relative is not None else {"uri": f"file://{uri(path)}"}
    first = max(line or 1, 1)
    region = {"startLine": first, "startColumn": 1, "endLine": first, "endColumn": 2}
    found: dict[str, object] = {"physicalLocation": {"artifactLocation": artifact, "region": region}}
    if member is not None:
        found["logicalLocations"] = [{"fullyQualifiedName": printable(f"{path}!{member}"), "kind": "member"}]
    return found


def _suppression(finding: Finding) -> dict[str, object]:
    waiver = finding.waiver
    assert waiver is not None  # noqa: S101 - the caller has looked
    said = f"{waiver.reason} ({waiver.owner}, until {waiver.expires}; {waiver.written})"
    return {"kind": "external", "status": "accepted", "justification": linkless(said)}
