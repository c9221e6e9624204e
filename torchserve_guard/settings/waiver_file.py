"""The waiver file: a YAML list of waivers, read within limits and believed only when every entry is whole.

    - rule: TSG021                      # the rule, and then either a key with its value or a subject
      key: enable_modle_api
      value: "true"
      reason: the fork that we run knows this key
      owner: platform-team@example.com
      expires: 2027-03-31               # the last day, in UTC

A complaint names the line. YAML's aliases, tags and repeated keys are refused: nothing here needs them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Location, Waiver

LARGEST_FILE = 256 * 1024
DEEPEST = 4
NEVER = frozenset({"TSG080", "TSG081"})
RULE = re.compile(r"TSG(-SCAN-)?[0-9]{3}")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
WRITE = "a waiver is `rule`, `reason`, `owner`, `expires` and either `subject` or `key` with `value`"
Text = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]


class _Entry(BaseModel):
    """One entry, as it is written."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    rule: Text
    reason: Text
    owner: Text
    expires: date
    subject: str | None = None
    key: Text | None = None
    value: str | None = None
    path: Text | None = None

    @field_validator("rule")
    @classmethod
    def _a_rule(cls, text: str) -> str:
        if RULE.fullmatch(text) is None:
            raise _wrong("is not the name of a rule, like TSG021 or TSG-SCAN-003")
        if text in NEVER:
            raise _wrong("is about waivers, and cannot be waived")
        return text

    @field_validator("expires", mode="before")
    @classmethod
    def _a_day(cls, text: str) -> date:
        try:
            if DAY.fullmatch(text) is not None:
                return date.fromisoformat(text)
        except ValueError:
            pass  # 2027-02-30: told like any other text that is no day
        raise _wrong("is not a day, like 2027-03-31")

    @field_validator("subject")
    @classmethod
    def _a_digest(cls, text: str) -> str:
        if re.fullmatch(r"sha256:[0-9a-f]{64}", text) is None:
            raise _wrong("is not `sha256:` and 64 digits from 0 to f, as `tsguard manifest show` prints them")
        return text.removeprefix("sha256:")

    @model_validator(mode="after")
    def _is_bound(self) -> Self:
        by_value = self.key is not None and self.value is not None
        if (self.key is None) != (self.value is None) or by_value == (self.subject is not None):
            raise _wrong(f"is bound to nothing, or to too much; {WRITE}")
        return self


def _wrong(why: str) -> PydanticCustomError:
    # Its text is a template; no foreign word is put into it.
    return PydanticCustomError("waiver", why)


class _Plain(yaml.BaseLoader):
    """A reader of text, lists and mappings: a value is the text that was written, `yes` and `0777` too."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; refuse an alias, which makes a small file a large one."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or _tagged(event):
            raise yaml.MarkedYAMLError(problem="an anchor, alias or tag", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _tagged(event: yaml.Event) -> bool:
    return getattr(event, "tag", None) is not None


def read(path: Path) -> tuple[Waiver, ...]:
    """Return the waivers in a file. Raises one `ConfigError` with every complaint; never waits on a pipe."""
    document = _document(path, _text(path))
    if document is None:
        return ()
    if not isinstance(document, yaml.SequenceNode):
        raise ConfigError(f"{path}:{_line(document)}: is not a list; {WRITE}, with `-` before its first word")
    complaints: list[str] = []
    waivers = [_waiver(path, node, complaints) for node in document.value]
    if complaints:
        raise ConfigError.of(complaints)
    return tuple(waiver for waiver in waivers if waiver is not None)


def _text(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); see `guard.waivers`") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path}: is not a regular file; see `guard.waivers`")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ConfigError(f"{path}: is larger than {LARGEST_FILE} bytes; so many waivers protect nothing")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error


def _document(path: Path, text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Plain)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ConfigError(f"{path}:{line}: is not the YAML of waivers: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply; {WRITE}") from error


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _waiver(path: Path, node: yaml.Node, complaints: list[str]) -> Waiver | None:
    """Return the waiver at a node; None when there is a complaint about it."""
    before = len(complaints)
    fields = _fields(path, node, complaints)
    if len(complaints) > before:
        return None
    try:
        entry = _Entry.model_validate({name: value for name, (value, _) in fields.items()})
    except ValidationError as error:
        complaints += _said(path, _line(node), fields, error.errors(include_url=False))
        return None
    return Waiver(
        rule=entry.rule,
        owner=entry.owner,
        reason=entry.reason,
        expires=entry.expires,
        written=Location(str(path), _line(node)),
        subject=entry.subject,
        key=entry.key,
        value=entry.value,
        path=os.path.realpath(path.parent / entry.path) if entry.path is not None else None,
    )


Fields = dict[str, tuple[str, int]]


def _fields(path: Path, node: yaml.Node, complaints: list[str]) -> Fields:
    """Return the words of an entry, each with its line."""
    if not isinstance(node, yaml.MappingNode):
        complaints.append(f"{path}:{_line(node)}: is not a waiver; {WRITE}")
        return {}
    fields: Fields = {}
    for name, value in node.value:
        where = f"{path}:{_line(name)}"
        if not isinstance(name, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            complaints.append(f"{where}: a word of a waiver is a text, and no list or mapping; {WRITE}")
        elif name.value in fields:
            complaints.append(f"{where}: `{name.value}` is given twice; keep one")
        elif not value.value and value.style is None:
            complaints.append(f'{where}: `{name.value}` has nothing after it; write "" if nothing is what is meant')
        else:
            fields[name.value] = (value.value, _line(name))
    return fields


def _said(path: Path, line: int, fields: Fields, errors: Iterable[ErrorDetails]) -> Iterator[str]:
    for error in errors:
        name = str(error["loc"][0]) if error["loc"] else None
        if name is None:
            yield f"{path}:{line}: {error['msg']}"
        elif error["type"] == "missing":
            yield f"{path}:{line}: `{name}` is missing; {WRITE}"
        elif error["type"] == "extra_forbidden":
            yield f"{path}:{fields[name][1]}: `{name}` is no word of a waiver; {WRITE}"
        elif error["type"] == "waiver":
            yield f"{path}:{fields[name][1]}: `{name}: {fields[name][0][:120]}` {error['msg']}"
        else:
            yield f"{path}:{fields[name][1]}: `{name}` is empty, blank or too long; say what is meant"
