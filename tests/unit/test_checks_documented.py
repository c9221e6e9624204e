"""Every rule and every key that an operator can meet has its place in the documents, and none is made up."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import torchserve_guard
from torchserve_guard.findings import Severity
from torchserve_guard.frontend.environment import ALLOWED
from torchserve_guard.scan import BUILT_IN
from torchserve_guard.settings.keys import KEYS, NOT_YET, Fate

PACKAGE = Path(torchserve_guard.__file__).parent
DOCS = Path(__file__).parents[2] / "docs"
CHECKS = (DOCS / "checks.md").read_text("utf-8")
CONFIGURATION = (DOCS / "configuration.md").read_text("utf-8")
IDENTIFIER = re.compile(r"TSG(-[A-Z]+-)?\d{3}")
FATES = {
    Fate.GUARD: "## The guard's own keys",
    Fate.PIN: "### Replaced by the guard",
    Fate.PASS: "### Handed on",
    Fate.REFUSE: "### Refused",
}


def rules() -> set[str]:
    """The rules that the code can emit: every string in it that is a rule's name, whole."""
    nodes = (node for file in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    words = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {word for word in words if IDENTIFIER.fullmatch(word)}


def severities(rule: str) -> set[str]:
    """The severities that stand behind a rule's name where it is emitted, before the next rule's."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text("utf-8")
        places = [*(match.start() for match in re.finditer(r'"TSG', text)), len(text)]
        for start, end in pairwise(places):
            if text.startswith(f'"{rule}"', start):
                found |= set(re.findall(r"Severity\.([A-Z]+)", text[start:end].partition("\ndef ")[0]))
    return {name.lower() for name in found}


def sections(text: str) -> dict[str, str]:
    """The text of each section, up to the next heading of any height, by its heading."""
    parts = re.split(r"^(#{1,6} .*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


RULES = sorted(rules())


def test_every_rule_has_one_section_and_no_section_is_for_a_rule_that_is_not_there():
    headings = re.findall(r"^## (.*)$", CHECKS, re.MULTILINE)
    assert sorted(headings) == RULES
    assert len(RULES) >= 18


@pytest.mark.parametrize("rule", RULES)
def test_a_section_says_what_how_bad_why_and_what_to_do_before_and_after(rule):
    text = sections(CHECKS)[f"## {rule}"]
    places = [
        text.find(word) for word in ("**Looks at**", "**Severity**", "**Why.**", "**Remedy.**", "# before", "# after")
    ]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"\b[HSL]\d\d\b", text)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.startswith("TSG-SCAN")])
def test_a_section_gives_the_severity_of_the_code(rule):
    said = re.search(r"\*\*Severity\*\* ([^*]*?)\.?\n\n", sections(CHECKS)[f"## {rule}"])
    assert said is not None
    assert {str(one) for one in Severity if str(one) in said[1]} == severities(rule) != set()


def test_every_scanner_is_named():
    assert [name for name in BUILT_IN if f"`{name}`" not in CHECKS + CONFIGURATION] == []


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_every_key_stands_in_the_table_of_what_becomes_of_it(key):
    rows = sections(CONFIGURATION)[FATES[key.fate]]
    assert re.search(rf"^\| [^|]*`{re.escape(key.name)}`", rows, re.MULTILINE)


def test_a_key_that_is_not_honoured_yet_is_said_to_be_refused():
    assert [name for name, why in NOT_YET.items() if f"| `{name}` | {why} |" not in CONFIGURATION] == []


def test_no_key_of_the_guards_is_made_up():
    told = set(re.findall(r"`(guard\.[a-z_]+)", CONFIGURATION + CHECKS))
    assert told - KEYS.keys() - NOT_YET.keys() == set()


def test_no_key_of_torchserves_is_in_a_table_that_does_not_know_it():
    for heading in FATES.values():
        cells = re.findall(r"^\| ([^|]*) \|", sections(CONFIGURATION)[heading], re.MULTILINE)
        told = {name for cell in cells for name in re.findall(r"`([^`]*)`", cell)}
        assert told - KEYS.keys() - NOT_YET.keys() == set()


def test_every_variable_that_models_get_is_named():
    assert [name for name in sorted(ALLOWED) if f"`{name}`" not in CONFIGURATION] == []


def test_every_exit_code_is_named():
    codes = re.findall(r"^\| (\d) \|", sections(CONFIGURATION)["## Exit codes"], re.MULTILINE)
    assert codes == list("0123456")
