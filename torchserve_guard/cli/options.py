"""The options that commands share: the configuration, and the flags of `torchserve --start`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from torchserve_guard.cli.lines import lines_of
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

# The flags of `torchserve --start` (ts/arg_parser.py): name, type and default, how it is spelt, help.
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
        "Accepted: what counts is `model-control-mode` in the configuration.",
    ),
)
MORE_MODELS = "more_models"
OF_NO_EFFECT = frozenset({"foreground", "no_config_snapshots"})


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with `--config` and the flags of `torchserve --start`, which give it its `settings`."""
    hints = get_type_hints(command, localns={"Settings": object}, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "settings"
    ]
    parameters = [*_parameters(), *own]

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        told = {parameter.name: given.pop(parameter.name) for parameter in _parameters()}
        command(settings=_settings(told.pop("config"), told), **given)

    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


def _parameters() -> list[inspect.Parameter]:
    """Return `--config` and the flags as keyword parameters, in the form that typer reads."""
    options = [
        (name, Annotated[kind, typer.Option(*spellings, metavar=metavar, help=text)], default)
        for name, kind, default, spellings, metavar, text in FLAGS
    ]
    more = Annotated[
        list[str] | None, typer.Argument(metavar="[[NAME=]ARCHIVE]...", help="More models, behind --models.")
    ]
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, annotation, default in (("config", Config, None), *options, (MORE_MODELS, more, None))
    ]


def _settings(config: Path | None, given: dict[str, Any]) -> Settings:
    from torchserve_guard.settings import Flags  # noqa: PLC0415 - heavy; `--help` does without

    models, more = given.pop("models") or [], given.pop(MORE_MODELS) or []
    if more and not models:
        raise ConfigError(f"`{more[0]}` is not expected here; name models with --models, see --help")
    counted = {name: value for name, value in given.items() if name not in OF_NO_EFFECT}
    return settings_of(config, Flags(models=(*models, *more), **counted))


def settings_of(config: Path | None, flags: Flags | None = None) -> Settings:
    """Return the settings. Raises `ConfigError`."""
    from torchserve_guard.settings import Flags, load  # noqa: PLC0415 - heavy; `--help` does without

    if config is None:
        raise ConfigError("no configuration; name it with --config FILE or in TSGUARD_CONFIG")
    return load(config, flags or Flags(), _surroundings())


def _surroundings() -> Surroundings:
    from torchserve_guard.settings import Surroundings  # noqa: PLC0415 - heavy; `--help` does without

    try:
        return Surroundings(dict(os.environ), Path.cwd(), Path.home())
    except OSError as error:
        raise ConfigError(
            f"the working directory is gone or may not be read ({error.strerror}); start in another"
        ) from error
    except RuntimeError as error:
        raise ConfigError("this user has no home directory; set `HOME`") from error


def deliver(text: str, output: Path | None) -> None:
    """Write a result to standard output, or to the file that was named."""
    if output is None:
        typer.echo(lines_of(text), nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written ({error.strerror}); name another file with --output") from error
