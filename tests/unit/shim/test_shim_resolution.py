"""The resolution: the configuration that stock would read, stock's complaints, and never a snapshot."""

import dataclasses

import pytest

from torchserve_guard.access import Mode
from torchserve_guard.errors import ConfigError
from torchserve_guard.settings import Surroundings, load
from torchserve_guard.shim.commandline import parse
from torchserve_guard.shim.resolution import Options, Refused, resolve

COMPAT = Options("compat", "explicit")


@pytest.fixture
def cwd(tmp_path):
    """A working directory with a store."""
    (tmp_path / "store").mkdir()
    return tmp_path


def resolved(cwd, *arguments, options=COMPAT, **environment):
    return resolve(parse(arguments), options, environment, cwd)


def settings(cwd, *arguments, options=COMPAT, **environment):
    found = resolved(cwd, *arguments, options=options, **environment)
    empty = cwd / "empty.properties"
    empty.write_text("# nothing\n")
    return load(cwd / (found.config or empty), found.flags, Surroundings(environment, cwd, cwd))


def test_without_a_configuration_there_are_flags_and_defaults(cwd):
    found = resolved(cwd, "--model-store", "store")
    assert found.config is None
    made = settings(cwd, "--model-store", "store")
    assert (str(made.inference), made.mode, made.frontend_log) == ("http://127.0.0.1:8080", Mode.NONE, "stock")


def test_the_variable_beats_the_flag_which_beats_the_file_in_the_working_directory(cwd):
    for name in ("config.properties", "flag.properties", "variable.properties"):
        (cwd / name).write_text("model_store=store\n")
    assert str(resolved(cwd, "--model-store", "store").config) == "config.properties"
    assert str(resolved(cwd, "--ts-config", "flag.properties").config) == "flag.properties"
    variable = resolved(cwd, "--ts-config", "flag.properties", TS_CONFIG_FILE="variable.properties")
    assert str(variable.config) == "variable.properties"
    # As in stock: an empty name is a name, and means no file.
    assert resolved(cwd, "--model-store", "store", TS_CONFIG_FILE="").config is None


def test_the_file_in_the_working_directory_is_told_of(cwd):
    (cwd / "config.properties").write_text("")
    (note,) = resolved(cwd, "--model-store", "store", options=Options()).notes
    assert "config.properties" in note


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ((), {}, "Missing mandatory parameter --model-store"),
        (("--model-store", "gone"), {}, "--model-store directory not found: gone"),
        (("--ts-config", "gone"), {}, "--ts-config file not found: gone"),
        (("--ts-config", "a"), {"TS_CONFIG_FILE": "gone"}, "--ts-config file not found: gone"),
        (("--model-store", "store", "--workflow-store", "gone"), {}, "--workflow-store directory not found: gone"),
        (("--model-store", "store", "--log-config", "gone"), {}, "--log-config file not found: {cwd}/gone"),
        (("--model-store", "store", "--cpp-log-config", "gone"), {}, "--cpp-log-config file not found: {cwd}/gone"),
        (
            ("--model-store", "store"),
            {"TEMP": "gone"},
            "Invalid temp directory: gone, please check TEMP environment variable.",
        ),
    ],
)
def test_what_stock_refuses_is_refused_in_its_words(cwd, arguments, environment, said):
    with pytest.raises(Refused) as caught:
        resolved(cwd, *arguments, **environment)
    assert str(caught.value) == said.format(cwd=cwd)


def test_a_model_store_in_the_file_that_was_named_is_enough_and_in_another_is_not(cwd):
    (cwd / "config.properties").write_text("model_store=store\n")
    assert settings(cwd, "--ts-config", "config.properties").model_store == cwd / "store"
    with pytest.raises(Refused, match="Missing mandatory"):
        resolved(cwd)


@pytest.mark.parametrize(
    ("arguments", "key"), [(("--plugins-path", "p"), "--plugins-path"), (("--cpp-log-config", "c"), "--cpp-log-config")]
)
def test_a_flag_that_cannot_be_honoured_is_refused_with_its_reason(cwd, arguments, key):
    (cwd / "c").write_text("")
    with pytest.raises(ConfigError) as caught:
        settings(cwd, "--model-store", "store", *arguments)
    assert [one for one in caught.value.complaints if one.startswith(f"{key}: ") and "remove it" in one]


@pytest.mark.parametrize("name", ["20260101000000000-startup.cfg", "any-name"])
def test_snapshots_are_not_loaded_and_that_is_said_where_stock_would_have_loaded_one(cwd, name):
    snapshots = cwd / "logs" / "config"
    snapshots.mkdir(parents=True)
    (snapshots / name).write_text("load_models=evil.mar\nmodel_store=store\n")
    (cwd / "named.properties").write_text("model_store=store\n")
    told = [note for note in resolved(cwd, "--model-store", "store").notes if "not loaded" in note]
    assert len(told) == 1
    assert settings(cwd, "--model-store", "store").load == ()
    for more in (["--ncs"], ["--ts-config", "named.properties"]):
        assert not [note for note in resolved(cwd, "--model-store", "store", *more).notes if "not loaded" in note]


@pytest.mark.parametrize(
    ("options", "file", "arguments", "mode"),
    [
        (Options("compat", "explicit"), "", (), Mode.NONE),
        (Options("compat", "explicit"), "", ("--enable-model-api",), Mode.EXPLICIT),
        (Options("compat", "explicit"), "enable_model_api=true", (), Mode.EXPLICIT),
        (Options("compat", "explicit"), "enable_model_api=false", ("--enable-model-api",), Mode.EXPLICIT),
        (Options("compat", "explicit"), "model-control-mode=none", (), Mode.NONE),
        (Options("compat", "none"), "enable_model_api=true", ("--enable-model-api",), Mode.NONE),
        (Options("compat", "none"), "model-control-mode=explicit", (), Mode.NONE),
        (Options("compat", None), "", ("--enable-model-api",), Mode.EXPLICIT),
        (Options("strict", "explicit"), "", ("--enable-model-api",), Mode.EXPLICIT),
        (Options("strict", "explicit"), "", (), Mode.NONE),
        (Options("strict", None), "", ("--enable-model-api",), Mode.NONE),
        (Options(None, None), "model-control-mode=explicit", (), Mode.EXPLICIT),
    ],
)
def test_models_are_managed_where_the_shim_permits_it_and_stock_would(cwd, options, file, arguments, mode):
    (cwd / "c.properties").write_text(f"model_store=store\n{file}\n")
    assert settings(cwd, "--ts-config", "c.properties", *arguments, options=options).mode is mode


def test_variables_give_the_guards_own_keys_and_beat_the_file(cwd):
    (cwd / "c.properties").write_text("model_store=store\nguard.fail_on=low\n")
    made = settings(cwd, "--ts-config", "c.properties", TSGUARD_STATE_DIR=str(cwd / "s"), TSGUARD_FAIL_ON="medium")
    assert (made.state_dir, str(made.fail_on)) == (cwd / "s", "medium")


def test_a_log_configuration_is_found_from_the_working_directory_and_never_taken_for_a_word(cwd):
    (cwd / "lean").write_text("<Configuration/>")
    made = settings(cwd, "--model-store", "store", "--log-config", "lean")
    assert made.frontend_log == str(cwd / "lean")


def test_every_flag_reaches_the_settings(cwd):
    found = resolved(
        cwd,
        *("--model-store", "store", "--workflow-store", "store", "--models", "a=a.mar", "b.mar"),
        *("--disable-token-auth", "--enable-model-api", "--plugins-path", "p"),
    )
    flags = dataclasses.asdict(found.flags)
    assert (flags["models"], flags["workflow_store"], flags["plugins_path"]) == (("a=a.mar", "b.mar"), "store", "p")
    assert flags["disable_token_auth"] is flags["enable_model_api"] is True
