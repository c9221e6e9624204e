"""What the workers' interpreter lacks is found without importing anything, and without running what is looked at."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchserve_guard.workers import Code, Interpreter
from torchserve_guard.workers.interpreter import ANSWERS_WITHIN, PROBE
from torchserve_guard.workers.questions import Broken, Missing

MANIFEST = "MAR-INF/MANIFEST.json"


def asked(tree: Path, handler: str | None = "handler", model: str | None = None):
    with Interpreter(os.environ) as interpreter:
        answers = interpreter.ask((Code(tree, MANIFEST, handler, model),))
    assert answers is not None
    return answers


@pytest.fixture
def tree(tmp_path):
    """Write the members of an archive: `tree(handler="import os")`."""

    def write(**members: str) -> Path:
        for name, text in members.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_what_is_missing_is_named_with_member_and_line(tree):
    answers = asked(tree(handler="import os\nimport numpy, nobody_has_this\nfrom nor_this.deep import thing\n"))
    assert answers.models[0].missing == (
        Missing("nobody_has_this", "handler.py", 2),
        Missing("nor_this", "handler.py", 3),
    )


@pytest.mark.parametrize(
    "source",
    [
        "import os.path, json, xml.dom",
        "from __future__ import annotations",
        "try:\n    import nobody_has_this\nexcept ImportError:\n    pass",
        "try:\n    import nobody_has_this\nexcept (ValueError, ModuleNotFoundError):\n    pass",
        "try:\n    import nobody_has_this\nexcept:\n    pass",
        "def handle(data, context):\n    import nobody_has_this",
        "if False:\n    import nobody_has_this",
        "import own\nfrom pkg import part\nimport pkg.part\nfrom ns import inner",
        "import native",
        "import sys\nsys.path.append('code')\nimport hidden",
    ],
)
def test_what_is_there_or_caught_or_of_the_archive_itself_is_not_missing(tree, source):
    root = tree(handler=source, own="", pkg__part="", ns__inner="", code__hidden="")
    (root / "pkg" / "__init__.py").write_text("")
    (root / "native.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    walked = asked(root).models[0]
    assert (walked.missing, walked.broken) == ((), ())


def test_what_the_archives_own_modules_import_is_followed(tree):
    root = tree(handler="from pkg import part\n", pkg__part="from . import other\n", pkg__other="\nimport gone_a\n")
    (root / "pkg" / "__init__.py").write_text("import gone_b\n")
    missing = set(asked(root).models[0].missing)
    assert missing == {Missing("gone_b", "pkg/__init__.py", 1), Missing("gone_a", "pkg/other.py", 2)}


def test_a_finally_does_not_catch(tree):
    walked = asked(tree(handler="try:\n    import gone\nfinally:\n    pass\n")).models[0]
    assert walked.missing == (Missing("gone", "handler.py", 2),)


def test_the_models_own_file_is_followed_too(tree):
    walked = asked(tree(handler="", net="import gone\n"), model="net").models[0]
    assert walked.missing == (Missing("gone", "net.py", 1),)


def test_a_handler_of_torchserves_own_is_followed_and_told_by_the_manifest():
    # This environment has no torchvision, which TorchServe's image handlers import.
    walked = asked(Path("/nowhere"), handler="image_classifier").models[0]
    assert Missing("torchvision", MANIFEST, 0) in walked.missing
    assert asked(Path("/nowhere"), handler="base_handler").models[0].missing == ()


def test_what_does_not_parse_is_told_with_its_line(tree):
    (broken,) = asked(tree(handler="import os\ndef handle(data, context:\n")).models[0].broken
    assert isinstance(broken, Broken)
    assert (broken.member, broken.line) == ("handler.py", 2)


def test_nothing_of_the_archive_runs(tree, tmp_path):
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    members = dict.fromkeys(["handler", "sitecustomize", "ast", "json", "torch", "ts__service"], trap)
    root = tree(**{**members, "handler": trap + "import torch, json, ts.service, sitecustomize\n"})
    asked(root)
    assert not (tmp_path / "ran").exists()


def test_what_the_environment_would_add_is_not_seen(tree, tmp_path, monkeypatch):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "only_on_pythonpath.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "extra"))
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "handler.py").write_text("import only_on_pythonpath\n")
    assert asked(tmp_path / "archive").models[0].missing == (Missing("only_on_pythonpath", "handler.py", 1),)


def test_the_workers_and_the_version_of_torch_are_told():
    answers = asked(Path("/nowhere"), None)
    assert answers.worker.missing == ()
    assert answers.torch is not None
    assert answers.torch[0].isdigit()


@pytest.mark.parametrize(
    "source",
    [
        b"x = " + b"(" * 100_000 + b")" * 100_000,
        b"-" * 2_000_000 + b"1",
        b"import " + b"a." * 50_000 + b"b",
        b"\0",
        b"\xff\xfe",
    ],
    ids=["nested", "unary", "dotted", "nul", "not-text"],
)
def test_a_source_that_is_made_to_exhaust_its_reader_ends_in_time_and_hurts_nobody(tmp_path, source):
    (tmp_path / "handler.py").write_bytes(source)
    began = time.monotonic()
    with Interpreter(os.environ) as interpreter:
        answers = interpreter.ask((Code(tmp_path, MANIFEST, "handler", None),))
    assert answers is None or answers.models[0].broken or answers.models[0].missing
    assert time.monotonic() - began < ANSWERS_WITHIN + 10


def test_a_link_out_of_the_archive_cannot_make_it_wait(tmp_path):
    os.mkfifo(tmp_path / "handler.py")
    assert asked(tmp_path).models[0].missing == ()


def test_an_interpreter_that_cannot_be_run_or_says_nonsense_answers_nothing(tmp_path):
    for text in ("#!/bin/sh\nexit 1\n", "#!/bin/sh\necho '{\"models\": []}'\n", "#!/bin/sh\necho nonsense\n"):
        program = tmp_path / "python"
        program.write_text(text)
        program.chmod(0o755)
        with Interpreter({}, str(program)) as interpreter:
            assert interpreter.ask((Code(tmp_path, MANIFEST, None, None),)) is None
    with Interpreter({}, str(tmp_path / "gone")) as interpreter:
        assert interpreter.ask(()) is None


def test_the_probe_stands_alone():
    """It is run by an interpreter that need not have the guard, nor anything else."""
    command = [sys.executable, "-I", "-S", str(PROBE)]
    done = subprocess.run(command, input="[]", capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)["torch"] is None
    assert {one[0] for one in json.loads(done.stdout)["worker"]["missing"]} >= {"yaml", "torch", "psutil"}
