"""The text of a report: what a person reads, and what nobody can make them read."""

import dataclasses
import re
from datetime import date

from hypothesis import given
from reports import HOSTILE, accounts, reports

from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Finding, Location, Report, Severity, Subject, Waiver
from torchserve_guard.reporting import FORMATS, PALETTE, Account, Outcome, as_text
from torchserve_guard.reporting.text import brief, told

LOW = Finding("TSG005", Severity.LOW, "no effect", "remove it", Location("a.properties", 2))
HIGH = Finding("TSG001", Severity.HIGH, "reachable", "use loopback", Location("b.properties", 7))
WAIVER = Waiver("TSG001", "ann", "for a month", date(2030, 1, 31), Location("waivers.yaml", 3), key="k", value="v")
WAIVED = dataclasses.replace(HIGH, waiver=WAIVER)


def test_a_finding_says_where_what_why_and_where_more_is_said():
    assert as_text(Report("b.properties", (HIGH,)), Severity.HIGH).splitlines() == [
        "b.properties",
        "  high      TSG001  b.properties:7: reachable",
        "            remedy: use loopback",
        "            see: docs/checks.md#tsg001",
        "b.properties: 0 archives verified, 1 findings, 1 stop a start",
    ]


def test_findings_are_grouped_by_file_and_the_worst_file_comes_first():
    other = dataclasses.replace(LOW, location=Location("b.properties", 1))
    lines = as_text(Report("t", (LOW, other, HIGH)), Severity.CRITICAL).splitlines()
    assert [line for line in lines if line.endswith(".properties")] == ["b.properties", "a.properties"]
    assert [line.split()[1] for line in lines if line.startswith(("  high", "  low"))] == ["TSG001", "TSG005", "TSG005"]
    assert lines[-1].endswith("none stops a start")


def test_what_is_waived_is_told_with_who_and_until_when_and_stops_nothing():
    text = as_text(Report("t", (WAIVED,)), Severity.LOW)
    assert "  waived    TSG001  b.properties:7: reachable\n" in text
    assert "waived by ann until 2030-01-31 (waivers.yaml:3): for a month\n" in text
    assert "1 findings (1 waived), none stops a start" in text


def test_a_flag_has_no_line():
    finding = dataclasses.replace(HIGH, location=Location("b.properties", 0))
    assert "b.properties: reachable" in as_text(Report("t", (finding,)), Severity.HIGH)


def test_only_what_was_verified_counts_as_verified():
    report = Report("t", (), (Subject("a.mar", "0" * 64, 1), Subject("b.mar", "1" * 64, 1, "unlisted")))
    text = as_text(report, Severity.HIGH)
    assert text.startswith("verified  a.mar")
    assert "\nunlisted  b.mar" in text
    assert "t: 1 archives verified" in text


def test_the_documents_may_be_somewhere_else():
    assert "see: https://x.example/c#tsg001\n" in as_text(
        Report("t", (HIGH,)), Severity.LOW, home="https://x.example/c"
    )


def test_colours_are_those_of_the_palette_and_only_paint():
    used = set()

    def paint(style, text):
        used.add(style)
        return text

    report = Report("t", (LOW, HIGH, WAIVED), (Subject("a.mar", "0" * 64, 1),))
    assert as_text(report, Severity.HIGH, paint) == as_text(report, Severity.HIGH)
    assert {"high", "low", "waived", "place", "good", "bad"} <= used <= PALETTE.keys()


def test_behind_several_stands_their_sum():
    failed = Outcome.of_error("b", ConfigError("b: broken"), Severity.HIGH)
    account = Account((Outcome(Report("a", ()), Severity.HIGH), failed), "1", "/", several=True)
    assert told(account).splitlines()[-1] == "2 configurations: 1 pass, 1 with exit code 2"


def test_in_brief_only_what_does_not_pass_is_told_and_all_is_counted():
    failed = Outcome.of_error("b", ConfigError("b: broken"), Severity.HIGH)
    account = Account((Outcome(Report("a", ()), Severity.HIGH), failed), "1", "/", several=True)
    assert "a: 0 archives" not in brief(account)
    assert brief(account).splitlines()[-1] == "2 configurations: 1 pass, 1 with exit code 2"
    alone = dataclasses.replace(account, outcomes=account.outcomes[:1], several=False)
    assert brief(alone) == told(alone)


@given(reports)
def test_no_text_from_outside_makes_a_line_or_steers_the_terminal(report):
    text = as_text(report, Severity.HIGH)
    assert all(line.isprintable() for line in text.split("\n"))
    places = {finding.location.path if finding.location else report.target for finding in report.findings}
    each = sum(2 if finding.waiver is not None else 3 for finding in report.findings)
    shown = {re.sub(r"[^ -~]", "", repr(place)) for place in places}
    assert len(report.subjects) + each + 1 < text.count("\n") + 1
    assert text.count("\n") <= len(report.subjects) + each + len(places) + 1
    assert text.count("\n") >= len(report.subjects) + each + min(1, len(shown)) + 1


@given(accounts)
def test_an_account_in_text_is_as_harmless(account):
    assert all(line.isprintable() for line in FORMATS["text"](account).split("\n"))


def test_a_forged_line_in_the_name_of_a_member_stays_within_its_line():
    finding = dataclasses.replace(HIGH, message=HOSTILE, location=Location("m.mar", member=HOSTILE))
    text = as_text(Report("t", (finding,)), Severity.HIGH)
    assert not re.search(r"^high      TSG001  forged", text, re.MULTILINE)
    assert "\\nhigh      TSG001  forged\\r\\x1b[31m\\x00" in text
