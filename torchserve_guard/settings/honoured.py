"""What is honoured with a finding: what stock TorchServe obeys to its harm, and the guard obeys without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from torchserve_guard.findings import Severity
from torchserve_guard.settings import jvm, model_options
from torchserve_guard.settings.keys import KEYS, Fate, Kind
from torchserve_guard.settings.reading import Reading, shown

FEW = 5


def check(reading: Reading, model_store: Path) -> None:
    """Add the findings to the reading; what is refused was complained about before."""
    _urls_from_the_environment(reading)
    _packages_of_models(reading)
    _log_of_the_jvm(reading)
    _memory_dump(reading)
    _options_of_models(reading, model_store)


def take_booleans(reading: Reading) -> None:
    """Take what TorchServe gets for a boolean and is none for false, as TorchServe does (Boolean.parseBoolean)."""
    for name, given in tuple(reading.given.items()):
        key = KEYS[name]
        if key.kind is Kind.BOOL and key.fate is Fate.PASS and given.text.lower() not in {"true", "false"}:
            reading.find(
                "TSG038",
                Severity.HIGH,
                f"`{name}={shown(name, given.text)}` is neither true nor false, and TorchServe takes it for false",
                "write true or false" + (", without a blank at its end" if given.text != given.text.strip() else ""),
                name,
            )
            reading.given[name] = replace(given, text="false")


def _urls_from_the_environment(reading: Reading) -> None:
    if reading.value("use_env_allowed_urls", default=False):
        reading.find(
            "TSG031",
            Severity.HIGH,
            "`use_env_allowed_urls=true` lets the environment decide what a stock TorchServe downloads; the guard goes "
            "by `allowed_urls` as it stands in the file",
            "remove it",
            "use_env_allowed_urls",
        )


def _packages_of_models(reading: Reading) -> None:
    if reading.value("install_py_dep_per_model", default=False):
        reading.find(
            "TSG037",
            Severity.HIGH,
            "`install_py_dep_per_model=true` has a stock TorchServe run pip, and whatever it downloads, as the server; "
            "the guarded one installs nothing",
            "install what the models need beside TorchServe, and remove it",
            "install_py_dep_per_model",
        )


def _log_of_the_jvm(reading: Reading) -> None:
    named = reading.read("vmargs", jvm.log_configuration, None)
    if named is not None:
        beaten = "guard.frontend_log" in reading.given
        reading.find(
            "TSG032",
            Severity.LOW,
            f"`vmargs` names the log configuration `{named}`, "
            + ("which `guard.frontend_log` overrides" if beaten else "which is taken for `guard.frontend_log`"),
            "remove it from `vmargs`" + ("" if beaten else f", and write `guard.frontend_log={named}`"),
            "vmargs",
        )


def _memory_dump(reading: Reading) -> None:
    if jvm.DUMPS_MEMORY in reading.read("vmargs", jvm.parse, cast("tuple[str, ...]", ())):
        reading.find(
            "TSG033",
            Severity.LOW,
            f"`vmargs` holds `{jvm.DUMPS_MEMORY}`: when memory runs out, TorchServe's is written to disk, with the "
            "requests and keys in it, and as large as `-Xmx`",
            "remove it, and keep `-XX:+ExitOnOutOfMemoryError`",
            "vmargs",
        )


def _options_of_models(reading: Reading, model_store: Path) -> None:
    for options in reading.read("models", model_options.parse, cast("tuple[model_options.ModelOptions, ...]", ())):
        what = f"`models`: `{options.model}` version `{options.version}`"
        if options.unknown:
            message = f"{what} has {_named(options.unknown)}"
            reading.find("TSG034", Severity.LOW, message, "correct or remove it", "models")
        if options.archive is not None and not _there(model_store / options.archive):
            message = f"{what} names the archive `{options.archive}`, which is not in the model store"
            remedy = "correct `marName`, or remove what is said of this model"
            reading.find("TSG035", Severity.LOW, message, remedy, "models")


def _named(unknown: tuple[str, ...]) -> str:
    """Return the members that TorchServe does not know, the first few by name."""
    told = "; ".join(f"`{name}`, which TorchServe does not know{model_options.nearest(name)}" for name in unknown[:FEW])
    return told + (f"; and {len(unknown) - FEW} more" if len(unknown) > FEW else "")


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
