"""WHAT WE SAY: outcomes of checks as text, JSON, SARIF, JUnit XML or code quality. Pure: it returns text."""

from torchserve_guard.reporting.account import Account, Outcome
from torchserve_guard.reporting.catalogue import Rule, parse
from torchserve_guard.reporting.formats import FORMATS
from torchserve_guard.reporting.text import PALETTE, as_text

__all__ = ["FORMATS", "PALETTE", "Account", "Outcome", "Rule", "as_text", "parse"]
