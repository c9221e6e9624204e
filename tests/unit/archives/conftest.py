"""A small model as torch-model-archiver makes it: built once, in the forms it knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpus.archives import HANDLER, manifest

ARCHIVER = [sys.executable, "-m", "model_archiver.model_packaging"]


@pytest.fixture(scope="session")
def model_store(tmp_path_factory):
    """A model store: `small.mar` (deflated), `stored.mar` (zip-store), and the directory `loose`."""
    sources = tmp_path_factory.mktemp("sources")
    store = tmp_path_factory.mktemp("model-store")
    (sources / "handler.py").write_bytes(HANDLER)
    (sources / "index_to_name.json").write_text(json.dumps({"0": "cat"}))
    (sources / "weights.pt").write_bytes(bytes(range(256)) * 2000)
    for name, form in (("small", "default"), ("stored", "zip-store"), ("loose", "no-archive")):
        command = [*ARCHIVER, "--model-name", name, "--version", "1.0", "--archive-format", form]
        command += ["--handler", str(sources / "handler.py"), "--serialized-file", str(sources / "weights.pt")]
        command += ["--extra-files", str(sources / "index_to_name.json"), "--export-path", str(store)]
        environment = {"TMPDIR": str(tmp_path_factory.mktemp("archiver")), "PATH": "/usr/bin:/bin"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
    return store


@pytest.fixture
def mar_tree(tmp_path):
    """The files of an archive, before any writer has packed them."""
    tree = tmp_path / "tree"
    (tree / "MAR-INF").mkdir(parents=True)
    (tree / "empty").mkdir()
    (tree / "handler.py").write_bytes(HANDLER)
    (tree / "MAR-INF" / "MANIFEST.json").write_bytes(manifest())
    return tree


@pytest.fixture(autouse=True)
def removable(tmp_path):
    """Let pytest, when it is not root, remove the read-only trees that a test leaves behind."""
    yield
    for directory, _, _ in os.walk(tmp_path):
        Path(directory).chmod(0o700)
