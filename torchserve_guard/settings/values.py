"""Values: the text of one property into what its key says it is.

Pure. Every function raises `ValueError` whose text completes the sentence "`value` ...".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from torchserve_guard.settings import address
from torchserve_guard.settings.keys import Key, Kind

VARIABLE = re.compile(r"\$\$([^$\s]+)\$\$")

Value = str | bool | int | float | address.Address


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Return the value with each `$$NAME$$` replaced from the environment (ConfigManager.resolveEnvVarVals)."""

    def value_of(match: re.Match[str]) -> str:
        try:
            return environment[match[1]]
        except KeyError:
            raise ValueError(
                f"names the environment variable {match[1]}, which is not set; set it, or write the value"
            ) from None

    return VARIABLE.sub(value_of, text)


def _bool(_key: Key, text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError("is neither true nor false; TorchServe would take it for false" + _blank(text))
    return text.lower() == "true"


def _int(key: Key, text: str) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text) is None:
        raise ValueError("is not a whole number" + _blank(text))
    if not key.low <= int(text) <= key.high:
        raise ValueError(f"is not between {key.low} and {key.high}")
    return int(text)


def _float(key: Key, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("is not a number" + _blank(text)) from None
    if not (math.isfinite(number) and key.low < number <= key.high):
        raise ValueError(f"is not above {key.low} and at most {key.high}")
    return number


def _word(key: Key, text: str) -> str:
    if text.lower() not in key.words:
        raise ValueError(f"is not one of {', '.join(key.words)}" + _blank(text))
    return text.lower()


def _json(_key: Key, text: str) -> str:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON; check quotes, commas and braces") from None
    if not isinstance(parsed, dict):
        raise ValueError('is not a JSON object; write {"name": {"version": {...}}}')  # noqa: TRY004 - all readers raise alike
    for models in parsed.values():
        for version in models.values() if isinstance(models, dict) else ():
            if isinstance(version, dict) and version.get("runtimeType", "python") != "python":
                raise ValueError("names a `runtimeType` other than python, which runs a program from the PATH")
    return text


def _path(_key: Key, text: str) -> str:
    if not text.strip() or text != text.strip():
        raise ValueError("is empty, or has a blank at an end")
    return text


def _address(_key: Key, text: str) -> address.Address:
    return address.parse(text)


def _text(_key: Key, text: str) -> str:
    return text


def _blank(text: str) -> str:
    return "; remove the blank at its end" if text != text.strip() else ""


READERS: dict[Kind, Callable[[Key, str], Value]] = {
    Kind.TEXT: _text,
    Kind.BOOL: _bool,
    Kind.INT: _int,
    Kind.FLOAT: _float,
    Kind.ADDRESS: _address,
    Kind.PATH: _path,
    Kind.JSON: _json,
    Kind.WORD: _word,
}


def parse(key: Key, text: str) -> Value:
    """Return the value of `key`. Raises `ValueError`."""
    return READERS[key.kind](key, text)
