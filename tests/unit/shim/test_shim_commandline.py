"""Stock's command line: every flag that stock takes is taken, in every spelling that stock's argparse takes."""

import contextlib
import dataclasses
import runpy

import pytest

from torchserve_guard.frontend import find_torchserve, installed
from torchserve_guard.shim.commandline import CommandLine, Verb, parse, parser

# The file alone: the package `ts` leaves another one open as it is imported.
STOCK = runpy.run_path(str(find_torchserve(installed()).home / "ts" / "arg_parser.py"))["ArgParser"].ts_parser()
# Two words of stock's that say something else than their flag.
RENAMED = {"token_auth": "disable_token_auth", "model_mode": "enable_model_api"}
FLAGS = [action for action in STOCK._actions if action.dest != "help"]


def spellings(action):
    """Every spelling of a flag, and every prefix that means one spelling alone, as argparse wants it."""
    for whole in action.option_strings:
        others = {text for other in STOCK._actions for text in other.option_strings} - {whole}
        yield whole
        if whole.startswith("--"):
            prefixes = (whole[:length] for length in range(3, len(whole)))
            yield from (one for one in prefixes if not any(other.startswith(one) for other in others))


def words(action, spelling):
    return [spelling] if action.nargs == 0 else [spelling, "one", "two=b"] if action.nargs == "+" else [spelling, "one"]


@pytest.mark.parametrize("action", FLAGS, ids=lambda action: action.dest)
def test_every_flag_of_stocks_means_the_same_in_every_spelling(action):
    for spelling in spellings(action):
        given = words(action, spelling)
        value = getattr(STOCK.parse_args(given), action.dest)
        line = parse(given)
        if action.dest in {"start", "stop", "version"}:
            assert line.verb is Verb(action.dest)
        else:
            assert getattr(line, RENAMED.get(action.dest, action.dest)) == (
                tuple(value) if isinstance(value, list) else value
            )


def test_there_is_no_flag_that_stock_does_not_take():
    ours = {text for action in parser()._actions for text in action.option_strings}
    assert ours == {text for action in STOCK._actions for text in action.option_strings}
    fields = {field.name for field in dataclasses.fields(CommandLine)} - {"verb"}
    assert fields == {RENAMED.get(action.dest, action.dest) for action in FLAGS} - {"start", "stop", "version"}


@pytest.mark.parametrize(
    "given",
    [
        ["--start", "--stop"],
        ["--version", "--start"],
        ["--model"],
        ["--models"],
        ["--ts-config"],
        ["--unknown"],
        ["word"],
        ["--foreground=1"],
    ],
)
def test_what_stock_does_not_take_ends_with_the_same_status(given, capsys):
    with pytest.raises(SystemExit) as stock:
        STOCK.parse_args(given)
    told = capsys.readouterr().err
    with pytest.raises(SystemExit) as ours:
        parse(given)
    assert ours.value.code == stock.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == told.splitlines()[-1]


def test_without_a_verb_it_starts_as_stock_does():
    assert parse([]).verb is Verb.START
    with contextlib.suppress(SystemExit):
        assert not STOCK.parse_args([]).stop
