"""A JSON document, read so that no two readers can see different things in it.

Pure. Repeated keys, NaN and infinities, byte order marks and anything but UTF-8 are refused: Gson, Python
and jq disagree about them.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import ValidationError


class Malformed(ValueError):
    """The text is not a JSON document that everybody reads alike."""


def parse(data: bytes) -> Any:
    """Return the document's value, or raise `Malformed` with the reason."""
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


def complaints(where: str, error: ValidationError) -> list[str]:
    """Return pydantic's errors as lines for the operator: where, the field's path, and why."""
    return [f"{where}: `{_place(row['loc'])}`: {row['msg'].removeprefix('Value error, ')}" for row in error.errors()]


def _place(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "document"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Malformed(f"has the key `{twice}` twice in one object")
    return value


def _constant(name: str) -> NoReturn:
    raise Malformed(f"contains `{name}`, which is not JSON")
