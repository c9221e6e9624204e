"""The command line of `torchserve`, as ts/arg_parser.py of 0.12.0 takes it: argparse, with its abbreviations. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum

from torchserve_guard.settings import stock


class Verb(Enum):
    """What is asked for. Without a verb stock starts."""

    START = "start"
    STOP = "stop"
    VERSION = "version"


@dataclass(frozen=True, slots=True)
class CommandLine(stock.CommandLine):
    """What was given: the flags, and what is to be done."""

    verb: Verb = Verb.START


VERBS = (
    (("-v", "--version"), "version", "print the version of TorchServe"),
    (("--start",), "start", "start TorchServe under the guard"),
    (("--stop",), "stop", "stop the guarded TorchServe that this command started"),
)
VALUED = (
    (("--ts-config",), "ts_config", "the configuration, config.properties"),
    (("--model-store",), "model_store", "the folder of the archives"),
    (("--workflow-store",), "workflow_store", "the folder of the workflows"),
    (("--log-config",), "log_config", "a log4j2 configuration for TorchServe"),
    (("--cpp-log-config",), "cpp_log_config", "refused: C++ workers are not run under the guard"),
    (("--plugins-path", "--ppath"), "plugins_path", "refused: plugins are not verified"),
)
SWITCHES = (
    (("--foreground",), "foreground", "stay in the foreground; with --stop, say nothing when it has stopped"),
    (("--no-config-snapshots", "--ncs"), "no_config_snapshots", "accepted: the guard writes and loads no snapshots"),
    (("--disable-token-auth", "--dt"), "disable_token_auth", "ask for no key to infer or to read"),
    (("--enable-model-api",), "enable_model_api", "let models be managed at run time, as far as the guard does"),
)


def parser() -> argparse.ArgumentParser:
    """Return stock's parser. A prefix of a flag is taken for it (argparse, allow_abbrev)."""
    made = argparse.ArgumentParser(prog="torchserve", description="TorchServe, under torchserve_guard")
    verbs = made.add_mutually_exclusive_group()
    for spellings, name, text in VERBS:
        verbs.add_argument(*spellings, dest=name, action="store_true", help=text)
    for spellings, name, text in VALUED:
        made.add_argument(*spellings, dest=name, help=text)
    made.add_argument("--models", nargs="+", default=(), metavar="[NAME=]ARCHIVE", help="what to load; ALL loads all")
    for spellings, name, text in SWITCHES:
        made.add_argument(*spellings, dest=name, action="store_true", help=text)
    return made


def parse(arguments: Sequence[str]) -> CommandLine:
    """Return what was given. Ends the program as argparse does: with usage and status 2, or with the help."""
    given = vars(parser().parse_args(list(arguments)))
    verb = Verb.VERSION if given["version"] else Verb.STOP if given["stop"] else Verb.START
    taken = {field.name: given[field.name] for field in fields(CommandLine) if field.name not in {"verb", "models"}}
    return CommandLine(verb=verb, models=tuple(given["models"]), **taken)
