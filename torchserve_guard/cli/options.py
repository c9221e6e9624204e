"""The options that commands share: the configuration, and the flags of `torchserve --start`."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from torchserve_guard.errors import ConfigError

if TYPE_CHECKING:
    from torchserve_guard.settings import Flags, Settings, Surroundings

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "--ts-config",
        metavar="FILE",
        envvar="TSGUARD_CONFIG",
        help="The configuration, TorchServe's config.properties.",
    ),
]

# The flags of `torchserve --start` (ts/arg_parser.py), and the guard's own: name, type, default, how it is spelt, help.
FLAGS: tuple[tuple[str, Any, Any, tuple[str, ...], str | None, str], ...] = (
    ("model_store", str | None, None, ("--model-store",), "DIR", "The folder of the archives."),
    ("workflow_store", str | None, None, ("--workflow-store",), "DIR", "The folder of the workflows."),
    (
        "models",
        list[str] | None,
        None,
        ("--models",),
        "[NAME=]ARCHIVE",
        "What to load instead of `load_models`; several may follow, ALL loads all.",
    ),
    ("log_config", str | None, None, ("--log-config",), "FILE", "A log4j2 configuration for TorchServe."),
    ("cpp_log_config", str | None, None, ("--cpp-log-config",), "FILE", "Refused: C++ workers are not run."),
    ("plugins_path", str | None, None, ("--plugins-path", "--ppath"), "DIR", "Refused: jars are not verified."),
    ("foreground", bool, False, ("--foreground",), None, "Accepted: the guard always runs in the foreground."),
    (
        "no_config_snapshots",
        bool,
        False,
        ("--no-config-snapshots", "--ncs"),
        None,
        "Accepted: TorchServe writes no snapshots under the guard.",
    ),
    ("disable_token_auth", bool, False, ("--disable-token-auth", "--dt"), None, "Ask for no key to infer or to read."),
    (
        "enable_model_api",
        bool,
        False,
        ("--enable-model-api",),
        None,
        "Accepted: what counts is `model-control-mode`, which follows this in the profile `compat`.",
    ),
    # the guard's own
    ("profile", str | None, None, ("--profile",), "NAME", "`strict` or `compat`, instead of `guard.profile`."),
    (
        "model_control_mode",
        str | None,
        None,
        ("--model-control-mode",),
        "MODE",
        "`none` or `explicit`: whether models may be managed at run time.",
    ),
)
MORE_MODELS = "more_models"
OF_NO_EFFECT = frozenset({"foreground", "no_config_snapshots"})


Configs = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        "--ts-config",
        metavar="FILE|DIR",
        envvar="TSGUARD_CONFIG",
        help="The configuration; a folder stands for every *.properties below it. May be given several times.",
    ),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command was asked: the configurations, and the flags that count for each of them."""

    configs: tuple[Path, ...]
    given: Mapping[str, Any]

    def settings(self, config: Path | None) -> Settings:
        """Return the settings of one configuration. Raises `ConfigError`."""
        return _settings(config, dict(self.given))


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with `--config` and the flags of `torchserve --start`, which give it its `settings`."""
    return _taking(command, "settings", Config, _settings)


def takes_configurations(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the same options and any number of configurations, which give it what was `asked`."""
    return _taking(command, "asked", Configs, lambda configs, given: Asked(tuple(configs or ()), given))


def takes_one(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with `--config` and the flags, and without more models behind them, as what was `asked`."""
    return _taking(command, "asked", Config, _asked_of_one, more=False)


def _asked_of_one(config: Path | None, given: dict[str, Any]) -> Asked:
    return Asked(() if config is None else (config,), given)


def _taking(
    command: Callable[..., None],
    name: str,
    config: Any,
    made: Callable[[Any, dict[str, Any]], object],
    *,
    more: bool = True,
) -> Callable[..., None]:
    """Return the command with the options in the place of its argument `name`, which is `made` of them."""
    hints = get_type_hints(command, localns={"Settings": object}, include_extras=True)
    own = [
        parameter.replace(annotation=_with_variable(hints[parameter.name]), kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != name
    ]
    shared = [one for one in _parameters(config) if more or one.name != MORE_MODELS]
    parameters = [*shared, *own]

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        told = {parameter.name: given.pop(parameter.name) for parameter in shared}
        command(**{name: made(told.pop("config"), told)}, **given)

    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


def _variable(name: str) -> str:
    """Return the environment variable that gives an option; `TSGUARD_START_NAME` gives it to one command."""
    return f"TSGUARD_{name.upper().replace('-', '_')}"


def _with_variable(hint: Any) -> Any:
    """Return the annotation of an option with the variable that gives it, as its spelling says."""
    for told in getattr(hint, "__metadata__", ()):
        # Inside `Annotated` the first spelling stands in the place of the default.
        if isinstance(told, OptionInfo) and told.envvar is None and isinstance(told.default, str):
            option = copy.copy(told)
            option.envvar = _variable(told.default.removeprefix("--").partition("/")[0])
            return Annotated[hint.__origin__, option]
    return hint


def _parameters(config: Any) -> list[inspect.Parameter]:
    """Return `--config` and the flags as keyword parameters, in the form that typer reads."""
    options = [
        (name, Annotated[kind, typer.Option(*spellings, metavar=metavar, help=text, envvar=_variable(name))], default)
        for name, kind, default, spellings, metavar, text in FLAGS
    ]
    more = Annotated[
        list[str] | None, typer.Argument(metavar="[[NAME=]ARCHIVE]...", help="More models, behind --models.")
    ]
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in (("config", config, None), *options, (MORE_MODELS, more, None))
    ]


def _settings(config: Path | None, given: dict[str, Any]) -> Settings:
    return settings_of(config, flags_of(given))


def flags_of(given: Mapping[str, Any]) -> Flags:
    """Return the flags that count, of those given. Raises `ConfigError`."""
    from torchserve_guard.settings import Flags  # noqa: PLC0415 - heavy; `--help` does without

    models, more = given.get("models") or [], given.get(MORE_MODELS) or []
    if more and not models:
        raise ConfigError(f"`{more[0]}` is not expected here; name models with --models, see --help")
    left_out = {*OF_NO_EFFECT, "models", MORE_MODELS}
    return Flags(models=(*models, *more), **{name: value for name, value in given.items() if name not in left_out})


def settings_of(config: Path | None, flags: Flags | None = None) -> Settings:
    """Return the settings. Raises `ConfigError`."""
    from torchserve_guard.settings import Flags, load  # noqa: PLC0415 - heavy; `--help` does without

    if config is None:
        raise ConfigError("no configuration; name it with --config FILE or in TSGUARD_CONFIG")
    return load(config, flags or Flags(), surroundings())


def surroundings() -> Surroundings:
    """Return where this process was started. Raises `ConfigError` when it has no place to stand."""
    from torchserve_guard.settings import Surroundings  # noqa: PLC0415 - heavy; `--help` does without

    try:
        return Surroundings(dict(os.environ), Path.cwd(), Path.home(), os.geteuid(), _umask(), _programs())
    except OSError as error:
        raise ConfigError(
            f"the working directory is gone or may not be read ({error.strerror}); start in another"
        ) from error
    except RuntimeError as error:
        raise ConfigError("this user has no home directory; set `HOME`") from error


def _umask() -> int | None:
    """Return the umask, which no call tells without setting it; None where /proc does not say."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), None)


def _programs() -> tuple[Path, ...]:
    """Return what this process runs, and what it will run: the interpreter, its library, the guard, TorchServe."""
    serve = find_spec("ts")
    packages = (os.__file__, __file__, serve.origin if serve is not None else None)
    return (Path(sys.executable), *(Path(file).parent for file in packages if file is not None))
