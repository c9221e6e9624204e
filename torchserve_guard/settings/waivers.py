"""The waivers: which findings somebody has accepted, and what is wrong with the list of them.

INVARIANT: a waiver applies only to what it is bound to. What it was not written for, another archive or another
value, is a finding again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime

from torchserve_guard.access import Mode
from torchserve_guard.findings import Finding, Severity, Waiver
from torchserve_guard.settings.settings import Settings

SUFFIX = ".properties"


def accepted(settings: Settings, findings: Iterable[Finding], now: datetime) -> tuple[Finding, ...]:
    """Return the findings, each with the waiver that applies to it, and what is wrong with the waivers."""
    told = waived(settings, findings, now)
    used = {finding.waiver for finding in told}
    return (*told, *_stale(settings, used, now.astimezone(UTC).date()))


def waived(settings: Settings, findings: Iterable[Finding], now: datetime) -> tuple[Finding, ...]:
    """Return the findings, each with the first waiver that applies to it at this time."""
    today = now.astimezone(UTC).date()
    valid = [waiver for waiver in settings.waivers if not _expired(waiver, today)]
    if not valid:
        return tuple(findings)
    return tuple(dataclasses.replace(finding, waiver=_first(settings, finding, valid)) for finding in findings)


def _first(settings: Settings, finding: Finding, waivers: Iterable[Waiver]) -> Waiver | None:
    return next((waiver for waiver in waivers if _covers(settings, waiver, finding)), None)


def _expired(waiver: Waiver, today: date) -> bool:
    return waiver.expires < today


def _covers(settings: Settings, waiver: Waiver, finding: Finding) -> bool:
    """Whether the waiver was written for this finding: the rule, the file if it names one, and what it is bound to."""
    if waiver.rule != finding.rule or (waiver.path is not None and waiver.path != _path_of(finding)):
        return False
    if waiver.subject is not None:
        return finding.digest == waiver.subject
    return waiver.key is not None and waiver.key == finding.key and waiver.value == settings.texts.get(waiver.key, "")


def _path_of(finding: Finding) -> str | None:
    return os.path.realpath(finding.location.path) if finding.location is not None else None


def _stale(settings: Settings, used: set[Waiver | None], today: date) -> Iterator[Finding]:
    for waiver in settings.waivers:
        bound = f"for {waiver.rule} by `{waiver.owner}`"
        if _expired(waiver, today):
            yield Finding(
                "TSG080",
                Severity.MEDIUM,
                f"the waiver {bound} has expired on {waiver.expires}, and applies no more",
                "mend what was waived, or have it accepted again until another day",
                waiver.written,
            )
        elif waiver not in used and _looked_at(settings, waiver):
            yield Finding(
                "TSG081",
                Severity.LOW,
                f"the waiver {bound} applies to nothing that was found",
                "remove it; if the finding is still there, its archive, key or value is not what the waiver says",
                waiver.written,
            )


def _looked_at(settings: Settings, waiver: Waiver) -> bool:
    """Whether this check would have met what the waiver was written for.

    It may be meant for an archive that is registered later, or for another configuration with the same waivers.
    """
    if waiver.subject is not None and settings.mode is Mode.EXPLICIT:
        return False
    other = waiver.path is not None and waiver.path.endswith(SUFFIX)
    return not other or waiver.path == os.path.realpath(settings.config)
