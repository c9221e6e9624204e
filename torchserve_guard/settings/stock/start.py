"""Stock TorchServe: what version 0.12.0 would use for each key, and the chain of how it came to it.

The steps are those of the launcher, and then those of the constructor in ConfigManager.java, in its order;
docs/precedence.md tells it in words. Pure but for the `Disk` that is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings import properties
from torchserve_guard.settings.keys import KEYS
from torchserve_guard.settings.stock import snapshots
from torchserve_guard.settings.stock.chain import Chain, Origin, Step
from torchserve_guard.settings.stock.disk import Disk
from torchserve_guard.settings.stock.launcher import ACTED_ON, HOME, CommandLine, Launched, launch
from torchserve_guard.settings.stock.substitution import substitute

UNSAID = "config.properties"
LAUNCHERS_OWN = frozenset(ACTED_ON) - {"model_store"}  # the JVM has no use for them
INTERPRETER = "the interpreter of the launcher"


@dataclass(frozen=True, slots=True)
class Stock:
    """What stock TorchServe would use: the chain of each key that anybody gave, and why it would not start.

    `source` is the file that its configuration comes from, None when there is none. `launched` is what the launcher
    hands to the JVM.
    """

    chains: Mapping[str, Chain]
    source: str | None
    launched: Launched
    refusals: tuple[str, ...]
    log_location: str
    metrics_location: str

    def chain(self, key: str) -> Chain:
        """Return the chain of a key, which begins with TorchServe's own value for it."""
        row = KEYS.get(key)
        told = self.chains[key].steps if key in self.chains else ()
        return Chain(key, (*_default(key), *told)) if row is not None else Chain(key, told)


def model(line: CommandLine, environment: Mapping[str, str], disk: Disk, devices: int | None = None) -> Stock:
    """Return what stock TorchServe would use when it is started so; `devices` are the GPUs, None if uncounted."""
    start = _Start(line, environment, disk, devices)
    for step in (
        start.locate,
        start.load,
        start.substitute,
        start.flags,
        start.workflows,
        start.devices,
        start.variables,
        start.regardless,
    ):
        step()
    return start.outcome()


class _Start:
    """One start of TorchServe, up to the dump of its configuration; what would stop it is noted, and it goes on."""

    def __init__(self, line: CommandLine, environment: Mapping[str, str], disk: Disk, devices: int | None) -> None:
        self.line = line
        self.environment = environment
        self.disk = disk
        self.counted = devices
        self.launched = launch(line, environment, disk)
        self.refusals = list(self.launched.refusals)
        self.source: str | None = None
        self.origin = Origin.FILE
        self.steps: dict[str, list[Step]] = {}

    def outcome(self) -> Stock:
        """Return what the start came to."""
        chains = {name: Chain(name, tuple(steps)) for name, steps in self.steps.items()}
        locations = (self._location("LOG_LOCATION"), self._location("METRICS_LOCATION"))
        return Stock(chains, self.source, self.launched, tuple(dict.fromkeys(self.refusals)), *locations)

    def locate(self) -> None:
        """Find the one source: TS_CONFIG_FILE, the flag, the newest snapshot, or ./config.properties."""
        told = self.environment.get("TS_CONFIG_FILE", self.launched.config)
        if told is None and not self.line.no_config_snapshots:
            told = self._snapshot()
        if told is None:
            told = self.launched.system.get("tsConfigFile", UNSAID)
        # An empty name is a name too: there is no such file, and nothing else is looked for.
        self.source = told if told and (self.disk.is_file(told) or self.disk.is_folder(told)) else None

    def load(self) -> None:
        """Read the source as java.util.Properties does; the last of two counts."""
        if self.source is None:
            return
        for one in self._properties(self.source):
            step = Step(self.origin, f"{self.source}:{one.line}", one.value)
            if one.key in LAUNCHERS_OWN:
                step = replace(step, counts=False, note="the JVM's reading, which it has no use for")
            self._add(one.key, step)
        self._add("tsConfigFile", Step(Origin.DERIVED, "TorchServe itself", self.source))

    def substitute(self) -> None:
        """Replace each `$$NAME$$` in what the JVM read, whether it has a use for the key or not."""
        for name, steps in self.steps.items():
            last = steps[-1]
            if last.value is None:
                continue
            try:
                value = substitute(last.value, self.environment)
            except ValueError as error:
                self.refusals.append(f"{last.where}: `{name}`: {error}")
                continue
            if value != last.value:
                steps.append(Step(Origin.EXPANSION, "the environment", value, last.counts, f"from `{last.value}`"))

    def flags(self) -> None:
        """Let the flags set their keys; the launcher passes the store that it read as one, so the JVM's is lost."""
        for one in self.launched.lines:
            note = "the launcher's reading" + ("" if one.key in LAUNCHERS_OWN else ", which it passes as a flag")
            value = one.value if one.key in LAUNCHERS_OWN else _unquoted(one.value)
            self._add(one.key, Step(Origin.LAUNCHER, f"{self.launched.config}:{one.line}", value, note=note))
        for name, flag, value in (
            ("plugins_path", "--plugins-path", self.line.plugins_path),
            ("model_store", "--model-store", _unquoted(self.line.model_store)),
            ("workflow_store", "--workflow-store", _unquoted(self.line.workflow_store)),
            ("cpp_log_config", "--cpp-log-config", _unquoted(self.line.cpp_log_config)),
            ("load_models", "--models", ",".join(str(_unquoted(one)) for one in self.line.models) or None),
            ("enable_model_api", "--enable-model-api", "true" if self.line.enable_model_api else None),
            ("disable_token_authorization", "--disable-token-auth", "true" if self.line.disable_token_auth else None),
        ):
            if value is not None:
                self._add(name, Step(Origin.FLAG, flag, value))
        self._add("python", Step(Origin.DERIVED, "--python, by the launcher", INTERPRETER))

    def workflows(self) -> None:
        """Let the workflow store be the model store when nobody named it; what comes later does not move it."""
        if self._value("workflow_store") is None and self._value("model_store") is not None:
            self._add("workflow_store", Step(Origin.DERIVED, "model_store", self._value("model_store")))

    def devices(self) -> None:
        """Let there be no more GPUs than the machine has. TS_NUMBER_OF_GPU comes later, and is not bounded."""
        told = self._number("number_of_gpu", self._value("number_of_gpu"))
        there, where = self.counted, "the devices of the machine"
        visible = self.environment.get("CUDA_VISIBLE_DEVICES")
        if visible:
            parts = [self._number("CUDA_VISIBLE_DEVICES", part) for part in visible.rstrip(",").split(",")]
            there, where = len(parts), "CUDA_VISIBLE_DEVICES"
        if there is not None:
            number = there if told is None else min(told, there)
            self._add("number_of_gpu", Step(Origin.DERIVED, where, str(number)))

    def variables(self) -> None:
        """Let TS_* variables override all of that, if `enable_envvars_config` says so."""
        enabled = (self._value("enable_envvars_config") or "").lower() == "true"
        urls = (self._value("use_env_allowed_urls") or "").lower() == "true"
        for key in KEYS.values():
            value = self.environment.get(key.variable) if key.variable is not None else None
            if value is None or key.always_read:
                continue
            lacking = "" if urls or key.name != "allowed_urls" else "use_env_allowed_urls"
            lacking = lacking if enabled else "enable_envvars_config"
            note = f"not read: `{lacking}` is not true" if lacking else ""
            self._add(key.name, Step(Origin.ENVIRONMENT, str(key.variable), value, not lacking, note))

    def regardless(self) -> None:
        """Let those count that need nobody's leave."""
        protocol = self.environment.get("TS_OPEN_INFERENCE_PROTOCOL")
        if protocol is not None:
            value, note = ("true", "") if protocol == "oip" else ("false", f"`{protocol}` is not `oip`")
            self._add(
                "ts_open_inference_protocol", Step(Origin.ENVIRONMENT, "TS_OPEN_INFERENCE_PROTOCOL", value, note=note)
            )
        home = self.launched.system["model_server_home"]
        origin = Origin.DERIVED if home == HOME else Origin.JVM
        self._add("model_server_home", Step(origin, "-Dmodel_server_home", home))
        told = self.environment.get("TS_MODEL_SERVER_HOME")
        if told is not None:
            self._add("model_server_home", Step(Origin.ENVIRONMENT, "TS_MODEL_SERVER_HOME", told))
            if not self.disk.is_folder(told):
                self.refusals.append(f"TS_MODEL_SERVER_HOME: Model server home not exist: {told}")
        if self._value("model_snapshot") is not None:
            note = "the models of the snapshot are loaded, and none of these"
            self._add("load_models", Step(Origin.SNAPSHOT, "model_snapshot", None, counts=False, note=note))
        if self.launched.system.get("TS_DEBUG", "").lower() == "true":
            self._add("debug", Step(Origin.JVM, "-DTS_DEBUG", "true"))

    def _snapshot(self) -> str | None:
        folder = f"{self._location('LOG_LOCATION')}/config"
        try:
            name = snapshots.newest(self.disk.files(folder))
        except ValueError as error:
            self.refusals.append(f"{folder}: {error}")
            return None
        self.origin = Origin.SNAPSHOT if name is not None else Origin.FILE
        return f"{folder}/{name}" if name is not None else None

    def _properties(self, source: str) -> tuple[properties.Property, ...]:
        try:
            return properties.elements(self.disk.read(source), source)
        except ConfigError as error:
            self.refusals.append(str(error))
            return ()

    def _location(self, name: str) -> str:
        return self.environment.get(name, self.launched.system.get(name, "logs"))

    def _number(self, name: str, text: str | None) -> int | None:
        if text is not None and re.fullmatch(r"[+-]?[0-9]+", text) is None:
            self.refusals.append(f"{name}: `{text}` is no number")
            return None
        return None if text is None else int(text)

    def _value(self, name: str) -> str | None:
        return Chain(name, tuple(self.steps.get(name, ()))).value

    def _add(self, name: str, step: Step) -> None:
        self.steps.setdefault(name, []).append(step)


def _unquoted(text: str | None) -> str | None:
    """Return an argument as the JVM's parser leaves it: quotes around the whole are taken away (commons-cli, Util)."""
    bare = text[1:-1] if text and len(text) > 1 and text[0] == text[-1] == '"' else '"'
    return text or None if '"' in bare else bare


def _default(name: str) -> tuple[Step, ...]:
    return (Step(Origin.DEFAULT, "TorchServe", KEYS[name].default),)
