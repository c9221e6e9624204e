"""The options of models: what `models=` says of each model and version, held against a schema.

TorchServe reads members that it knows as it needs them and ignores the rest, wrong types too
(ConfigManager.getJsonIntValue); a misspelt one is silence there. Pure. Raises `ValueError` that completes
"`value` ...".
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

INT_MAX = 2**31 - 1
LONGEST_NAME = 80
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}")
# The least value that TorchServe does not take for "not given" (getJsonIntValue), by member (Model.java).
NUMBERS = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 1,
    "maxBatchDelay": 1,
    "responseTimeout": 1,
    "startupTimeout": 1,
    "parallelLevel": 0,
}
OTHERS = ("defaultVersion", "marName", "runtimeType")
MEMBERS = (*NUMBERS, *OTHERS)


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What is said of one version of one model: `archive` is its `marName`, `unknown` what TorchServe ignores."""

    model: str
    version: str
    archive: str | None = None
    unknown: tuple[str, ...] = ()


def nearest(name: str) -> str:
    """Return a question for the member that was perhaps meant, or nothing."""
    known = difflib.get_close_matches(name[:LONGEST_NAME], MEMBERS, 1)
    return f"; did you mean `{known[0]}`?" if known else ""


class _Repeated(ValueError):
    """A member that stands twice: two readers would take two different ones."""


def parse(text: str) -> tuple[ModelOptions, ...]:
    """Return what is said of each model and version."""
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except _Repeated as error:
        raise ValueError(str(error)) from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON; check quotes, commas and braces, and the `\\` at each line's end") from None
    return tuple(_options(document))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _Repeated(f"has `{repeated[:LONGEST_NAME]}` twice in one object; keep one")
    return members


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _options(document: Any) -> Iterator[ModelOptions]:
    for model, versions in _members(document, "it"):
        if NAME.fullmatch(model) is None:
            raise ValueError(f"has the model name `{model}`; use letters, digits, `_`, `.` and `-`")
        defaults = []
        for version, options in _members(versions, f"`{model}`"):
            _verify(f"`{model}` version `{version}`", dict(_members(options, f"`{model}` version `{version}`")))
            defaults += [version] if options.get("defaultVersion") else []
            unknown = tuple(name for name in options if name not in MEMBERS)
            yield ModelOptions(model, version, options.get("marName"), unknown)
        if len(defaults) > 1:
            raise ValueError(f"has {len(defaults)} default versions of `{model}`: {', '.join(defaults)}; keep one")


def _members(value: Any, what: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - all readers raise alike
            f'is wrong: {what} is not a JSON object; write {{"name": {{"version": {{"minWorkers": 1}}}}}}'
        )
    yield from value.items()


def _verify(what: str, options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name in NUMBERS:
            _verify_number(what, name, value)
        elif name == "defaultVersion":
            _verify_that(isinstance(value, bool), what, name, "is neither true nor false")
        elif name == "marName":
            bare = isinstance(value, str) and NAME.fullmatch(value) is not None
            _verify_that(bare, what, name, "is not the bare name of an archive in the model store")
        elif name == "runtimeType":
            _verify_that(value == "python", what, name, "is not `python`; another one runs a program from the PATH")
    least, most = options.get("minWorkers", 0), options.get("maxWorkers", INT_MAX)
    if least > most:
        raise ValueError(f"has more `minWorkers` ({least}) than `maxWorkers` ({most}) in {what}")


def _verify_number(what: str, name: str, value: Any) -> None:
    right = type(value) is int and NUMBERS[name] <= value <= INT_MAX
    _verify_that(right, what, name, f"is not a whole number from {NUMBERS[name]}; TorchServe would take its default")


def _verify_that(right: object, what: str, name: str, why: str) -> None:
    if not right:
        raise ValueError(f"is wrong in {what}: `{name}` {why}")
