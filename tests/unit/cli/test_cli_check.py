"""`tsguard check`: what a pipeline gets, on which stream, in which file, and with which exit code."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from corpus.archives import GOOD, Entry, archive

from torchserve_guard.cli import delivery, main, targets
from torchserve_guard.errors import ConfigError

HOSTILE = "\x1b[31mred\nhigh TSG001 forged.properties"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run `tsguard check` in the folder of the test; return exit code, standard output and standard error."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["tsguard", "check", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def checkout(tmp_path):
    """A folder as a pipeline has it: a store with a listed archive, and a good configuration."""
    (tmp_path / "models").mkdir()
    (tmp_path / "conf").mkdir()
    store(tmp_path, archive(*GOOD))
    (tmp_path / "conf" / "good.properties").write_text("model_store=models\nload_models=m.mar\n")
    return tmp_path


def store(folder: Path, data: bytes) -> None:
    from datetime import UTC, datetime

    from torchserve_guard import archives

    (folder / "models" / "m.mar").write_bytes(data)
    made = archives.create_manifest(folder / "models", None, version=1, created=datetime(2030, 1, 1, tzinfo=UTC))
    (folder / "models" / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))


GOOD_FILE = "conf/good.properties"


@pytest.mark.parametrize("form", ["text", "json", "sarif", "junit", "codequality"])
def test_every_format_goes_to_standard_output_alone(run, checkout, form):
    code, output, error = run("--config", GOOD_FILE, "--format", form)
    assert (code, error) == (0, "")
    assert output


def test_json_and_text_agree(run, checkout):
    store(checkout, archive(*GOOD, Entry("sitecustomize.py", b"x = 1\n")))
    code, output, _ = run("--config", GOOD_FILE, "--format", "json")
    document = json.loads(output)
    assert (code, document["exit_code"], document["passed"]) == (3, 3, False)
    (found,) = [one for one in document["findings"] if one["rule"] == "TSG-SCAN-001"]
    assert (found["path"], found["member"]) == (str(checkout / "models/m.mar"), "sitecustomize.py")
    assert run("--config", GOOD_FILE, "--format", "json", "--fail-on", "critical")[0] == 0


@pytest.mark.parametrize(
    ("change", "code", "rule", "place"),
    [
        (lambda folder: (folder / GOOD_FILE).write_text("model_store=models\nmodel_snapshot=x\n"), 2, "TSG-CONFIG", 2),
        (lambda folder: (folder / GOOD_FILE).unlink(), 2, "TSG-CONFIG", None),
        (lambda folder: (folder / "models/m.mar").write_bytes(b"other"), 4, "TSG-VERIFY", None),
    ],
)
def test_an_error_comes_in_the_format_and_as_text_and_with_its_code(run, checkout, change, code, rule, place):
    change(checkout)
    ended, output, error = run("--config", GOOD_FILE, "--format", "json")
    document = json.loads(output)
    (found,) = [one for one in document["findings"] if one["rule"] == rule]
    assert (ended, document["exit_code"], found["line"]) == (code, code, place)
    assert error.startswith("tsguard: ")
    ended, output, _ = run("--config", GOOD_FILE, "--format", "sarif")
    results = json.loads(output)["runs"][0]["results"]
    assert (ended, [one["level"] for one in results if one["ruleId"] == rule]) == (code, ["error"])
    ended, output, _ = run("--config", GOOD_FILE, "--format", "junit")
    assert (ended, len(ET.fromstring(output).findall(".//error"))) == (code, 1)  # noqa: S314 - our own
    ended, output, error = run("--config", GOOD_FILE)
    assert (ended, output) == (code, "")
    assert error.startswith("tsguard: ")


@pytest.mark.parametrize("arguments", [(), ("--config", GOOD_FILE, "stray.mar")])
def test_a_misuse_comes_in_the_format_too(run, checkout, arguments):
    code, output, error = run(*arguments, "--format", "json")
    assert (code, json.loads(output)["findings"][0]["rule"]) == (2, "TSG-CONFIG")
    assert error.startswith("tsguard: ")


def test_an_output_appears_whole_and_the_log_says_what_is_in_it(run, checkout):
    code, output, error = run("--config", GOOD_FILE, "--format", "sarif", "--output", "report.sarif")
    assert (code, output) == (0, "")
    assert "conf/good.properties: 1 archives verified" in error
    assert json.loads((checkout / "report.sarif").read_text())["version"] == "2.1.0"
    assert sorted(path.name for path in checkout.iterdir()) == ["conf", "models", "report.sarif"]


def test_an_output_that_cannot_be_written_is_a_configuration_error(run, checkout):
    code, _, error = run("--config", GOOD_FILE, "--output", "nowhere/report")
    assert code == 2
    assert "nowhere/report: cannot be written" in error


def test_an_output_replaces_a_link_and_writes_into_what_is_no_file(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "report").symlink_to("victim")
    delivery.deliver("new", tmp_path / "report")
    assert ((tmp_path / "victim").read_text(), (tmp_path / "report").read_text()) == ("precious", "new")
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    delivery.deliver("through", tmp_path / "pipe")
    reader.join(10)
    assert read == ["through"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_is_every_configuration_below_it_and_the_worst_code_counts(run, checkout):
    (checkout / "conf/deep").mkdir()
    (checkout / "conf/deep/bad.properties").write_text("model_store=models\nmodel_snapshot=x\n")
    (checkout / "conf/notes.txt").write_text("no configuration")
    code, output, _ = run("--config", "conf", "--format", "json")
    document = json.loads(output)
    assert document["schema"] == "torchserve_guard/reports/v1"
    assert [(one["target"], one["exit_code"]) for one in document["runs"]] == [
        ("conf/deep/bad.properties", 2),
        ("conf/good.properties", 0),
    ]
    assert (code, document["exit_code"]) == (2, 2)
    store(checkout, archive(*GOOD, Entry("sitecustomize.py", b"x = 1\n")))
    assert run("--config", "conf", "--format", "json")[0] == 3
    (checkout / "models/m.mar").write_bytes(b"other")
    assert run("--config", "conf", "--format", "json")[0] == 4


def test_several_configurations_are_one_run_of_sarif_and_a_suite_each_of_junit(run, checkout):
    (checkout / "conf/bad.properties").write_text("model_store=models\nmodel_snapshot=x\n")
    named = ("--config", GOOD_FILE, "--config", "conf/bad.properties")
    assert len(json.loads(run(*named, "--format", "sarif")[1])["runs"]) == 1
    suites = ET.fromstring(run(*named, "--format", "junit")[1])  # noqa: S314 - our own
    assert [suite.get("name") for suite in suites] == ["conf/good.properties", "conf/bad.properties"]
    code, output, error = run(*named)
    assert (code, error) == (2, "")
    assert output.splitlines()[-1] == "2 configurations: 1 pass, 1 with exit code 2"


def test_a_folder_without_a_configuration_does_not_pass(run, checkout):
    code, output, _ = run("--config", "models", "--format", "json")
    assert code == 2
    assert "holds no file *.properties" in json.loads(output)["runs"][0]["findings"][0]["message"]


def test_what_is_left_out_of_a_folder_is_an_error(tmp_path, monkeypatch):
    folder = tmp_path
    for _ in range(targets.DEEPEST):
        folder = folder / "d"
        folder.mkdir()
    (tmp_path / "a.properties").touch()
    with pytest.raises(ConfigError, match="is deeper than"):
        targets.below(tmp_path)
    monkeypatch.setattr(targets, "DEEPEST", 100)
    monkeypatch.setattr(targets, "MOST", 1)
    (tmp_path / "b.properties").touch()
    with pytest.raises(ConfigError, match="more than 1 files"):
        targets.below(tmp_path)


def test_links_to_folders_are_not_followed_and_what_is_no_file_is_told(run, checkout):
    (checkout / "conf/loop").symlink_to(checkout)
    (checkout / "conf/gone.properties").symlink_to("nowhere")
    os.mkfifo(checkout / "conf/pipe.properties")
    (checkout / "conf/folder.properties").mkdir()
    code, output, _ = run("--config", "conf", "--format", "json")
    runs = json.loads(output)["runs"]
    assert [(one["target"], one["exit_code"]) for one in runs] == [
        ("conf/gone.properties", 2),
        ("conf/good.properties", 0),
        ("conf/pipe.properties", 2),
    ]
    assert code == 2


@pytest.mark.parametrize("form", ["text", "json", "sarif", "junit", "codequality"])
def test_the_name_of_a_file_forges_nothing(run, checkout, form):
    (checkout / "conf" / HOSTILE).write_text("model_snapshot=x\n")
    (checkout / "conf" / os.fsdecode(b"\xff.properties")).write_text("model_snapshot=x\n")
    code, output, error = run("--config", "conf", "--format", form)
    assert code == 2
    for text in (output, error):
        assert "\x1b" not in text
        assert not any(line.startswith("high TSG001") for line in text.splitlines())


def test_waivers_count_in_a_check(run, checkout):
    (checkout / GOOD_FILE).write_text(
        "model_store=models\nload_models=m.mar\nmanagement_address=http://0.0.0.0:8081\nguard.waivers=w.yaml\n"
    )
    (checkout / "w.yaml").write_text("[]\n")
    assert run("--config", GOOD_FILE, "--fail-on", "medium")[0] == 3
    rules = {}
    for one in json.loads(run("--config", GOOD_FILE, "--format", "json")[1])["findings"]:
        if one["severity"] != "low" and one["key"]:
            rules[one["rule"]] = one["key"]
    values = {"management_address": "http://0.0.0.0:8081"}
    rest = "reason: r, owner: o, expires: 2999-01-01"
    (checkout / "w.yaml").write_text(
        "".join(
            f"- {{rule: {rule}, key: {key}, value: '{values.get(key, '')}', {rest}}}\n" for rule, key in rules.items()
        )
    )
    document = json.loads(run("--config", GOOD_FILE, "--format", "json", "--fail-on", "medium")[1])
    assert {one["rule"] for one in document["findings"] if one["state"] == "waived"} == rules.keys() >= {"TSG001"}


def test_on_a_terminal_it_is_coloured_unless_nobody_wants_that(checkout):
    (checkout / GOOD_FILE).write_text("model_store=models\nload_models=m.mar\nmanagement_address=http://0.0.0.0:8081\n")
    plain = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    plain |= {"TERM": "xterm-256color", "XDG_STATE_HOME": str(checkout / "state")}
    assert "\x1b[" in _on_a_terminal(checkout, plain)
    assert "\x1b" not in _on_a_terminal(checkout, plain | {"NO_COLOR": "1"})
    assert "\x1b" not in _on_a_terminal(checkout, plain | {"TERM": "dumb"})


def _on_a_terminal(folder: Path, environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    command = [Path(sys.executable).parent / "tsguard", "check", "--config", GOOD_FILE]
    done = subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    told = b""
    try:
        while chunk := os.read(ours, 65536):
            told += chunk
    except OSError:
        pass  # Linux says EIO when the other end of a terminal is closed
    finally:
        os.close(ours)
    assert done.wait(60) in {0, 3}
    assert b"TSG001" in told
    return told.decode()
