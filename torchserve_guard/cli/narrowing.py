"""The narrowing: an app with only the command that was asked for.

typer builds a type adapter for each parameter of each command before it looks which one is meant; that takes longer
than many a command.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import typer


def narrowed(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """Return the app with the command that the words begin with; whole, where they begin with none of its commands."""
    word, rest = (words[0], words[1:]) if words else ("", ())
    commands = [one for one in app.registered_commands if _name(one) == word]
    groups = [_narrowed_group(one, rest) for one in app.registered_groups if one.name == word]
    if not commands and not groups:
        return app
    only = copy.copy(app)
    only.registered_commands, only.registered_groups = commands, groups
    return only


def _narrowed_group(group: typer.models.TyperInfo, words: Sequence[str]) -> typer.models.TyperInfo:
    only = copy.copy(group)
    if group.typer_instance is not None:
        only.typer_instance = narrowed(group.typer_instance, words)
    return only


def _name(command: typer.models.CommandInfo) -> str | None:
    if command.name is not None or command.callback is None:
        return command.name
    return command.callback.__name__.replace("_", "-")
