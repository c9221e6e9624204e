"""The account: how a check ends, and how what cut it short is told."""

import pytest
from reports import DOCUMENT, HOSTILE

from torchserve_guard.errors import ConfigError, FrontendError, VerificationError
from torchserve_guard.findings import Finding, Location, Report, Severity
from torchserve_guard.reporting import Account, Outcome, Rule, parse
from torchserve_guard.reporting.account import complaints
from torchserve_guard.reporting.catalogue import described, link

FOUND = Finding("TSG001", Severity.HIGH, "m", "r")
PASSED = Outcome(Report("a", ()), Severity.HIGH)
FINDINGS = Outcome(Report("a", (FOUND,)), Severity.HIGH)
CONFIG = Outcome.of_error("a", ConfigError("x"), Severity.HIGH)
VERIFY = Outcome.of_error("a", VerificationError("x"), Severity.HIGH)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ((), 0),
        ((PASSED,), 0),
        ((PASSED, CONFIG), 2),
        ((CONFIG, FINDINGS, PASSED), 3),
        ((FINDINGS, VERIFY, CONFIG), 4),
        ((Outcome(Report("a", (FOUND,)), Severity.CRITICAL),), 0),
    ],
)
def test_the_exit_code_is_the_worst(outcomes, code):
    assert Account(outcomes, "1", "/").exit_code == code


@pytest.mark.parametrize(
    ("complaint", "place", "message"),
    [
        ("c.properties:12: `k=v` is wrong", Location("c.properties", 12), "`k=v` is wrong"),
        ("c.properties: `k` is missing", Location("c.properties"), "`k` is missing"),
        ("/other/waivers.yaml:3: wrong", Location("/other/waivers.yaml", 3), "wrong"),
        ("/m/manifest.json: has expired", Location("/m/manifest.json"), "has expired"),
        ("--plugins-path: `/x: y` is refused", Location("c.properties"), "--plugins-path: `/x: y` is refused"),
        ("m.mar!a: not listed", Location("c.properties"), "m.mar!a: not listed"),
        ("nothing to split", Location("c.properties"), "nothing to split"),
        ("c.properties:9999999999999: huge", Location("c.properties"), "huge"),
        ("c.properties:\u0663: odd", Location("c.properties"), "odd"),
        ("c.properties.bak: other", Location("c.properties"), "c.properties.bak: other"),
    ],
)
def test_a_complaint_is_told_where_it_says_it_is(complaint, place, message):
    (finding,) = complaints("c.properties", ConfigError(complaint))
    assert (finding.location, finding.message) == (place, message)


def test_each_complaint_is_a_finding_of_the_errors_kind():
    found = complaints("c", ConfigError("one", "two")) + complaints("c", VerificationError("x"))
    found += complaints("c", FrontendError("y\nz"))
    assert [finding.rule for finding in found] == ["TSG-CONFIG", "TSG-CONFIG", "TSG-VERIFY", "TSG-FAILED"]
    assert {finding.severity for finding in found} == {Severity.CRITICAL}


def test_findings_that_were_made_before_the_error_are_told_too():
    outcome = Outcome.of_error("a", VerificationError("x"), Severity.HIGH, (FOUND,))
    assert [finding.rule for finding in outcome.report.findings] == ["TSG001", "TSG-VERIFY"]


def test_a_complaint_that_quotes_a_name_moves_nothing():
    (finding,) = complaints("c", VerificationError(f"m.mar!{HOSTILE}: bad"))
    assert finding.location == Location("c")


def test_the_catalogue_is_what_is_documented():
    rules = parse(DOCUMENT)
    assert list(rules) == ["TSG001", "TSG-SCAN-001"]
    rule = rules["TSG001"]
    assert (rule.looks_at, rule.why, rule.remedy) == ("key: the first thing.", "Because (H01).", "Do this.")
    assert "# before" in rule.section
    assert rules["TSG-SCAN-001"].looks_at == "an archive."
    assert described("TSG099", rules) == Rule("TSG099", "TSG099", "", "", "TSG099")


@pytest.mark.parametrize(
    ("rule", "home", "where"),
    [
        ("TSG001", None, "docs/checks.md#tsg001"),
        ("TSG-SCAN-001", "https://d.example/", "https://d.example/#tsg-scan-001"),
        ("TSG-CONFIG", None, "docs/checks.md#errors"),
    ],
)
def test_a_rule_is_linked_to_its_section(rule, home, where):
    assert link(rule, home) == where
