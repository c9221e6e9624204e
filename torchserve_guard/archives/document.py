"""A JSON document, read so that no two readers can see different things in it.

Pure. Repeated keys, NaN and infinities, byte order marks and anything but UTF-8 are refused: Gson, Python
and jq disagree about them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)

MOST_KEYS = 1000
"""How many keys an object may have: a complaint is made for each that is not known."""

# A string that is never closed is taken whole, so that no position is looked at twice.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class Malformed(ValueError):
    """The text is not a JSON document that everybody reads alike."""


def parse(data: bytes, *, deepest: int | None = None) -> Any:
    """Return the document's value, or raise `Malformed` with the reason; `deepest` is how deep it may be nested."""
    if deepest is not None and _depth(data) > deepest:
        raise Malformed(f"is nested more than {deepest} deep")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise Malformed(f"is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise Malformed("is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise Malformed(f"is not JSON (line {error.lineno}: {error.msg})") from error
    except ValueError as error:
        raise error if isinstance(error, Malformed) else Malformed(str(error)) from error


def render(value: object) -> bytes:
    """Return the one canonical spelling of a document: sorted keys, two blanks, a newline at the end."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, sort_keys=True)
    return text.encode() + b"\n"


def shaped(model: type[Model], value: Any) -> Model:
    """Return the value as the model has it, or raise `Malformed` with the first things that are not so."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Malformed("; ".join(_rows(error)[:3])) from error


def complaints(where: str, error: ValidationError) -> list[str]:
    """Return pydantic's errors as lines for the operator: where, the field's path, and why."""
    return [f"{where}: {row}" for row in _rows(error)]


def _rows(error: ValidationError) -> list[str]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [f"`{_place(row['loc'])}`: {row['msg'].removeprefix('Value error, ')}" for row in found]


def _depth(data: bytes) -> int:
    depth = deepest = 0
    for match in _TOKEN.finditer(data):
        mark = match[0][:1]
        depth += (mark in b"[{") - (mark in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _place(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "document"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise Malformed(f"has the key `{twice}` twice in one object")
    if len(value) > MOST_KEYS:
        raise Malformed(f"has an object of more than {MOST_KEYS} keys")
    return value


def _constant(name: str) -> NoReturn:
    raise Malformed(f"contains `{name}`, which is not JSON")
