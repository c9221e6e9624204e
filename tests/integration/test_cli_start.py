"""What a command imports is what it needs: that, and no stopwatch, is held here; the times are benchmarks' business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pki
import pytest
from corpus.archives import HANDLER, manifest

OURS = "torchserve_guard."
CLI = "torchserve_guard.cli."
EVERYWHERE = {"collecting", "commands", "lines", "main", "narrowing"}
READS_SIGNATURES = {"torchserve_guard.archives.signing.bundle", "torchserve_guard.archives.signing.statement"}
PROGRAM = """
import gc, json, sys
words, there, usual = json.loads(sys.argv[1]), set(sys.modules), gc.get_threshold()
sys.argv = ["tsguard", *words]
from torchserve_guard.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code or 0
looks = gc.get_threshold() == usual
print(json.dumps({"code": code, "modules": sorted(set(sys.modules) - there), "usual": looks}), file=sys.stderr)
"""


def ran(*words: object) -> dict:
    """Run a command line in a process of its own, and return its exit code and what it imported."""
    told = json.dumps([str(word) for word in words])
    done = subprocess.run([sys.executable, "-c", PROGRAM, told], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stderr.splitlines()[-1])


def commands(found: dict) -> set[str]:
    """Return the modules of the command line that were imported, without those that every command needs."""
    return {name.removeprefix(CLI) for name in found["modules"] if name.startswith(CLI)} - EVERYWHERE


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with zipfile.ZipFile(folder / "one.mar", "w") as file:
        file.writestr("handler.py", HANDLER)
        file.writestr("MAR-INF/MANIFEST.json", manifest(modelName="one"))
    assert ran("manifest", "create", folder)["code"] == 0
    return folder


def test_verifying_without_a_key_imports_no_other_command_and_nothing_that_reads_signatures(store):
    found = ran("manifest", "verify", store)
    assert found["code"] == 0
    assert commands(found) == {"manifest", "signing", "files", "progress", "archive_limits"}
    assert "torchserve_guard.archives.inventory" in found["modules"]
    assert not READS_SIGNATURES & set(found["modules"])
    assert not {"cryptography", "rich", "psutil", "yaml", "asyncio", "uvloop"} & set(found["modules"])


def test_verifying_with_a_key_asks_whoever_signed(store, tmp_path):
    key = pki.written(tmp_path / "key.pem", pki.private_pem(pki.key()))
    found = ran("manifest", "verify", store, "--trusted-key", key)
    assert set(found["modules"]) >= READS_SIGNATURES
    assert found["code"] != 0, "nobody signed it"


@pytest.mark.parametrize(
    ("word", "modules"),
    [
        ("start", {"start", "options", "progress", "saying"}),
        ("check", {"check", "delivery", "options", "progress", "targets"}),
        ("status", {"control", "options"}),
        ("stop", {"control", "options"}),
        ("shim", {"shim"}),
        ("prepare", {"prepare"}),
        ("inspect", {"inspect", "progress", "archive_limits"}),
        ("manifest", {"manifest", "signing", "files", "progress", "archive_limits"}),
        ("config", {"config", "options"}),
    ],
)
def test_a_command_imports_no_module_of_another(word, modules):
    found = ran(word, "--help")
    assert found["code"] == 0
    assert commands(found) == modules
    assert "torchserve_guard.explaining" not in found["modules"]


@pytest.mark.parametrize("words", [(), ("--help",), ("nonsense",), ("-h", "check"), ("--", "check")])
def test_what_names_no_command_first_has_them_all(words):
    assert commands(ran(*words)) >= {"start", "check", "control", "shim", "prepare", "inspect", "manifest", "config"}


def test_the_completion_of_a_shell_has_all_commands():
    given = {**os.environ, "_TSGUARD_COMPLETE": "complete_bash", "COMP_WORDS": "tsguard s", "COMP_CWORD": "1"}
    program = "import sys; sys.argv = ['tsguard']; from torchserve_guard.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=given, check=False)
    assert done.stdout.split() == ["start", "status", "stop", "shim"]


def test_a_short_command_seldom_looks_for_garbage_and_importing_the_command_line_changes_nothing(store):
    assert ran("manifest", "verify", store)["usual"] is False
    program = "import gc; t = gc.get_threshold(); import torchserve_guard.cli.commands; print(t == gc.get_threshold())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_start_looks_for_garbage_as_any_process_does(store, tmp_path):
    """It stays, so it must; one that is refused has come as far as is needed to see that."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "one.mar").write_bytes(b"not what the manifest lists")
    (models / "tsguard-manifest.json").write_bytes((store / "tsguard-manifest.json").read_bytes())
    config = tmp_path / "config.properties"
    config.write_text(f"model_store={models}\nload_models=all\n")
    found = ran("start", "--config", config)
    assert found["code"] == 4
    assert "torchserve_guard.run" in found["modules"]
    assert found["usual"] is True


def test_what_is_printed_reaches_a_pipe_whole_although_nothing_is_collected_at_the_end(store):
    program = "import sys; sys.argv = sys.argv[1:]; from torchserve_guard.cli import main; main()"
    command = [sys.executable, "-c", program, "tsguard", "manifest", "show", "--json", str(store)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert done.stdout == (store / "tsguard-manifest.json").read_bytes()
