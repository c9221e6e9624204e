"""Reporting: a report as text for people or as one JSON document.

Pure: it returns text and prints nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from torchserve_guard.findings import Finding, Report, Severity

SCHEMA = "torchserve_guard/report/v1"


def as_text(report: Report, threshold: Severity) -> str:
    """Return the report for a terminal: subjects, findings worst first, and the verdict."""
    lines = [
        f"verified  {subject.name}  sha256:{subject.digest}  {subject.size:,} bytes" for subject in report.subjects
    ]
    lines += [_finding(finding) for finding in sorted(report.findings, key=lambda finding: -finding.severity)]
    stopping = len(report.at_or_above(threshold))
    verdict = f"{stopping} stop a start" if stopping else "none stops a start"
    lines.append(
        f"{report.target}: {len(report.subjects)} archives verified, {len(report.findings)} findings, {verdict}"
    )
    return "\n".join(lines) + "\n"


def _finding(finding: Finding) -> str:
    where = f"{finding.location}: " if finding.location is not None else ""
    return f"{finding.severity!s:8}  {finding.rule}  {where}{finding.message}\n          remedy: {finding.remedy}"


def as_json(report: Report, threshold: Severity) -> str:
    """Return the report as one JSON document with a `schema` field."""
    document = {
        "schema": SCHEMA,
        "target": report.target,
        "fail_on": str(threshold),
        "passed": not report.at_or_above(threshold),
        "subjects": [
            {"name": subject.name, "sha256": subject.digest, "size": subject.size, "state": subject.state}
            for subject in report.subjects
        ],
        "findings": [_document(finding) for finding in report.findings],
    }
    return json.dumps(document, indent=2) + "\n"


def _document(finding: Finding) -> dict[str, object]:
    location = finding.location
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "message": finding.message,
        "remedy": finding.remedy,
        "key": finding.key,
        "digest": finding.digest,
        "path": location.path if location else None,
        "line": location.line if location else None,
        "member": location.member if location else None,
    }


FORMATS: dict[str, Callable[[Report, Severity], str]] = {"text": as_text, "json": as_json}
