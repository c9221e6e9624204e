"""What cannot be used is said in a line of its own, and never with a traceback."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from torchserve_guard import draft
from torchserve_guard.cli import files, main
from torchserve_guard.cli.lines import indented, of_error, printable
from torchserve_guard.errors import ConfigError, FrontendError, VerificationError

HOSTILE = "\x1b[31mred\nforged\r\u202e\u2028\ud800"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; return its exit code, standard output and standard error."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tsguard", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return command


@pytest.fixture
def store(tmp_path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def told(error: str) -> str:
    """The one line that an error is."""
    assert error.startswith("tsguard: ")
    assert error.count("\n") == 1
    return error


# --- lines ------------------------------------------------------------------------------------------------------


def test_what_does_not_show_is_escaped():
    assert printable(HOSTILE + "é") == "\\x1b[31mred\\nforged\\r\\u202e\\u2028\\ud800é"


def test_each_complaint_is_one_line():
    assert of_error(ConfigError("a\nb", "c")) == ["tsguard: a\\nb", "tsguard: c"]
    assert of_error(VerificationError("a\nb", "c")) == ["tsguard: a\\nb", "tsguard: c"]


def test_a_further_line_of_a_message_does_not_look_like_a_message():
    assert of_error(FrontendError("a\nb")) == ["tsguard: a", "tsguard:   b"]
    assert indented("a\n\x1bb") == "a\n  \\x1bb"


def test_no_name_of_a_file_reaches_the_terminal_raw(run, store):
    (store / "\x1b[31mred\ntsguard: forged.mar").write_bytes(b"")
    code, _, error = run("manifest", "create", str(store))
    assert code == 2
    assert "\x1b" not in error
    assert "\ntsguard: forged" not in error


# --- the manifest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", ["inf", "1e300", "999999999"])
def test_days_that_never_end_are_refused(run, store, days):
    code, _, error = run("manifest", "create", str(store), "--expires-days", days)
    assert code == 2
    assert "--expires-days" in told(error)


def test_days_that_are_no_number_are_refused(run, store):
    assert run("manifest", "create", str(store), "--expires-days", "nan")[0] == 2


@pytest.mark.parametrize("path", ["/" + "x" * 300, "/nonexistent/manifest", "/dev/full/manifest"])
def test_a_manifest_that_cannot_be_written_is_a_configuration_error(path):
    with pytest.raises(ConfigError, match="cannot be written"):
        files.replace(Path(path), b"")


@pytest.mark.parametrize("path", ["/", "..", "/dev/null"])
def test_a_manifest_that_is_no_file_is_a_configuration_error(run, store, path):
    code, _, error = run("manifest", "create", str(store), "--manifest", path)
    assert code == 2
    assert "not a regular file" in told(error)


def test_a_name_that_is_not_utf_8_is_shown(run, store):
    (store / os.fsdecode(b"\xff.mar")).write_bytes(b"")
    code, _, error = run("manifest", "create", str(store))
    assert code == 2
    assert "'\\udcff.mar' is not UTF-8" in told(error)


def test_a_manifest_replaces_a_link_and_leaves_no_draft(tmp_path):
    path, victim = tmp_path / "manifest.json", tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    files.replace(path, b"new")
    assert (path.read_bytes(), victim.read_text()) == (b"new", "precious")
    assert stat.S_IMODE(path.lstat().st_mode) == 0o644
    assert sorted(file.name for file in tmp_path.iterdir()) == ["manifest.json", "victim"]


def test_a_draft_is_written_through_no_link_that_was_laid_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(draft.secrets, "token_hex", lambda size: "0" * size)
    path, victim = tmp_path / "manifest.json", tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / (".tsguard." + "0" * 8)).symlink_to(victim)
    with pytest.raises(ConfigError, match="cannot be written"):
        files.replace(path, b"new")
    assert victim.read_text() == "precious"


# --- surroundings -----------------------------------------------------------------------------------------------


def test_a_working_directory_that_is_gone_is_a_configuration_error(run, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, error = run("check", "--config", str(tmp_path / "config.properties"))
    assert code == 2
    assert "working directory" in told(error)


def test_an_error_of_the_system_that_nobody_foresaw_is_one_line(run, store, tmp_path, monkeypatch):
    """Here a temporary directory that cannot be made, which no command looks for."""
    config = tmp_path / "config.properties"
    config.write_text(f"model_store={store}\nguard.state_dir={tmp_path}/state\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    code, _, error = run("check", "--config", str(config))
    assert code == 1
    assert "No such file or directory" in told(error)


def test_a_report_of_a_key_that_no_encoding_has_is_printed(run, store, tmp_path):
    config = tmp_path / "config.properties"
    config.write_text(f"model_store={store}\n\\ud800\\u001b=1\n")
    config.chmod(0o644)
    code, output, _ = run("check", "--config", str(config), "--fail-on", "critical")
    assert code in (0, 3)
    assert "`\\ud800\\x1b` is not a key" in output
    (tmp_path / "report").touch()
    assert run("check", "--config", str(config), "--output", str(tmp_path / "report"))[0] in (0, 3)
    assert "`\\ud800" in (tmp_path / "report").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "TSGUARD_VERSION",
        "TSGUARD_HELP",
        "TSGUARD_SHOW_COMPLETION",
        "TSGUARD_INSTALL_COMPLETION",
        "TSGUARD_MANIFEST_HELP",
        "TSGUARD_MANIFEST_VERIFY_HELP",
    ],
)
@pytest.mark.parametrize("value", ["1", "0.1.0", ""])
def test_no_variable_has_a_gate_end_well_with_its_work_undone(name, value, tmp_path):
    done = subprocess.run(
        [str(Path(sys.executable).parent / "tsguard"), "manifest", "verify", str(tmp_path / "nowhere")],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere" in done.stderr
    assert not list(tmp_path.iterdir())
