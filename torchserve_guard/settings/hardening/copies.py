"""Copies: models that may write to their own files, and names that make no copy."""

from __future__ import annotations

from collections.abc import Iterator

from torchserve_guard import looks
from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told

KEY = "guard.private_copies"


def _writable(told: Told) -> Iterator[Hit]:
    named = told.settings.private_copies
    if "*" in named:
        yield Hit("`guard.private_copies=*`: every model may write to its own files", KEY, Severity.MEDIUM)
    elif named:
        told_names = ", ".join(f"`{name}`" for name in named)
        yield Hit(f"the models of {told_names} may write to their own files", KEY)


def _absent(told: Told) -> Iterator[Hit]:
    for name in told.settings.private_copies:
        if name != "*" and not looks.is_there(told.settings.model_store / name):
            yield Hit(f"`guard.private_copies` names `{name}`, which is not in the model store", KEY)


RULES = (
    Rule(
        "TSG125",
        Severity.LOW,
        "what such a model puts beside its own files nobody verifies, and its next worker may run it",
        "have the handler write elsewhere (the folder for temporary files), and name only archives that need it",
        ("H20",),
        _writable,
        also=(Severity.MEDIUM,),
    ),
    Rule(
        "TSG126",
        Severity.LOW,
        "a name that means no archive makes no copy, and its model cannot write where it is expected to",
        "name archives as `load_models` does, with the end of their file names",
        ("S12",),
        _absent,
    ),
)
