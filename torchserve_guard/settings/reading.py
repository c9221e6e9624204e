"""The reading: what was given for each key and where, what is wrong with it, what is worth a finding."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings import properties, values
from torchserve_guard.settings.keys import KEYS, NOT_YET, Fate, Key

LONGEST_QUOTE = 120
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of `torchserve --start`, as given; None or False where they were not."""

    model_store: str | None = None
    workflow_store: str | None = None
    models: tuple[str, ...] = ()
    log_config: str | None = None
    cpp_log_config: str | None = None
    plugins_path: str | None = None
    disable_token_auth: bool = False
    enable_model_api: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the guard was started: its environment, working directory and home."""

    environment: Mapping[str, str]
    cwd: Path
    home: Path


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was given, and where: `config.properties:12` or the flag."""

    text: str
    where: str
    line: int | None = None


class Reading:
    """One reading of one configuration; complaints are collected, never raised."""

    def __init__(self, config: Path, around: Surroundings) -> None:
        self.config = config
        self.around = around
        self.given: dict[str, Given] = {}
        self.complaints: list[str] = []
        self.findings: list[Finding] = []

    def take_file(self, found: tuple[properties.Property, ...]) -> None:
        """Take the properties of the file; the last of two counts, as in Java."""
        for item in found:
            where = f"{self.config}:{item.line}"
            name = item.key.replace("model_control_mode", "model-control-mode")
            if name in self.given:
                self._twice(name, item, where)
            key = KEYS.get(name)
            if key is None:
                self._unknown(item, where)
            elif self._acceptable(key, item, where):
                self.given[name] = Given(self._expanded(item, where), where, item.line)

    def take_flags(self, flags: Flags) -> None:
        """Take the flags; a flag beats the file."""
        texts = {
            "model_store": flags.model_store,
            "workflow_store": flags.workflow_store,
            "load_models": ",".join(flags.models) or None,
            "guard.frontend_log": flags.log_config,
            "disable_token_authorization": "true" if flags.disable_token_auth else None,
            "enable_model_api": "true" if flags.enable_model_api else None,
            **flags.overrides,
        }
        self.given |= {name: Given(text, f"flag for {name}") for name, text in texts.items() if text is not None}
        for flag, value in (("plugins_path", flags.plugins_path), ("cpp_log_config", flags.cpp_log_config)):
            if value is not None:
                self.complaints.append(f"--{flag.replace('_', '-')} `{value}` {KEYS[flag].why}")

    def read(self, name: str, reader: Callable[[str], T], default: T) -> T:
        """Return what `reader` makes of the value given for `name`; a `ValueError` becomes a complaint."""
        given = self.given.get(name)
        if given is None:
            return default
        try:
            return reader(given.text)
        except ValueError as error:
            self.complain(name, str(error))
            return default

    def value(self, name: str, default: T) -> T:
        """Return the value of a key as its row in the table reads it."""
        return cast("T", self.read(name, lambda text: values.parse(KEYS[name], text), cast("values.Value", default)))

    def path(self, name: str, default: Path) -> Path:
        """Return a path, taken from the working directory when it is relative."""
        return self.around.cwd / str(self.value(name, str(default)))

    def complain(self, name: str, why: str) -> None:
        """Add the complaint about the value of `name`, once."""
        given = self.given.get(name)
        text = f"{name}={shown(name, given.text)}" if given is not None else name
        complaint = f"{given.where if given is not None else self.config}: `{text}` {why}"
        if complaint not in self.complaints:
            self.complaints.append(complaint)

    def line_of(self, name: str) -> int | None:
        """Return the line where a key stands in the file; 0 for a flag, None when it was not given."""
        given = self.given.get(name)
        return None if given is None else given.line or 0

    def _twice(self, name: str, item: properties.Property, where: str) -> None:
        if KEYS[name].fate is Fate.GUARD:
            self.complaints.append(f"{where}: `{item.key}` is given twice, first at {self.given[name].where}; keep one")
        else:
            self._find("TSG020", item, f"`{item.key}` is given twice; the last one counts", "keep one of them")

    def _unknown(self, item: properties.Property, where: str) -> None:
        known = difflib.get_close_matches(item.key, [*KEYS, *NOT_YET], 1)
        nearest = f"; did you mean `{known[0]}`?" if known else ""
        if item.key in NOT_YET:
            self.complaints.append(f"{where}: `{item.key}`: {NOT_YET[item.key]}; remove it")
        elif item.key.lower().startswith(("guard.", "model-control", "model_control")):
            self.complaints.append(f"{where}: `{item.key}` is not a key of the guard{nearest}")
        else:
            message = f"`{item.key}` is not a key of TorchServe 0.12.0{nearest}"
            self._find("TSG021", item, message, "correct or remove it")

    def _acceptable(self, key: Key, item: properties.Property, where: str) -> bool:
        if key.fate is Fate.REFUSE and item.value.strip().lower() not in key.harmless:
            self.complaints.append(f"{where}: `{key.name}={shown(key.name, item.value)}` {key.why}")
        return key.fate is not Fate.REFUSE

    def _expanded(self, item: properties.Property, where: str) -> str:
        try:
            return values.expand(item.value, self.around.environment)
        except ValueError as error:
            self.complaints.append(f"{where}: `{item.key}` {error}")
            return item.value

    def _find(self, rule: str, item: properties.Property, message: str, remedy: str) -> None:
        where = Location(str(self.config), item.line)
        self.findings.append(Finding(rule, Severity.LOW, message, remedy, where, key=item.key))


def shown(name: str, text: str) -> str:
    """Return the value as a message may quote it: short, and no secret."""
    if "pass" in name.rpartition(".")[2].split("_"):
        return "..."
    return text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 3] + "..."
