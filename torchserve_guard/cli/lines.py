"""Lines for a terminal: what a name from outside holds neither begins a line nor steers the terminal."""

from __future__ import annotations

from torchserve_guard.errors import ConfigError, GuardError

PREFIX = "tsguard: "


def printable(text: str) -> str:
    """Return the text as one line: every character that does not show, a line end too, as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def lines_of(text: str) -> str:
    """Return the text with its line ends kept and every other character that does not show escaped."""
    return "\n".join(printable(line) for line in text.split("\n"))


def indented(text: str) -> str:
    """Return a message whose second and further lines are seen to continue the first."""
    return "\n".join(printable(line) if n == 0 else f"  {printable(line)}" for n, line in enumerate(text.split("\n")))


def of_error(error: GuardError) -> list[str]:
    """Return the lines that tell an error: one for each complaint, or a message with what it quotes below it."""
    told = map(printable, error.complaints) if isinstance(error, ConfigError) else indented(str(error)).split("\n")
    return [PREFIX + line for line in told]
