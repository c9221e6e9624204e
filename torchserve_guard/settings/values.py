"""Values: the text of one property into what its key says it is.

Pure. Every function raises `ValueError` whose text completes the sentence "`value` ...".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from torchserve_guard.settings import address, cpu_launcher, model_options, regex
from torchserve_guard.settings.keys import Key, Kind

VARIABLE = re.compile(r"\$\$([^$\s]+)\$\$")
NUMBER = re.compile(r"[+-]?[0-9]{1,300}(\.[0-9]{0,300})?([eE][+-]?[0-9]{1,3})?")

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
    if NUMBER.fullmatch(text) is None:
        raise ValueError("is not a number" + _blank(text))
    number = float(text)
    if not (math.isfinite(number) and key.low < number <= key.high):
        raise ValueError(f"is not above {key.low} and at most {key.high}")
    return number


def _word(key: Key, text: str) -> str:
    if text.lower() not in key.words:
        raise ValueError(f"is not one of {', '.join(key.words)}" + _blank(text))
    return text.lower()


def _json(_key: Key, text: str) -> str:
    model_options.parse(text)
    return text


def _regex(_key: Key, text: str) -> str:
    regex.compiled(text)
    return text


def _regexes(_key: Key, text: str) -> str:
    regex.each(text)
    return text


def _launcher(_key: Key, text: str) -> str:
    cpu_launcher.parse(text)
    return text


def _host(_key: Key, text: str) -> str:
    return address.parse_host(text) if text else address.LOOPBACK  # InetAddress.getByName


def _path(_key: Key, text: str) -> str:
    if not text.strip() or text != text.strip():
        raise ValueError("is empty, or has a blank at an end")
    return text


def _address(key: Key, text: str) -> address.Address:
    return address.parse(text, key.name)


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
    Kind.HOST: _host,
    Kind.PATH: _path,
    Kind.FILE: _path,
    Kind.JSON: _json,
    Kind.WORD: _word,
    Kind.REGEX: _regex,
    Kind.REGEXES: _regexes,
    Kind.LAUNCHER: _launcher,
}


def parse(key: Key, text: str) -> Value:
    """Return the value of `key`. Raises `ValueError`."""
    return READERS[key.kind](key, text)
