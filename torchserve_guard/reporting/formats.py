"""The formats: one table of the ways in which an account can be told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torchserve_guard.reporting.account import Account
from torchserve_guard.reporting.document import as_json
from torchserve_guard.reporting.junit import as_junit
from torchserve_guard.reporting.quality import as_code_quality
from torchserve_guard.reporting.sarif import as_sarif
from torchserve_guard.reporting.text import told

FORMATS: Mapping[str, Callable[[Account], str]] = {
    "text": told,
    "json": as_json,
    "sarif": as_sarif,
    "junit": as_junit,
    "codequality": as_code_quality,
}
