"""The formats for machines: each is what its standard says, whatever the texts in it are."""

import dataclasses
import json
import re
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft4Validator
from reports import DOCUMENT, HOSTILE, accounts

from torchserve_guard import reporting
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.findings import Finding, Location, Report, Severity, Subject, Waiver
from torchserve_guard.reporting import FORMATS, Account, Outcome, parse
from torchserve_guard.reporting import sarif as sarif_room

SCHEMA = json.loads((Path(__file__).parents[2] / "corpus" / "sarif-schema-2.1.0.json").read_text("utf-8"))
VALID = Draft4Validator(SCHEMA)
ROOT = "/checkout"
WAIVER = Waiver("TSG001", "ann", "for a month", date(2030, 1, 31), Location("w.yaml", 3), key="k", value="v")
HIGH = Finding("TSG001", Severity.HIGH, "reachable", "use loopback", Location("c.properties", 7), key="k")
LOW = dataclasses.replace(HIGH, rule="TSG005", severity=Severity.LOW)
WAIVED = dataclasses.replace(HIGH, waiver=WAIVER)
DIGEST = "ab" * 32
SCANNED = Finding("TSG-SCAN-001", Severity.HIGH, "hook", "out", Location("/checkout/s/m.mar", member="a.py"), DIGEST)
SUBJECT = Subject("m.mar", DIGEST, 10)
soberly = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])


def account(*findings: Finding, error=None, subjects=(), threshold=Severity.HIGH, **more) -> Account:
    report = Report("c.properties", findings, subjects)
    outcome = Outcome(report, threshold) if error is None else Outcome.of_error("c.properties", error, threshold)
    return Account((outcome,), "1.2.3", ROOT, rules=parse(DOCUMENT), **more)


def run_of(told: Account) -> dict:
    document = json.loads(FORMATS["sarif"](told))
    VALID.validate(document)
    (run,) = document["runs"]
    return run


# --- JSON -------------------------------------------------------------------------------------------------------


def test_json_is_one_document_with_a_schema():
    document = json.loads(FORMATS["json"](account(HIGH, WAIVED, subjects=(SUBJECT,))))
    assert document["schema"] == "torchserve_guard/report/v1"
    assert (document["target"], document["passed"], document["exit_code"]) == ("c.properties", False, 3)
    assert [finding["state"] for finding in document["findings"]] == ["open", "waived"]
    assert document["findings"][1]["waiver"] == {
        "owner": "ann",
        "reason": "for a month",
        "expires": "2030-01-31",
        "path": "w.yaml",
        "line": 3,
    }
    assert document["subjects"] == [{"name": "m.mar", "sha256": DIGEST, "size": 10, "state": "verified"}]


def test_json_of_several_is_a_list_of_runs():
    document = json.loads(FORMATS["json"](account(several=True)))
    assert document["schema"] == "torchserve_guard/reports/v1"
    assert [run["target"] for run in document["runs"]] == ["c.properties"]
    assert document["passed"] is True


def test_an_error_is_a_finding_at_its_line_in_json():
    document = json.loads(FORMATS["json"](account(error=ConfigError("c.properties:3: `k` is wrong"))))
    assert (document["passed"], document["exit_code"]) == (False, 2)
    (finding,) = document["findings"]
    assert (finding["rule"], finding["path"], finding["line"]) == ("TSG-CONFIG", "c.properties", 3)


@soberly
@given(accounts)
def test_json_is_json_that_every_reader_accepts(told):
    text = FORMATS["json"](told)
    assert text.isascii()
    json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")


# --- SARIF ------------------------------------------------------------------------------------------------------


def test_a_result_is_where_and_what_code_scanning_looks_for():
    (result,) = run_of(account(HIGH))["results"]
    assert result["ruleId"] == "TSG001"
    assert result["level"] == "error"
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "c.properties", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 7, "startColumn": 1, "endLine": 7, "endColumn": 2}
    assert result["message"]["text"] == "reachable. Remedy: use loopback."
    assert re.fullmatch(r"[0-9a-f]{32}:1", result["partialFingerprints"]["primaryLocationLineHash"])


def test_the_rules_are_those_of_the_documents_whatever_was_found():
    few, many = run_of(account(HIGH)), run_of(account(HIGH, SCANNED, subjects=(SUBJECT,)))
    names = [[rule["id"] for rule in run["tool"]["driver"]["rules"]] for run in (few, many)]
    assert names[0] == names[1] == ["TSG001", "TSG-SCAN-001", "TSG-CONFIG", "TSG-VERIFY", "TSG-FAILED"]
    rule = few["tool"]["driver"]["rules"][0]
    assert rule["shortDescription"] == {"text": "key: the first thing."}
    assert rule["help"]["markdown"].startswith("**Looks at** `key`")
    assert rule["properties"]["security-severity"] == "8.0"
    assert "helpUri" not in rule
    published = run_of(account(HIGH, home="https://d.example/checks"))["tool"]["driver"]["rules"][0]
    assert published["helpUri"] == "https://d.example/checks#tsg001"


@pytest.mark.parametrize(
    ("severity", "level", "least", "most"),
    [
        (Severity.CRITICAL, "error", 9.1, 10.0),
        (Severity.HIGH, "error", 7.0, 8.9),
        (Severity.MEDIUM, "warning", 4.0, 6.9),
        (Severity.LOW, "note", 0.1, 3.9),
    ],
)
def test_code_scanning_says_the_severity_that_we_say(severity, level, least, most):
    run = run_of(account(dataclasses.replace(HIGH, severity=severity)))
    assert run["results"][0]["level"] == level
    score = run["tool"]["driver"]["rules"][run["results"][0]["ruleIndex"]]["properties"]["security-severity"]
    assert least <= float(score) <= most


def test_what_is_waived_is_suppressed_and_every_result_says_whether_it_is():
    first, second = run_of(account(WAIVED, LOW))["results"]
    by_rule = {result["ruleId"]: result for result in (first, second)}
    assert by_rule["TSG005"]["suppressions"] == []
    (suppression,) = by_rule["TSG001"]["suppressions"]
    assert suppression["status"] == "accepted"
    assert suppression["justification"] == "for a month (ann, until 2030-01-31; w.yaml:3)"
    assert by_rule["TSG001"]["level"] == "note"


def test_a_path_outside_the_checkout_has_no_base_and_one_with_odd_characters_is_escaped():
    outside = dataclasses.replace(HIGH, location=Location("/etc/a b#c.properties"))
    odd = dataclasses.replace(HIGH, location=Location("x/../100% \udcff?.properties", 1))
    one, other = (
        result["locations"][0]["physicalLocation"]["artifactLocation"]
        for result in run_of(account(outside, odd))["results"]
    )
    assert one == {"uri": "file:///etc/a%20b%23c.properties"}
    assert other == {"uri": "100%25%20%FF%3F.properties", "uriBaseId": "%SRCROOT%"}


def test_a_member_of_an_archive_is_told_beside_the_archive():
    (result,) = run_of(account(SCANNED, subjects=(SUBJECT,)))["results"]
    location = result["locations"][0]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "s/m.mar"
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "/checkout/s/m.mar!a.py"


@pytest.mark.parametrize("line", [None, 0])
def test_a_result_without_a_line_is_at_the_first(line):
    finding = dataclasses.replace(HIGH, location=Location("c.properties", line))
    region = run_of(account(finding))["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert region["startLine"] == 1


def test_a_fingerprint_stays_while_lines_and_messages_change_and_tells_two_apart():
    moved = dataclasses.replace(HIGH, location=Location("/checkout/c.properties", 99), message="other words")
    first, again = (run_of(account(one))["results"][0]["partialFingerprints"] for one in (HIGH, moved))
    assert first == again
    twice = [
        result["partialFingerprints"]["primaryLocationLineHash"] for result in run_of(account(HIGH, HIGH))["results"]
    ]
    assert len(set(twice)) == 2
    other = dataclasses.replace(HIGH, key="another")
    assert run_of(account(other))["results"][0]["partialFingerprints"] != first


def test_an_error_is_a_result_and_the_run_did_not_succeed():
    run = run_of(account(error=VerificationError("/checkout/models/manifest.json: has expired")))
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["invocations"][0]["exitCode"] == 4
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("TSG-VERIFY", "error")
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "models/manifest.json"


def test_no_message_holds_a_link():
    finding = dataclasses.replace(HIGH, message="`[click](https://evil.example)`", remedy="none")
    assert "](" not in run_of(account(finding))["results"][0]["message"]["text"]


def test_more_results_than_code_scanning_takes_are_left_out_from_the_mildest_and_counted(monkeypatch):
    monkeypatch.setattr(sarif_room, "MOST_RESULTS", 2)
    run = run_of(account(LOW, HIGH, LOW))
    assert [result["ruleId"] for result in run["results"]] == ["TSG001", "TSG005"]
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"].startswith("1 results left out")


@soberly
@given(accounts)
def test_sarif_is_valid_and_within_githubs_limits_whatever_is_in_it(told):
    run = run_of(told)
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for rule in rules:
        for description in (rule["shortDescription"]["text"], rule["fullDescription"]["text"]):
            assert 0 < len(description) <= 1024
        assert rule["help"]["text"]
        assert len(rule["properties"]["tags"]) <= 10
    hashes = [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]
    assert len(set(hashes)) == len(hashes)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"].isprintable()
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] >= 1
        uri = place["artifactLocation"]["uri"]
        assert re.fullmatch(r"(file:///)?[A-Za-z0-9._~/%-]+", uri), uri
        assert urlsplit(uri).scheme in {"", "file"}
        assert ("uriBaseId" in place["artifactLocation"]) != uri.startswith("file:")


def test_the_real_documents_make_rules_that_code_scanning_takes():
    text = (Path(reporting.__file__).parent / "checks.md").read_text("utf-8")
    rules = parse(text)
    assert len(rules) >= 18
    assert text == (Path(__file__).parents[3] / "docs" / "checks.md").read_text("utf-8")
    told = Account((Outcome(Report("c", ()), Severity.HIGH),), "1", ROOT, rules=rules)
    for rule in run_of(told)["tool"]["driver"]["rules"]:
        assert rule["shortDescription"]["text"] != rule["id"], f"{rule['id']} has no `Looks at`"
        assert "**" not in rule["shortDescription"]["text"]


# --- JUnit ------------------------------------------------------------------------------------------------------


def cases(told: Account) -> dict[str, ET.Element]:
    root = ET.fromstring(FORMATS["junit"](told))  # noqa: S314 - our own
    return {case.get("name"): case for case in root.iter("testcase")}


def test_every_rule_and_every_archive_is_a_case():
    found = cases(account(HIGH, SCANNED, LOW, subjects=(SUBJECT,)))
    assert set(found) == {"TSG001", "TSG005", "m.mar"}
    assert [child.tag for child in found["TSG001"]] == ["failure"]
    assert [child.tag for child in found["m.mar"]] == ["failure"]
    assert [child.tag for child in found["TSG005"]] == ["system-out"]
    passed = cases(account(subjects=(SUBJECT,)))
    assert [list(case) for case in passed.values()] == [[], []]


def test_two_archives_that_are_alike_are_two_cases():
    twin = dataclasses.replace(SUBJECT, name="twin.mar")
    found = cases(account(SCANNED, subjects=(twin, SUBJECT)))
    assert {name: len(case) for name, case in found.items() if name.endswith(".mar")} == {"m.mar": 1, "twin.mar": 0}


def test_a_case_fails_from_the_threshold_on():
    assert cases(account(HIGH, threshold=Severity.CRITICAL))["TSG001"].find("failure") is None
    assert cases(account(LOW, threshold=Severity.LOW))["TSG005"].find("failure").get("type") == "TSG005"


def test_what_is_waived_is_skipped_and_says_until_when():
    skipped = cases(account(WAIVED))["TSG001"].find("skipped")
    assert skipped.get("message") == "waived by ann until 2030-01-31: for a month"
    both = cases(account(WAIVED, HIGH))["TSG001"]
    assert [child.tag for child in both] == ["failure"]


def test_an_error_is_an_error_and_no_rule_counts_as_passed():
    found = cases(account(error=ConfigError("c.properties:3: wrong", "c.properties: more")))
    assert set(found) == {"TSG-CONFIG"}
    assert found["TSG-CONFIG"].find("error").text.count("TSG-CONFIG") == 2


@soberly
@given(accounts)
def test_junit_is_well_formed_and_counts_right_whatever_is_in_it(told):
    root = ET.fromstring(FORMATS["junit"](told).encode())  # noqa: S314 - our own
    assert len(root) == len(told.outcomes)
    for element in (root, *root):
        every = list(element.iter("testcase"))
        assert int(element.get("tests")) == len(every)
        for counted, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.get(counted)) == sum(case.find(tag) is not None for case in every)


def test_hostile_text_is_shown_and_ends_nothing():
    found = cases(account(dataclasses.replace(HIGH, message=HOSTILE)))
    assert (
        found["TSG001"]
        .find("failure")
        .get("message")
        .startswith("a\\nhigh      TSG001  forged\\r\\x1b[31m\\x00]]>&<x>\"'")
    )


# --- code quality -----------------------------------------------------------------------------------------------


def test_code_quality_has_every_field_that_gitlab_asks_for_and_nothing_that_is_waived():
    (row,) = json.loads(
        FORMATS["codequality"](account(WAIVED, dataclasses.replace(LOW, location=Location("/checkout/d/x", 4))))
    )
    assert row["location"] == {"path": "d/x", "lines": {"begin": 4}}
    assert (row["check_name"], row["severity"]) == ("TSG005", "minor")
    assert row["description"] == "reachable; remedy: use loopback"
    assert row["fingerprint"]


@soberly
@given(accounts)
def test_code_quality_never_repeats_a_fingerprint(told):
    rows = json.loads(FORMATS["codequality"](told))
    assert len({row["fingerprint"] for row in rows}) == len(rows)
    assert all(row["location"]["lines"]["begin"] >= 1 for row in rows)
