"""The ledger of hazards is whole, and promises nothing that is not there."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "docs" / "hazards.md"

# What is known of TorchServe 0.12.0: a hazard that is found gets a number here and a row there.
KNOWN = """
H01 H02 H03 H04 H05 H06 H07 H08 H09 H10 H11 H12 H13 H14 H15 H16 H17 H18 H19 H20 H21 H22 H23 H24 H25 H26 H27 H28 H29 H30
H31 H32 H40 H41 H42 H43 H44 H45 H46 H50 H51 H52 H53 H54 H55 H56 H57 H58 H59 H60 H61 H62 H70 H71 H72 H73 H74 H75 H76 H77
S01 S02 S03 S04 S05 S06 S07 S08 S09 S10 S11 S12 S13 S14 S15 S16 S17 S18 S19 S20 S21 S22 S23 S24
L01 L02 L03 L04 L05
"""
STATES = ("closed", "partly", "open")
SEVERITIES = "CHML"
COLUMNS = 6


class Row(NamedTuple):
    """One line of the ledger."""

    identifier: str
    severity: str
    hazard: str
    state: str
    how: str
    shown: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        return re.findall(r"`([^`\s]+\.py)::([^`\s]*)`", self.shown)

    @property
    def modules(self) -> list[str]:
        return re.findall(r"`(torchserve_guard/[^`\s]+)`", self.how)


def rows() -> list[Row]:
    """Every line of a table but its two lines of head."""
    lines = [line for line in LEDGER.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == COLUMNS for row in cells)
    return [Row(*row) for row in cells if row[0] != "Id" and set(row[0]) != {"-"}]


ROWS = rows()
parametrized = pytest.mark.parametrize("row", ROWS, ids=[row.identifier for row in ROWS])


@functools.cache
def functions(path: str) -> frozenset[str]:
    """The tests that a file defines, at its top."""
    file = ROOT / path
    body = ast.parse(file.read_text("utf-8")).body if file.is_file() else []
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_known_hazard_has_one_row_and_no_row_has_another_name():
    assert Counter(row.identifier for row in ROWS) == Counter(KNOWN.split())


@parametrized
def test_state_and_severity_are_known_words_and_nothing_is_left_empty(row):
    assert row.state in STATES
    assert row.severity in tuple(SEVERITIES)
    assert row.hazard
    assert row.how


@parametrized
def test_no_row_names_a_test_or_a_module_that_is_not_there(row):
    # Whatever looks like a reference must read as one, or a misspelt one would not be looked at.
    assert len(row.tests) == row.shown.count("::")
    assert row.shown == "-" or row.tests
    assert [f"{path}::{name}" for path, name in row.tests if name not in functions(path)] == []
    assert all(path.startswith("tests/") and name.startswith("test_") for path, name in row.tests)
    assert [module for module in row.modules if not (ROOT / module).is_file()] == []


@parametrized
def test_what_is_closed_is_closed_somewhere_and_shown_somewhere(row):
    if row.state == "closed":
        assert row.tests
        assert row.modules
        assert "Missing" not in row.how


@parametrized
def test_what_is_closed_in_part_says_what_is_missing(row):
    if row.state == "partly":
        assert "Missing:" in row.how
        assert row.tests


def test_the_summary_counts_right():
    text = LEDGER.read_text("utf-8").partition("## Summary")[2]
    counted = Counter((row.state, row.severity) for row in ROWS)
    for state in STATES:
        each = ", ".join(f"{severity} {counted[state, severity]}" for severity in SEVERITIES)
        total = sum(counted[state, severity] for severity in SEVERITIES)
        assert f"- {state}: {total} ({each})" in text
    critical = ", ".join(f"{row.identifier} ({row.state})" for row in critical_rows()) or "none"
    assert f"- critical and not closed: {critical}\n" in text


def test_the_readme_says_which_critical_rows_are_not_closed():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md yet")
    text = readme.read_text("utf-8")
    assert [row.identifier for row in critical_rows() if not re.search(rf"\b{row.identifier}\b", text)] == []


def critical_rows() -> list[Row]:
    return [row for row in ROWS if row.severity == "C" and row.state != "closed"]
