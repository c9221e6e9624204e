"""The narrowing: which commands are built does not change what any command line does."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from torchserve_guard.cli.narrowing import narrowed


def app() -> typer.Typer:
    """An app with a command, one with a name of two words, and a group of two."""
    made, group = typer.Typer(), typer.Typer()
    made.callback()(lambda: None)

    @made.command()
    def plain() -> None:
        typer.echo("plain")

    @made.command()
    def two_words() -> None:
        typer.echo("two words")

    @group.command()
    def first(number: int = 1) -> None:
        typer.echo(f"first {number}")

    @group.command("named")
    def second() -> None:
        typer.echo("second")

    made.add_typer(group, name="group")
    return made


def outcome(made: typer.Typer, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        made(words)
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    "words",
    [
        ["plain"],
        ["two-words"],
        ["two_words"],
        ["plain", "extra"],
        ["group", "first"],
        ["group", "first", "--number", "2"],
        ["group", "first", "--number", "two"],
        ["group", "named"],
        ["group", "second"],
        ["group", "firs"],
        ["group"],
        ["group", "--help"],
        ["group", "first", "--help"],
        ["--help"],
        ["plan"],
        [],
        ["--", "plain"],
        ["--help", "plain"],
    ],
)
def test_what_a_command_line_does_is_the_same_with_and_without(words, capsys):
    assert outcome(narrowed(app(), words), words, capsys) == outcome(app(), words, capsys)


def test_only_what_is_asked_for_is_left_and_the_app_itself_stays_whole():
    whole = app()
    only = narrowed(whole, ["group", "named"])
    assert [one.name for one in only.registered_groups] == ["group"]
    assert only.registered_commands == []
    assert [one.name for one in only.registered_groups[0].typer_instance.registered_commands] == ["named"]
    assert len(whole.registered_commands) == 2
    assert len(whole.registered_groups[0].typer_instance.registered_commands) == 2


@pytest.mark.parametrize(
    "words", [["manifest", "verify", "--help"], ["start", "--help"], ["config", "explain", "--help"]]
)
def test_the_help_of_a_command_names_the_whole_way_to_it(words):
    command = [sys.executable, "-c", "from torchserve_guard.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert " ".join(words[:-1]) in done.stdout
