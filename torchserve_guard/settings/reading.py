"""The reading: what was given for each key and where, what is wrong with it, what is worth a finding."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from torchserve_guard.errors import ConfigError
from torchserve_guard.escape import printable
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.origin import redacted
from torchserve_guard.settings import properties, values
from torchserve_guard.settings.keys import KEYS, NOT_YET, Fate, Key

LONGEST_QUOTE = 120
LONGEST_NAME = 80
MOST_UNKNOWN = 100
SPELLINGS = {"model_control_mode": "model-control-mode"}
OWN = ("guard.", "model-control", "model_control")
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
    profile: str | None = None
    model_control_mode: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the guard was started: its environment, working directory and home.

    `user` and `umask` are those of its process, `programs` the files that it runs; what is not known is not judged.
    """

    environment: Mapping[str, str]
    cwd: Path
    home: Path
    user: int | None = None
    umask: int | None = None
    programs: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was given, and where: `config.properties:12` or the flag; `raw` as it stands in the file."""

    text: str
    where: str
    line: int | None = None
    raw: str | None = None


class Reading:
    """One reading of one configuration; complaints are collected, never raised."""

    def __init__(self, config: Path, around: Surroundings) -> None:
        self.config = config
        self.around = around
        self.given: dict[str, Given] = {}
        self.complaints: list[str] = []
        self.unknown = 0
        self.unexpanded: set[str] = set()
        self.findings: list[Finding] = []

    def take_file(self, found: tuple[properties.Property, ...]) -> None:
        """Take the properties of the file; the last of two counts, as in Java."""
        for item in found:
            where = f"{self.config}:{item.line}"
            name = SPELLINGS.get(item.key, item.key)
            if name in self.given:
                self._twice(name, item, where)
            key = KEYS.get(name)
            if key is None:
                self._unknown(item, where)
            elif self._acceptable(key, item, where):
                self.given[name] = Given(self._expanded(item, where), where, item.line, item.value)

    def take_flags(self, flags: Flags) -> None:
        """Take the flags; a flag beats the file."""
        texts = {
            "model_store": flags.model_store,
            "workflow_store": flags.workflow_store,
            "load_models": ",".join(flags.models) or None,
            "guard.frontend_log": flags.log_config,
            "disable_token_authorization": "true" if flags.disable_token_auth else None,
            "enable_model_api": "true" if flags.enable_model_api else None,
            "guard.profile": flags.profile,
            "model-control-mode": flags.model_control_mode,
            **flags.overrides,
        }
        self.given |= {name: Given(text, _flag(name)) for name, text in texts.items() if text is not None}
        for name, value in (("plugins_path", flags.plugins_path), ("cpp_log_config", flags.cpp_log_config)):
            if value is not None:
                self.complaints.append(f"{_flag(name)}: `{shown(name, value)}` {KEYS[name].why}")

    def take_variables(self) -> None:
        """Take the TS_* variables, if the file lets them: they beat the flags (ConfigManager.setSystemVars).

        INVARIANT: what they say is held against every rule, since TorchServe is told to read none of them.
        """
        if not self.value("enable_envvars_config", default=False):
            return
        taken = {key: text for key in KEYS.values() if (text := self._overriding(key)) is not None}
        for key, text in taken.items():
            given = Given(text, f"environment variable {key.variable}")
            if key.fate is not Fate.REFUSE:
                self.given[key.name] = given
            elif text.strip().lower() not in key.harmless:
                self.complaints.append(f"{given.where}: `{key.name}={shown(key.name, text)}` {key.why}")
        names = ", ".join(sorted(str(key.variable) for key in taken))
        self.find(
            "TSG030",
            Severity.HIGH,
            "`enable_envvars_config=true` lets the environment override the file and the flags; "
            + (f"it does so with {names}" if names else "no variable does so now"),
            "write the values into the file, `$$NAME$$` for what is to come from the environment, and remove the key",
            "enable_envvars_config",
        )

    def _overriding(self, key: Key) -> str | None:
        """Return what the environment says of a key; what TorchServe reads in any case is not the file's to let in."""
        if key.variable is None or key.always_read or key.name == "allowed_urls":
            return None
        return self.around.environment.get(key.variable)

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
        if given is not None and given.where in self.unexpanded:
            return  # what is wrong with it was said: it is not the value that was meant
        # As it stands in the file: what the environment put into it may be a secret.
        text = f"{name}={shown(name, given.text if given.raw is None else given.raw)}" if given is not None else name
        complaint = f"{given.where if given is not None else self.config}: `{text}` {why}"
        if complaint not in self.complaints:
            self.complaints.append(complaint)

    def find(self, rule: str, severity: Severity, message: str, remedy: str, name: str) -> None:
        """Add a finding about the value of `name`."""
        given = self.given.get(name)
        where = Location(str(self.config), given.line if given is not None else None)
        self.findings.append(Finding(rule, severity, printable(message), remedy, where, key=name))

    def _twice(self, name: str, item: properties.Property, where: str) -> None:
        if KEYS[name].fate is Fate.GUARD:
            self.complaints.append(f"{where}: `{item.key}` is given twice, first at {self.given[name].where}; keep one")
        else:
            self._find("TSG020", item, f"`{item.key}` is given twice; the last one counts", "keep one of them")

    def _unknown(self, item: properties.Property, where: str) -> None:
        if item.key in NOT_YET:
            self.complaints.append(f"{where}: `{item.key}`: {NOT_YET[item.key]}; remove it")
            return
        self.unknown += 1
        if self.unknown > MOST_UNKNOWN:
            raise ConfigError(
                f"{where}: more than {MOST_UNKNOWN} keys that neither TorchServe nor the guard knows; is this the "
                "right file?"
            )
        name = shown("", item.key)
        if item.key.lower().startswith(OWN):
            self.complaints.append(f"{where}: `{name}` is not a key of the guard{_nearest(item.key)}")
        else:
            message = f"`{name}` is not a key of TorchServe 0.12.0{_nearest(item.key)}"
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
            self.unexpanded.add(where)
            return item.value

    def _find(self, rule: str, item: properties.Property, message: str, remedy: str) -> None:
        where = Location(str(self.config), item.line)
        key = shown("", item.key)
        self.findings.append(Finding(rule, Severity.LOW, printable(message), remedy, where, key=key))


def _nearest(name: str) -> str:
    """Return a question for the key that was perhaps meant, or nothing."""
    known = difflib.get_close_matches(name, [*KEYS, *NOT_YET], 1) if len(name) <= LONGEST_NAME else []
    return f"; did you mean `{known[0]}`?" if known else ""


def _flag(name: str) -> str:
    """Return the flag that gives a key, as the command line spells it."""
    return KEYS[name].flag or f"flag for {name}"


def shown(name: str, text: str) -> str:
    """Return the value as a message may quote it: short, and no secret."""
    if "pass" in name.rpartition(".")[2].split("_"):
        return "..."
    told = redacted(text)
    return told if len(told) <= LONGEST_QUOTE else told[: LONGEST_QUOTE - 3] + "..."
