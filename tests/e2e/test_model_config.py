"""An archive whose configuration makes an environment of its own: stock runs it, the guard tells and refuses."""

from __future__ import annotations

import json

import pytest
import servers
from corpus.archives import HANDLER_ENTRY, MANIFEST, Entry, archive, manifest

pytestmark = pytest.mark.e2e

PLAIN = (HANDLER_ENTRY, Entry(MANIFEST, manifest(modelName="plain")))
VENV = (
    HANDLER_ENTRY,
    Entry("model-config.yaml", b"minWorkers: 1\nuseVenv: true\n"),
    Entry(MANIFEST, manifest(modelName="venv", configFile="model-config.yaml")),
)


@pytest.fixture
def store(place):
    """A listed store of a plain archive, and of one that asks for an environment of its own."""
    folder = place / "store"
    folder.mkdir()
    (folder / "plain.mar").write_bytes(archive(*PLAIN))
    (folder / "venv.mar").write_bytes(archive(*VENV))
    servers.manifest(folder)
    return folder


def test_it_is_not_registered_while_serving(guard, store):
    server = guard(store, {"load_models": "plain.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        key = json.loads((server.folder / "key_file.json").read_text())["management"]["key"]
        answer = server.manage("POST", "/models?url=venv.mar", headers={"Authorization": f"Bearer {key}"})
        assert answer.status >= 400
        refusal = [entry for entry in server.audit() if entry["event"] == "refusal"][-1]
        assert "`venv.mar`: TSG102" in refusal["reason"]
        assert [one["modelName"] for one in server.manage("GET", "/models").json["models"]] == ["plain"]


def test_it_is_not_started_with(guard, store):
    server = guard(store, {"load_models": "venv.mar"})
    server.launch()
    assert server.process.wait(60) == 3
    assert "TSG102" in server.output()
