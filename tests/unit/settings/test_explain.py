"""What is explained of each key: stock's value and the guard's, where each comes from, and why they differ."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from torchserve_guard.cli import main
from torchserve_guard.errors import ConfigError
from torchserve_guard.explaining import Explained, Explanation, explain
from torchserve_guard.frontend.configuration import PASSED_ON, PINNED
from torchserve_guard.settings import Flags, Surroundings
from torchserve_guard.settings.keys import KEYS, NOT_YET, Fate
from torchserve_guard.settings.reading import SPELLINGS
from torchserve_guard.settings.stock import CommandLine, Origin


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path


@pytest.fixture
def explained(place):
    """Explain a configuration that is written into the folder."""

    def make(
        text: str | None, *keys: str, environment: dict[str, str] | None = None, everything=False, **flags
    ) -> Explanation:
        if text is not None:
            (place / "c").write_text(text)
        given = {"model_store": "store", **flags}
        line = CommandLine(ts_config=None if text is None else "c", **given)
        guards = Flags(**{name: value for name, value in given.items() if name != "no_config_snapshots"})
        around = Surroundings(environment or {}, place, place)
        return explain(line, guards, around, keys, everything=everything)

    return make


def row(made: Explanation, key: str) -> Explained:
    (found,) = [one for one in made.keys if one.key == key]
    return found


def test_every_key_is_explained_when_all_are_asked_for(explained):
    made = explained("job_queue_size=7\n", everything=True)
    assert [one.key for one in made.keys] == [name for name in (*KEYS, *NOT_YET) if name not in SPELLINGS]


@pytest.mark.parametrize("key", [key for key in KEYS if key not in SPELLINGS])
def test_a_key_can_be_asked_for_alone_and_has_a_chain_or_is_the_guards(explained, key):
    made = explained("#\n", key)
    (one,) = made.keys
    assert one.key == key
    assert one.stock.steps or one.fate is Fate.GUARD
    assert one.why or not one.differs


def test_what_was_given_or_differs_is_explained_and_nothing_else(explained):
    keys = {one.key for one in explained("job_queue_size=7\nguard.fail_on=low\n").keys}
    assert keys >= {"job_queue_size", "guard.fail_on", "model_store", "allowed_urls"}
    assert keys.isdisjoint({"netty_client_threads", "python", "model_server_home", "use_native_io", "guard.manifest"})


def test_a_value_that_is_handed_on_is_the_same_for_both(explained):
    one = row(explained("job_queue_size=7\n"), "job_queue_size")
    assert (one.stock.value, one.guarded.value, one.guarded.told, one.differs) == ("7", "7", "7", False)
    assert (one.guarded.where, one.stock.steps[-1].where) == ("c:1", "c:1")


def test_a_listener_stays_where_it_was_and_torchserve_is_told_another(explained):
    one = row(explained("inference_address=http://127.0.0.1:9090\n"), "inference_address")
    assert (one.stock.value, one.guarded.value, one.differs) == ("http://127.0.0.1:9090",) * 2 + (False,)
    assert "unix socket" in one.guarded.told


def test_a_pinned_key_of_no_effect_says_what_the_guard_writes_and_why(explained):
    one = row(explained("use_native_io=false\n"), "use_native_io")
    assert (one.stock.value, one.guarded.value, one.differs) == ("false", "true", True)
    assert "unix sockets" in one.why


def test_a_pinned_key_that_the_guard_goes_by_is_the_same_for_both_and_torchserve_is_told_another(explained):
    one = row(explained("allowed_urls=.*\n"), "allowed_urls")
    assert (one.stock.value, one.guarded.value, one.guarded.told, one.differs) == (".*", ".*", "(?!)", False)


def test_where_nothing_is_allowed_by_default_is_said_with_the_reason(explained):
    one = row(explained("#\n"), "allowed_urls")
    assert (one.stock.value, one.guarded.value, one.differs) == ("file://.*|http(s)?://.*", "(?!)", True)
    assert "from nowhere" in one.why


@pytest.mark.parametrize("key", sorted(PINNED))
def test_what_torchserve_is_told_is_said_of_every_pinned_key(explained, key):
    made = explained("model-control-mode=explicit\n", key)
    assert row(made, key).guarded.told


@pytest.mark.parametrize(("mode", "told"), [("none", "false"), ("explicit", "true")])
def test_the_model_api_follows_the_mode(explained, mode, told):
    made = explained(f"model-control-mode={mode}\nenable_model_api=true\n")
    assert row(made, "enable_model_api").guarded.value == told


def test_a_refused_key_is_explained_beside_its_complaint(explained):
    made = explained("default_service_handler=/tmp/x.py:f\njob_queue_size=7\n")
    one = row(made, "default_service_handler")
    assert (one.stock.value, one.guarded.value, one.differs) == ("/tmp/x.py:f", None, True)
    assert one.complaints
    assert set(one.complaints) <= set(made.complaints)
    assert row(made, "job_queue_size").guarded.value == "7"


def test_the_difference_of_the_two_readers_is_the_reason(explained):
    one = row(explained("models={}\\\nvmargs=-Xmx1g\n", model_store="store"), "vmargs")
    assert (one.stock.value, one.guarded.value) == ("-Xmx1g", None)
    assert "reader of its own" in one.why


def test_another_file_is_the_reason(explained, place):
    (place / "d").write_text("job_queue_size=9\n")
    made = explained("job_queue_size=7\n", environment={"TS_CONFIG_FILE": "d"})
    one = row(made, "job_queue_size")
    assert (made.config, made.source, one.stock.value, one.guarded.value) == ("c", "d", "9", "7")
    assert one.why == "stock would read d, the guard reads c"


def test_without_a_configuration_stocks_snapshot_is_explained(explained, place):
    (place / "logs/config").mkdir(parents=True)
    (place / "logs/config/x").write_text("job_queue_size=9\n")
    made = explained(None)
    one = row(made, "job_queue_size")
    assert (made.source, made.config) == ("logs/config/x", None)
    assert [step.origin for step in one.stock.steps] == [Origin.DEFAULT, Origin.SNAPSHOT]
    assert "--config" in made.complaints[0]


def test_lines_that_are_read_differently_are_told(explained):
    made = explained("job_queue_size: 7\nenable_modle_api=true\n")
    assert {one.rule for one in made.findings} == {"TSG021", "TSG026"}


@pytest.mark.parametrize(
    "text", ["job_queue_size=many\n", "inference_address=http://x:0\n", "models={\n", "guard.fail_on=x\n"]
)
def test_a_configuration_that_a_start_refuses_is_explained(explained, text):
    made = explained(text)
    assert made.complaints
    assert row(made, text.split("=")[0]).complaints


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa=b\njob_queue_size=7\n", b"a=\0\njob_queue_size=7\n"])
def test_a_file_that_only_java_reads_is_explained_for_stock(place, data):
    (place / "c").write_bytes(data)
    made = explain(CommandLine(ts_config="c", model_store="store"), Flags(), Surroundings({}, place, place))
    assert len(made.complaints) == 1
    assert (row(made, "job_queue_size").stock.value, row(made, "job_queue_size").guarded.value) == ("7", None)


@pytest.mark.parametrize(
    ("key", "nearest"), [("job_queue_siz", "job_queue_size"), ("guard.manifesto", "guard.manifest"), ("zzz", None)]
)
def test_an_unknown_key_is_an_error_with_the_nearest_name(explained, key, nearest):
    with pytest.raises(ConfigError) as refused:
        explained("#\n", key)
    assert f"`{key}`" in str(refused.value)
    assert (f"`{nearest}`" in str(refused.value)) is (nearest is not None)


SECRETS = {"DB_PASSWORD": "hunter22", "TS_KEYSTORE_PASS": "hunter33", "API_TOKEN": "hunter44", "PLAIN": "seen"}


@pytest.mark.parametrize(
    "line",
    [
        "keystore_pass=hunter11",
        "keystore_pass=$$DB_PASSWORD$$",
        "blacklist_env_vars=$$DB_PASSWORD$$",
        "model_store=/x/$$API_TOKEN$$",
        "cors_allowed_origin=https://me:hunter55@example.com",
        "job_queue_size=$$DB_PASSWORD$$",
        "vmargs=-Dx=$$API_TOKEN$$",
        "vmargs=-Djavax.net.ssl.keyStorePassword=hunter66",
        "enable_envvars_config=true",
    ],
)
def test_no_secret_is_shown(explained, line):
    made = explained(f"{line}\nload_models=$$PLAIN$$.mar\n", environment=SECRETS, everything=True, model_store=None)
    assert "hunter" not in repr(made)
    assert row(made, "load_models").stock.value == "seen.mar"


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys, place):
    """Run a command line in the folder; return its exit code, standard output and standard error."""
    monkeypatch.chdir(place)
    for name in [name for name in os.environ if name.startswith(("TS_", "TSGUARD_", "LOG_LOCATION"))]:
        monkeypatch.delenv(name)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tsguard", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return command


def test_the_text_names_key_value_and_every_step(run, place, monkeypatch):
    (place / "c").write_text("job_queue_size=7\n")
    monkeypatch.setenv("TS_JOB_QUEUE_SIZE", "9")
    code, out, err = run("config", "explain", "job_queue_size", "--config", "c", "--model-store", "store")
    assert (code, err) == (0, "")
    lines = re.sub(" +", " ", out).splitlines()
    assert lines[-5:] == [
        " stock `7`",
        " guarded `7` (c:1)",
        " chain default TorchServe: `100`",
        " file c:1: `7`",
        " environment TS_JOB_QUEUE_SIZE: `9` (not read: `enable_envvars_config` is not true)",
    ]


def test_the_document_is_json_with_a_schema(run, place):
    (place / "c").write_text("load_models=a.mar\n")
    code, out, _ = run("config", "explain", "--config", "c", "--model-store", "store", "--models", "b.mar", "--json")
    document = json.loads(out)
    assert (code, document["schema"]) == (0, "torchserve_guard/config-explain/v1")
    (told,) = [one for one in document["keys"] if one["key"] == "load_models"]
    assert [(step["origin"], step["where"], step["value"]) for step in told["stock"]["chain"]] == [
        ("default", "TorchServe", None),
        ("file", "c:1", "a.mar"),
        ("flag", "--models", "b.mar"),
    ]
    assert told["guarded"]["value"] == "b.mar"


def test_a_misspelt_key_ends_with_code_2(run, place):
    (place / "c").write_text("#\n")
    code, out, err = run("config", "explain", "job_queue_siz", "--config", "c")
    assert (code, out) == (2, "")
    assert "did you mean `job_queue_size`?" in err


def test_a_configuration_that_is_not_there_ends_with_code_2(run):
    code, _, err = run("config", "explain", "--config", "nowhere")
    assert code == 2
    assert "nowhere" in err


def test_a_value_without_end_is_cut_for_people_and_whole_in_the_document(run, place):
    (place / "c").write_text(f"load_models={'a' * 5000}\n")
    _, text, _ = run("config", "explain", "load_models", "--config", "c")
    _, document, _ = run("config", "explain", "load_models", "--config", "c", "--json")
    assert "and 4600 characters more" in text
    assert not [line for line in text.splitlines() if line.startswith("  stock") and len(line) > 500]
    assert "a" * 5000 in document


def test_what_a_file_holds_does_not_steer_the_terminal(run, place):
    (place / "c").write_text("load_models=\\u001b[31mred\\n\\u202e\n")
    code, out, _ = run("config", "explain", "--config", "c", "--model-store", "store")
    assert code == 0
    assert out.isascii()
    assert "\x1b" not in out


def test_the_program_does_not_load_the_explanation_before_it_is_asked_for():
    all_of_it = "import sys; from torchserve_guard.cli import commands; commands.app(); "
    listed = all_of_it + "print('torchserve_guard.explaining' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", listed], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_what_torchserve_is_told_unchanged_is_what_the_frontend_hands_on():
    """The table of keys and the one of the frontend agree: nothing that counts as handed on is kept back."""
    passed = {key.name for key in KEYS.values() if key.fate is Fate.PASS}
    assert passed <= PASSED_ON
