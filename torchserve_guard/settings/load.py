"""Loading: file, flags and environment into `Settings`, with every complaint collected before failing.

A flag beats the file, as in TorchServe. The environment is read only where the file asks for it
(`$$NAME$$`) and for the folders of the guard and of the logs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import cast

from torchserve_guard.access import Mode
from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Severity
from torchserve_guard.settings import hardening, jvm, properties
from torchserve_guard.settings.address import Address
from torchserve_guard.settings.keys import KEYS, Fate, Kind
from torchserve_guard.settings.reading import Flags, Reading, Surroundings
from torchserve_guard.settings.settings import Limits, LoadItem, Settings

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DEFAULT_PORTS = {"inference": 8080, "management": 8081, "metrics": 8082}


def load(config: Path, flags: Flags, around: Surroundings) -> Settings:
    """Return the settings. Raises one `ConfigError` that carries every complaint."""
    reading = Reading(config, around)
    reading.take_file(properties.read(config))
    reading.take_flags(flags)
    _refuse_no_text(reading)
    settings = _settings(reading)
    if reading.complaints:
        raise ConfigError.of(reading.complaints)
    findings = (*reading.findings, *hardening.check(settings, around.environment, reading.line_of))
    return dataclasses.replace(settings, findings=findings)


def _settings(reading: Reading) -> Settings:
    """Return what was read; where there was a complaint, with the default in its place."""
    _refuse_direct(reading)
    listeners = _listeners(reading)
    store = _store(reading)
    state = _state_dir(reading)
    return Settings(
        config=reading.config,
        mode=Mode(reading.value("model-control-mode", "none")),
        inference=listeners["inference"],
        management=listeners["management"],
        metrics=listeners.get("metrics"),
        keys_required=not reading.value("disable_token_authorization", default=False),
        token_lifetime=60.0 * reading.value("token_expiration_min", 60.0),
        model_store=store,
        load=reading.read("load_models", _load_items, cast("tuple[LoadItem, ...] | None", ())),
        manifest=reading.path("guard.manifest", store / "tsguard-manifest.json"),
        state_dir=state,
        runtime_dir=_runtime_dir(reading),
        audit_log=reading.path("guard.audit_log", state / "audit.jsonl"),
        key_file=reading.around.cwd / "key_file.json",
        admin=_admin(reading),
        frontend_log=reading.read("guard.frontend_log", lambda text: _frontend_log(reading, text), "lean"),
        log_location=_location(reading, "LOG_LOCATION"),
        metrics_location=_location(reading, "METRICS_LOCATION"),
        fail_on=Severity[reading.value("guard.fail_on", "high").upper()],
        scanners=reading.read("guard.scanners", _comma_separated, cast("tuple[str, ...] | None", None)),
        jvm_arguments=reading.read("vmargs", jvm.parse, cast("tuple[str, ...]", ())),
        pass_environment=reading.read("guard.pass_environment", _variables, cast("tuple[str, ...]", ())),
        passthrough=_passthrough(reading),
        limits=_limits(reading),
    )


def _refuse_no_text(reading: Reading) -> None:
    """Complain about values that no path, host or line of the configuration for TorchServe can hold."""
    for name, given in reading.given.items():
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in given.text):
            reading.complain(name, "holds a NUL or half of a surrogate pair, which is no text; remove it")


def _is_there(look: Callable[[], bool]) -> bool:
    """Whether a look at a path finds what it looks for; a path that cannot be looked at, too long say, is not there."""
    try:
        return look()
    except OSError:
        return False


def _passthrough(reading: Reading) -> dict[str, str]:
    """Return the keys that TorchServe gets as they are; every value given is read, so that all complaints are told."""
    for name in reading.given:
        reading.value(name, None)
    metrics = reading.given.get("metrics_config")
    if metrics is not None and not _is_there((reading.around.cwd / metrics.text).is_file):
        reading.complain("metrics_config", "is not a file; TorchServe would start, and no worker would")
    return {name: _absolute(reading, name) for name in reading.given if KEYS[name].fate is Fate.PASS}


def _absolute(reading: Reading, name: str) -> str:
    """Return the value as TorchServe is to read it, whose working directory is another."""
    text = reading.given[name].text
    return str(reading.around.cwd / text) if KEYS[name].kind is Kind.PATH else text


def _listeners(reading: Reading) -> dict[str, Address]:
    listeners = {
        name: reading.value(f"{name}_address", Address("http", "127.0.0.1", port))
        for name, port in DEFAULT_PORTS.items()
    }
    if not reading.value("enable_metrics_api", default=True):
        del listeners["metrics"]
    for first, second in combinations(listeners, 2):
        if listeners[first].overlaps(listeners[second]):
            told, other = (first, second) if f"{second}_address" not in reading.given else (second, first)
            reading.complain(
                f"{told}_address",
                f"is also the {other} address; give each listener its own, so that management can be kept from "
                "those who may only infer",
            )
    for name, listener in listeners.items():
        if listener.scheme == "https":
            reading.complain(
                f"{name}_address",
                "asks for TLS, which is not served by this version; write `http://` and a loopback address, and let "
                "a TLS proxy stand in front of it",
            )
    return listeners


def _store(reading: Reading) -> Path:
    given = reading.given.get("model_store")
    store = reading.around.cwd / (given.text if given is not None else "")
    if given is None:
        reading.complain("model_store", "is missing; name the folder of the archives there, or with --model-store")
    elif not _is_there(store.is_dir):
        reading.complain("model_store", "is not a folder; name the folder of the archives")
    return store


def _state_dir(reading: Reading) -> Path:
    environment = reading.around.environment
    given = environment.get("STATE_DIRECTORY", "").split(":")[0]
    home = environment.get("XDG_STATE_HOME") or str(reading.around.home / ".local/state")
    return reading.path("guard.state_dir", Path(given) if given else Path(home) / "tsguard")


def _runtime_dir(reading: Reading) -> Path | None:
    given = reading.around.environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given or "guard.runtime_dir" in reading.given:
        folder = reading.path("guard.runtime_dir", Path(given))
        if _is_there(folder.exists) and not _is_there(folder.is_dir):
            reading.complain("guard.runtime_dir", "is not a folder; name one of this user, or a new one")
        return folder
    return None


def _location(reading: Reading, variable: str) -> Path:
    return reading.around.cwd / (reading.around.environment.get(variable) or "logs")


def _admin(reading: Reading) -> Address | None:
    admin = reading.value("guard.admin_address", cast("Address | None", None))
    if admin is not None and admin.path is None:
        reading.complain("guard.admin_address", "is not `unix:/path`, and nothing else is served by this version")
    return admin


def _refuse_direct(reading: Reading) -> None:
    if reading.value("guard.inference", "proxy") == "direct":
        reading.complain("guard.inference", "is not known to this version; use `proxy`, which is the default")


def _frontend_log(reading: Reading, text: str) -> str:
    path = reading.around.cwd / text
    if text not in {"lean", "stock"} and not _is_there(path.is_file):
        raise ValueError("is neither `lean` nor `stock` nor a log4j2 file that is there")
    return text if text in {"lean", "stock"} else str(path)


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _variables(text: str) -> tuple[str, ...]:
    names = _comma_separated(text)
    for name in names:
        if VARIABLE_NAME.fullmatch(name) is None:
            raise ValueError(f"holds `{name}`, which is not the name of a variable; write names with commas between")
    return names


def _limits(reading: Reading) -> Limits:
    default = Limits()
    return Limits(
        max_request_size=reading.value(
            "guard.max_request_size", reading.value("max_request_size", default.max_request_size)
        ),
        max_connections=reading.value("guard.max_connections", default.max_connections),
        head_timeout=reading.value("guard.head_timeout", default.head_timeout),
        idle_timeout=reading.value("guard.idle_timeout", default.idle_timeout),
        drain_timeout=reading.value("guard.drain_timeout", default.drain_timeout),
        start_timeout=reading.value("guard.start_timeout", default.start_timeout),
    )


def _load_items(text: str) -> tuple[LoadItem, ...] | None:
    """Return what `load_models` names, None for `ALL`. Blanks around commas do not count (hazard S10)."""
    if text.strip().lower() == "all":
        return None
    return tuple(_load_item(part) for part in _comma_separated(text))


def _load_item(text: str) -> LoadItem:
    model, separator, archive = text.rpartition("=")
    if NAME.fullmatch(archive) is None:
        raise ValueError(
            f"holds `{archive}`, which is not the bare name of an archive in the model store; "
            "put the archive there and name it without a folder or URL"
        )
    if separator and NAME.fullmatch(model) is None:
        raise ValueError(f"holds the model name `{model}`; use letters, digits, `_`, `.` and `-`")
    return LoadItem(archive, model if separator else None)
