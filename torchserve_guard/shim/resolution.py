"""The resolution: which configuration a command line means, as ts/model_server.py and ConfigManager.java have it.

`TS_CONFIG_FILE` beats `--ts-config`, which beats `./config.properties`; without any of them there are defaults and
flags. A snapshot, which stock would take before `./config.properties`, is never loaded (hazards H08 to H10).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard import looks
from torchserve_guard.settings import Flags, properties
from torchserve_guard.settings.keys import KEYS
from torchserve_guard.settings.stock import RealDisk
from torchserve_guard.shim.commandline import CommandLine

OWN = "guard."
VARIABLES = "TSGUARD_"
CURRENT = "config.properties"
EXPLICIT = "explicit"


class Refused(Exception):
    """A command line that stock does not take, in stock's words; it exits with status 1."""


@dataclass(frozen=True, slots=True)
class Options:
    """The guard's own options: baked into the shim, else from `TSGUARD_PROFILE` and `TSGUARD_MODEL_CONTROL_MODE`."""

    profile: str | None = None
    mode: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What to load the settings from, and what to say about it. `config` is None for defaults and flags alone."""

    config: Path | None
    flags: Flags
    notes: tuple[str, ...]


def resolve(line: CommandLine, options: Options, environment: Mapping[str, str], cwd: Path) -> Resolved:
    """Return what a start is made from. Raises `Refused`, or `ConfigError` for a file that cannot be read."""
    _verify_files(line, environment, cwd)
    named = environment.get("TS_CONFIG_FILE", line.ts_config)
    if named and not looks.is_file(cwd / named):
        raise Refused(f"--ts-config file not found: {named}")
    config = Path(named) if named else _current(named, cwd)
    given = {one.key: one.value for one in properties.read(cwd / config)} if config is not None else {}
    _verify_stores(line, given if named else {}, cwd)
    asked = _Asked(line, options, given)
    flags = _flags(asked, dict(_from_environment(environment)), cwd)
    if named is not None:
        return Resolved(config, flags, tuple(_about_mode(asked)))
    notes = (*_about_current(config, cwd), *_about_snapshots(line, environment, cwd), *_about_mode(asked))
    return Resolved(config, flags, notes)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for: on the command line, of the shim, and in the file."""

    line: CommandLine
    options: Options
    given: Mapping[str, str]

    @property
    def managed(self) -> bool:
        """Whether stock would let models be managed at run time."""
        return self.line.enable_model_api or self.given.get("enable_model_api", "").strip().lower() == "true"


def _current(named: str | None, cwd: Path) -> Path | None:
    """Return ./config.properties if it is there, unless a configuration was named, be it by an empty name."""
    return Path(CURRENT) if named is None and looks.is_file(cwd / CURRENT) else None


def _verify_files(line: CommandLine, environment: Mapping[str, str], cwd: Path) -> None:
    if line.log_config and not looks.is_file(cwd / line.log_config):
        raise Refused(f"--log-config file not found: {(cwd / line.log_config).resolve()}")
    temporary = environment.get("TEMP")
    if temporary and not looks.is_folder(cwd / temporary):
        raise Refused(f"Invalid temp directory: {temporary}, please check TEMP environment variable.")


def _verify_stores(line: CommandLine, given: Mapping[str, str], cwd: Path) -> None:
    # Stock looks for `model_store` in the file that was named, and not in ./config.properties.
    store = line.model_store or given.get("model_store")
    if not store:
        raise Refused("Missing mandatory parameter --model-store")
    # `$$NAME$$` is expanded by the settings, and checked there.
    if "$$" not in store and not looks.is_folder(cwd / store):
        raise Refused(f"--model-store directory not found: {store}")
    if line.workflow_store and not looks.is_folder(cwd / line.workflow_store):
        raise Refused(f"--workflow-store directory not found: {line.workflow_store}")
    if line.cpp_log_config and not looks.is_file(cwd / line.cpp_log_config):
        raise Refused(f"--cpp-log-config file not found: {(cwd / line.cpp_log_config).resolve()}")


def _flags(asked: _Asked, overrides: dict[str, str], cwd: Path) -> Flags:
    line = asked.line
    if line.log_config is None and "guard.frontend_log" not in asked.given:
        # Who put the shim in stock's place may read stock's log files.
        overrides.setdefault("guard.frontend_log", "stock")
    return Flags(
        model_store=line.model_store or None,
        workflow_store=line.workflow_store,
        models=line.models,
        log_config=str(cwd / line.log_config) if line.log_config else None,
        cpp_log_config=line.cpp_log_config,
        plugins_path=line.plugins_path,
        disable_token_auth=line.disable_token_auth,
        enable_model_api=line.enable_model_api,
        profile=asked.options.profile,
        model_control_mode=_mode(asked),
        overrides=overrides,
    )


def _mode(asked: _Asked) -> str | None:
    """Return the mode to insist on, None to leave it to the configuration.

    INVARIANT: never more than stock. The option says what is permitted at most; that models are managed at all must
    be asked for as stock is asked, by `--enable-model-api` or its key, or by the guard's own key in the file.
    """
    mode = asked.options.mode
    return None if mode == EXPLICIT and not asked.managed else mode


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the keys of the guard's that a variable gives: `TSGUARD_STATE_DIR` is `guard.state_dir`."""
    for key in KEYS:
        variable = VARIABLES + key.removeprefix(OWN).upper()
        if key.startswith(OWN) and key != "guard.profile" and environment.get(variable):
            yield key, environment[variable]


def _about_current(config: Path | None, cwd: Path) -> Iterator[str]:
    if config is not None:
        yield f"reading {cwd / config}, as TorchServe does when no configuration is named"


def _about_snapshots(line: CommandLine, environment: Mapping[str, str], cwd: Path) -> Iterator[str]:
    snapshots = cwd / (environment.get("LOG_LOCATION") or "logs") / "config"
    if not line.no_config_snapshots and RealDisk(cwd).files(str(snapshots)):
        yield f"the snapshots in {snapshots} are not loaded: what serves is what configuration and flags say"


def _about_mode(asked: _Asked) -> Iterator[str]:
    given = asked.managed or not asked.given.keys().isdisjoint({"model-control-mode", "model_control_mode"})
    if asked.options.mode == EXPLICIT and not given:
        yield (
            "models are not managed at run time: it would be permitted, and neither --enable-model-api nor the "
            "configuration asks for it"
        )
