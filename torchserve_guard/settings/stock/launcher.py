"""The launcher: what `torchserve --start` itself makes of its flags and of the configuration, before the JVM.

It is the program ts/model_server.py of TorchServe 0.12.0, which reads `vmargs`, `plugins_path` and `model_store` with a
reader of its own; the JVM reads the same file with another. Pure but for the `Disk` that is an argument.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings.stock.disk import Disk

LOG_OPTION = "-Dlog4j.configurationFile="
HOME = "the folder that TorchServe is installed in"
ACTED_ON = ("vmargs", "plugins_path", "model_store")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The flags of `torchserve --start`; None or False where they were not given."""

    ts_config: str | None = None
    model_store: str | None = None
    workflow_store: str | None = None
    models: tuple[str, ...] = ()
    log_config: str | None = None
    cpp_log_config: str | None = None
    plugins_path: str | None = None
    no_config_snapshots: bool = False
    disable_token_auth: bool = False
    enable_model_api: bool = False
    foreground: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One `key=value` as the launcher reads it, and the line (from 1) that it stands on."""

    key: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Launched:
    """What the launcher hands to the JVM, and what it read for that; `refusals` say why it would not start one.

    `config` goes with `-f`, `store` with `-s`; `options` are the words of `vmargs`, `plugins` the additions to the
    class path, `system` the properties that the JVM is given (`-DNAME=VALUE`).
    """

    config: str | None
    lines: tuple[Line, ...]
    store: str | None
    options: tuple[str, ...]
    plugins: tuple[str, ...]
    system: Mapping[str, str]
    refusals: tuple[str, ...]

    def value(self, key: str) -> str | None:
        """Return what the launcher read for a key; the last of two counts."""
        return next((one.value for one in reversed(self.lines) if one.key == key), None)


def load_properties(data: bytes) -> tuple[Line, ...]:
    """Return the lines that the launcher takes for properties, in their order.

    It knows neither continuation nor escape, nor another separator than `=`. Raises `UnicodeDecodeError`, as the
    launcher does in a UTF-8 locale.
    """
    text = re.sub("\r\n?", "\n", data.decode("utf-8"))
    found = (_line(number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return tuple(line for line in found if line is not None)


def _line(number: int, text: str) -> Line | None:
    key, separator, value = text.partition("=")
    return Line(key.strip(), value.strip(), number) if separator and not text.startswith("#") else None


def vm_arguments(text: str, log_config: str | None) -> tuple[str, ...]:
    """Return the words of `vmargs` that reach the JVM: `--log-config` takes the place of the same option in them."""
    return tuple(word for word in text.split() if not log_config or not word.startswith(LOG_OPTION))


def class_path(plugins: str) -> str:
    """Return what a folder of plugins adds to the class path; of `a:b` only the last gets its `/*`."""
    return plugins if "*" in plugins else f"{plugins}/*"


def launch(line: CommandLine, environment: Mapping[str, str], disk: Disk) -> Launched:
    """Return what the launcher hands on. What it would stop at is in `refusals`, and the rest goes on."""
    config = environment.get("TS_CONFIG_FILE", line.ts_config) or None
    refusals: list[str] = []
    lines = _lines(config, disk, refusals) if config is not None and disk.is_file(config) else ()
    read = {one.key: one.value for one in lines}
    store = line.model_store or read.get("model_store") or None
    options = vm_arguments(read.get("vmargs", ""), line.log_config)
    refusals = [*_refusals(line, environment, disk, config, store), *refusals]
    plugins = tuple(class_path(one) for one in (read.get("plugins_path"), line.plugins_path) if one)
    return Launched(config, lines, store, options, plugins, _system(options, environment), tuple(refusals))


def _lines(config: str, disk: Disk, refusals: list[str]) -> tuple[Line, ...]:
    try:
        return tuple(one for one in load_properties(disk.read(config)) if one.key in ACTED_ON)
    except UnicodeDecodeError as error:
        refusals.append(f"the launcher ends with a traceback: {config} is not UTF-8 at byte {error.start}")
    except ConfigError as error:
        refusals.append(str(error))
    return ()


def _refusals(
    line: CommandLine, environment: Mapping[str, str], disk: Disk, config: str | None, store: str | None
) -> list[str]:
    """Return what the launcher stops at, in its order: each file and folder that it is told of has to be there."""
    temporary = environment.get("TEMP")
    asked = (
        ("--log-config file not found", line.log_config, disk.is_file),
        ("Invalid temp directory (TEMP)", temporary, disk.is_folder),
        ("--ts-config file not found", config, disk.is_file),
        ("--model-store directory not found", store, disk.is_folder),
        ("--workflow-store directory not found", line.workflow_store, disk.is_folder),
        ("--cpp-log-config file not found", line.cpp_log_config, disk.is_file),
    )
    missing = [f"{what}: {path}" for what, path, is_there in asked if path and not is_there(path)]
    return missing if store else [*missing, "Missing mandatory parameter --model-store"]


def _system(options: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the properties of the JVM in the order in which it takes them: the last of two counts."""
    before = [_words(environment.get(name, "")) for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")]
    temporary = environment.get("TEMP")
    own = [f"-Dmodel_server_home={HOME}", *([f"-Djava.io.tmpdir={temporary}"] if temporary else [])]
    words = [*before[0], *before[1], *own, *options, *_words(environment.get("_JAVA_OPTIONS", ""))]
    pairs = (word[2:].partition("=") for word in words if word.startswith("-D"))
    return {name: value for name, _, value in pairs}


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
