"""Lines for a terminal: what a name from outside holds neither begins a line nor steers the terminal."""

from __future__ import annotations

from torchserve_guard.errors import GuardError
from torchserve_guard.escape import printable

__all__ = ["PREFIX", "indented", "of_error", "printable"]

PREFIX = "tsguard: "


def indented(text: str) -> str:
    """Return a message whose second and further lines are seen to continue the first."""
    return "\n".join(printable(line) if n == 0 else f"  {printable(line)}" for n, line in enumerate(text.split("\n")))


def of_error(error: GuardError) -> list[str]:
    """Return the lines that tell an error: each complaint, with what it quotes below it."""
    return [PREFIX + line for complaint in error.complaints for line in indented(complaint).split("\n")]
