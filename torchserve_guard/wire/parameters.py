"""The parameters: what a query may carry, each with its kind, its bounds and one canonical text.

TorchServe takes what it cannot parse for the default (`NettyUtils.getIntParameter`), so that `min_worker=+0`
means 1 there. Here a value is understood or refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from torchserve_guard.errors import BadRequest
from torchserve_guard.origin import redacted

NAME_RULE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_@+-]|\.(?!\.)){0,127}")
"""Names and versions: what torch-model-archiver permits (model_packaging_utils.py), and `_`, `@`, `+`, also at the
start `_`. Never `/`, `%`, `:`, a blank, a control character, or `..` (CVE-2024-35198)."""

_INTEGER = re.compile(r"[0-9]{1,10}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST_TEXT = 2048
_SHOWN = 80


class Kind(Enum):
    """How the text of a value is read."""

    INTEGER = "integer"
    BOOLEAN = "boolean"
    NAME = "name"
    CHOICE = "choice"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: `low` and `high` bound an INTEGER, `choices` are those of a CHOICE."""

    name: str
    kind: Kind
    low: int = 0
    high: int = 2**31 - 1
    choices: frozenset[str] = frozenset()
    repeats: bool = False

    def canonical(self, value: str) -> str:
        """Return the one text of this value; raise BadRequest when it is not of the kind or out of bounds."""
        text = _READERS[self.kind](self, value)
        if text is None:
            message = f"Parameter {self.name} is not acceptable: {self.expected}."
            raise BadRequest(message, reason=f"{message[:-1]}, not {shown(value)}", rule="wire.parameter")
        return text

    @property
    def expected(self) -> str:
        """Return what is expected, in words for whoever sent something else."""
        match self.kind:
            case Kind.INTEGER:
                return f"a number from {self.low} to {self.high} is expected"
            case Kind.BOOLEAN:
                return "true or false is expected"
            case Kind.CHOICE:
                return f"one of {', '.join(sorted(self.choices))} is expected"
            case Kind.NAME:
                return "a name of letters, digits, `_`, `.`, `-`, `+`, `@` is expected"
            case Kind.TEXT:
                return f"1 to {_LONGEST_TEXT} characters without control characters are expected"


def shown(text: str) -> str:
    """Return a client's text as it may stand in a log: ASCII, on one line, not longer than a line."""
    return f"`{ascii(redacted(text)[:_SHOWN])[1:-1]}`"


def verify_name(what: str, name: str) -> None:
    """Return if this can be the name or version of a model or workflow; raise BadRequest if not."""
    if NAME_RULE.fullmatch(name) is None:
        message = f"The {what} is not acceptable: letters, digits, `_`, `.`, `-`, `+`, `@` are expected."
        raise BadRequest(message, reason=f"the {what} {shown(name)} is not one", rule="wire.name")


def _integer(parameter: Parameter, value: str) -> str | None:
    if _INTEGER.fullmatch(value) is None or not parameter.low <= int(value) <= parameter.high:
        return None
    return str(int(value))


def _boolean(_parameter: Parameter, value: str) -> str | None:
    # Java's Boolean.parseBoolean ignores case and takes everything else for false.
    lower = value.lower() if value.isascii() else ""
    return lower if lower in {"true", "false"} else None


def _name(_parameter: Parameter, value: str) -> str | None:
    return value if NAME_RULE.fullmatch(value) else None


def _choice(parameter: Parameter, value: str) -> str | None:
    return value if value in parameter.choices else None


def _text(_parameter: Parameter, value: str) -> str | None:
    return value if 0 < len(value) <= _LONGEST_TEXT and _CONTROLS.search(value) is None else None


_READERS = {
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.NAME: _name,
    Kind.CHOICE: _choice,
    Kind.TEXT: _text,
}
