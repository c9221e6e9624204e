"""The document: outcomes as one JSON document with stable field names. Pure."""

from __future__ import annotations

import json

from torchserve_guard.findings import Finding, Waiver
from torchserve_guard.reporting.account import Account, Outcome

SCHEMA = "torchserve_guard/report/v1"
SEVERAL = "torchserve_guard/reports/v1"


def as_json(account: Account) -> str:
    """Return the report of one configuration, or for several a list of such reports below `runs`."""
    runs = [_run(outcome) for outcome in account.outcomes]
    if account.several or len(runs) != 1:
        code = account.exit_code
        document = {"schema": SEVERAL, "passed": code == 0, "exit_code": code, "runs": runs}
    else:
        document = {"schema": SCHEMA, **runs[0]}
    return rendered(document)


def rendered(document: object) -> str:
    """Return the JSON of a document. Half a surrogate pair, which no JSON reader need accept, is told as its escape."""
    return json.dumps(_sound(document), indent=2, ensure_ascii=True) + "\n"


def _sound(value: object) -> object:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_sound(name): _sound(one) for name, one in value.items()}
    return [_sound(one) for one in value] if isinstance(value, list) else value


def _run(outcome: Outcome) -> dict[str, object]:
    report = outcome.report
    return {
        "target": report.target,
        "fail_on": str(outcome.threshold),
        "passed": outcome.exit_code == 0,
        "exit_code": outcome.exit_code,
        "subjects": [
            {"name": subject.name, "sha256": subject.digest, "size": subject.size, "state": subject.state}
            for subject in report.subjects
        ],
        "findings": [_finding(finding) for finding in report.findings],
    }


def _finding(finding: Finding) -> dict[str, object]:
    location = finding.location
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "state": "waived" if finding.waiver is not None else "open",
        "message": finding.message,
        "remedy": finding.remedy,
        "key": finding.key,
        "digest": finding.digest,
        "path": location.path if location else None,
        "line": location.line or None if location else None,
        "member": location.member if location else None,
        "waiver": _waiver(finding.waiver) if finding.waiver is not None else None,
    }


def _waiver(waiver: Waiver) -> dict[str, object]:
    return {
        "owner": waiver.owner,
        "reason": waiver.reason,
        "expires": waiver.expires.isoformat(),
        "path": waiver.written.path,
        "line": waiver.written.line,
    }
