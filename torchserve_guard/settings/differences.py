"""The differences: lines that TorchServe's two readers take differently, and keys of the guard's in the wrong place.

The launcher reads `vmargs`, `plugins_path` and `model_store` for itself, the JVM reads everything. The guard reads as
the JVM does, and what it writes for TorchServe means one thing. `docs/checks.md` has a section for each rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings import misplaced, properties, values
from torchserve_guard.settings.keys import KEYS
from torchserve_guard.settings.reading import shown
from torchserve_guard.settings.stock import Disk, launcher
from torchserve_guard.settings.stock.launcher import ACTED_ON
from torchserve_guard.settings.stock.substitution import substitute

MOST = 100  # findings of one rule: more say no more, and a file of a megabyte has room for many
RUNS_CODE = frozenset({"vmargs", "plugins_path"})
# An escape that stands for a character which needs none, and a backslash that Java takes away without a word.
NEEDLESS = re.compile(r"(?<!\\)(?:\\\\)*\\u00[2-7][0-9A-Fa-f]")
DROPPED = re.compile(r"""(?<!\\)(?:\\\\)*(\\[^\\tnrfu=:#! "'])""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Told:
    """One file as both readers see it, and what is around it."""

    config: Path
    data: bytes
    logical: tuple[properties.Logical, ...]
    java: tuple[properties.Property, ...]
    naive: tuple[launcher.Line, ...]
    environment: Mapping[str, str]
    disk: Disk

    def at(self, line: int | None) -> Location:
        """Return the place of a line."""
        return Location(str(self.config), line)


def check(config: Path, data: bytes, environment: Mapping[str, str], disk: Disk) -> tuple[Finding, ...]:
    """Return the findings of every rule, in the order of the table. Raises `ConfigError` for what Java refuses."""
    text = data.decode("latin-1")
    java = properties.elements(data, str(config))
    told = Told(config, data, tuple(properties.logical_lines(text)), java, _naive(data), environment, disk)
    return tuple(finding for rule in RULES for finding in islice(rule(told), MOST))


def _naive(data: bytes) -> tuple[launcher.Line, ...]:
    """Return the launcher's reading; of what is not UTF-8, which it does not survive, as much as can be read."""
    try:
        return launcher.load_properties(data)
    except UnicodeDecodeError:
        return launcher.load_properties(data.decode("utf-8", "replace").encode())


def _launcher_differs(told: Told) -> Iterator[Finding]:
    for key in ACTED_ON:
        java = next((one for one in reversed(told.java) if one.key == key), None)
        naive = next((one for one in reversed(told.naive) if one.key == key), None)
        if (java and java.value.strip()) == (naive and naive.value):
            continue
        severity = Severity.HIGH if key in RUNS_CODE else Severity.MEDIUM
        place = naive or java
        yield Finding(
            "TSG022",
            severity,
            f"`{key}` is {_said(key, naive)} for stock's launcher and {_said(key, java)} for the JVM and the guard",
            f"write `{key}=value` on a line of its own, without escapes and continuation, and once",
            told.at(place.line if place else None),
            key=key,
        )


def _said(key: str, one: properties.Property | launcher.Line | None) -> str:
    return "not there" if one is None else f"`{shown(key, one.value)}` (line {one.line})"


def _hidden(told: Told) -> Iterator[Finding]:
    for line, first in _inside(told):
        if line.key in KEYS and line.key not in ACTED_ON:
            yield Finding(
                "TSG023",
                Severity.MEDIUM,
                f"`{line.key}=...` looks like a setting and is none: it continues line {first}",
                f"remove the backslash at the end of line {line.line - 1}, or this line",
                told.at(line.line),
                key=line.key,
            )


def _inside(told: Told) -> Iterator[tuple[launcher.Line, int]]:
    """Yield each line of the launcher's that is for Java the continuation of another, and where that one starts."""
    starts = {number: one.first for one in told.logical for number in range(one.first + 1, one.last + 1)}
    for line in told.naive:
        if line.line in starts:
            yield line, starts[line.line]


def _disguised(told: Told) -> Iterator[Finding]:
    for line, one in zip(told.logical, told.java, strict=True):
        raw, value = properties.split(line.text)
        if one.key in KEYS and raw != one.key:
            yield _plainly(
                told, one, Severity.MEDIUM, f"the key `{one.key}` is written as `{shown('', raw)}`: a search misses it"
            )
        elif one.key in KEYS and NEEDLESS.search(value):
            yield _plainly(told, one, Severity.LOW, f"the value of `{one.key}` holds escapes of plain characters")


def _plainly(told: Told, one: properties.Property, severity: Severity, message: str) -> Finding:
    return Finding("TSG024", severity, message, "write it in plain characters", told.at(one.line), key=one.key)


def _backslash_dropped(told: Told) -> Iterator[Finding]:
    for line, one in zip(told.logical, told.java, strict=True):
        dropped = DROPPED.search(properties.split(line.text)[1])
        if dropped and one.key in KEYS:
            escape, value = shown(one.key, dropped[1]), shown(one.key, one.value)
            message = f"Java drops the backslash of `{escape}`: `{one.key}` is `{value}`"
            remedy = "write it twice to keep it, or leave it out"
            yield Finding("TSG025", Severity.MEDIUM, message, remedy, told.at(line.first), key=one.key)


def _one_reader_only(told: Told) -> Iterator[Finding]:
    naive = {(one.key, one.line) for one in told.naive}
    for line, one in zip(told.logical, told.java, strict=True):
        seen = any((one.key, number) in naive for number in range(line.first, line.last + 1))
        if one.key in KEYS and one.key not in ACTED_ON and not seen and properties.split(line.text)[0] == one.key:
            why = "stock's launcher does not see it, which knows `key=value` on one line and nothing else"
            yield _seen_by_one(told, one.key, line.first, why)
    inside = {line.line for line, _ in _inside(told)}
    java = {(one.key, one.line) for one in told.java}
    for other in told.naive:
        if (
            other.key in KEYS
            and other.key not in ACTED_ON
            and other.line not in inside
            and (other.key, other.line) not in java
        ):
            yield _seen_by_one(
                told, other.key, other.line, "stock's launcher sees it, and neither the JVM nor the guard does"
            )


def _seen_by_one(told: Told, key: str, line: int, why: str) -> Finding:
    remedy = f"write `{key}=value`, with nothing before it"
    return Finding("TSG026", Severity.LOW, f"`{key}`: {why}", remedy, told.at(line), key=key)


def _not_plain(told: Told) -> Iterator[Finding]:
    for line, one in zip(told.logical, told.java, strict=True):
        if one.key in KEYS and one.value != one.value.rstrip():
            yield _plain(told, line.last, one.key, "ends in a blank, which Java keeps and stock's launcher takes away")
        if not line.text.isascii():
            yield _plain(
                told, line.first, one.key, "holds bytes beyond ASCII: Java reads them as ISO 8859-1, others as UTF-8"
            )
    try:
        told.data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = 1 + len(properties.LINE_END.findall(told.data[: error.start].decode("latin-1")))
        if not any(line.first <= number <= line.last for line in told.logical):
            yield _plain(told, number, None, "holds a byte that is not UTF-8: stock's launcher ends there")


def _plain(told: Told, line: int, key: str | None, what: str) -> Finding:
    message = f"`{shown('', key)}` {what}" if key is not None else f"a comment {what}"
    remedy = "remove the blank; write \\u and four hex digits for what is not ASCII"
    return Finding("TSG027", Severity.LOW, message, remedy, told.at(line), key=key)


def _misplaced(told: Told) -> Iterator[Finding]:
    return misplaced.check(told.config, told.java, told.environment, told.disk)


def _substituted_otherwise(told: Told) -> Iterator[Finding]:
    for one in told.java:
        if one.key not in KEYS or "$$" not in one.value:
            continue
        why = _otherwise(one, told.environment)
        if why is not None:
            remedy = "write the value out, or use a variable whose value holds no `$` and no backslash"
            message = f"`{one.key}={shown(one.key, one.value)}`: {why}"
            yield Finding("TSG029", Severity.LOW, message, remedy, told.at(one.line), key=one.key)


def _otherwise(one: properties.Property, environment: Mapping[str, str]) -> str | None:
    """Return why stock makes something else of a `$$NAME$$` than the guard does, None when it does not."""
    try:
        ours = values.expand(one.value, environment)
    except ValueError:
        return None  # a complaint already
    if one.key in ACTED_ON and ours != one.value:
        return "stock's launcher takes it as it stands, and looks up no variable"
    try:
        same = substitute(one.value, environment) == ours
    except ValueError:
        return "stock would not start with what the variable holds"
    return None if same else "stock replaces names of two characters and more, and takes `$` and `\\` for its own"


RULES = (
    _launcher_differs,
    _hidden,
    _disguised,
    _backslash_dropped,
    _one_reader_only,
    _not_plain,
    _misplaced,
    _substituted_otherwise,
)
