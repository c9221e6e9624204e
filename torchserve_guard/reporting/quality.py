"""Code quality: outcomes as the list that GitLab shows in a merge request. Pure.

GitLab's documentation, "Code Quality report format": a part of Code Climate's, every field of it needed.
"""

from __future__ import annotations

from torchserve_guard.escape import printable
from torchserve_guard.findings import Severity
from torchserve_guard.reporting.account import Account
from torchserve_guard.reporting.document import rendered
from torchserve_guard.reporting.place import Fingerprints, below, location_of

SEVERITIES = {
    Severity.CRITICAL: "blocker",
    Severity.HIGH: "critical",
    Severity.MEDIUM: "major",
    Severity.LOW: "minor",
    Severity.INFO: "info",
}


def as_code_quality(account: Account) -> str:
    """Return the list of findings; what is waived is left out, since GitLab has no word for it."""
    fingerprints = Fingerprints(account.root)
    rows: list[object] = []
    for outcome in account.outcomes:
        for finding in outcome.report.findings:
            place = location_of(finding, outcome.report.target)
            named = fingerprints.of(finding, place)
            if finding.waiver is None:
                rows.append(
                    {
                        "description": printable(f"{finding.message}; remedy: {finding.remedy}"),
                        "check_name": finding.rule,
                        "fingerprint": named,
                        "severity": SEVERITIES[finding.severity],
                        "location": {
                            "path": printable(below(account.root, place.path) or place.path),
                            "lines": {"begin": max(place.line or 1, 1)},
                        },
                    }
                )
    return rendered(rows)
