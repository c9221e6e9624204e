"""A registration with private copies: each is fresh, and stays as long as something is linked to it."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from corpus.archives import HANDLER, Entry, archive, manifest

from torchserve_guard import archives
from torchserve_guard.preflight import preflight
from torchserve_guard.registration import Registration
from torchserve_guard.settings import Flags, LoadItem, Surroundings, load
from torchserve_guard.wire import Listener, classify

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ASKED = classify(Listener.MANAGEMENT, "POST", b"/models?url=m.mar")


@pytest.fixture
def settings(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    for name in ("m.mar", "n.mar"):
        (models / name).write_bytes(
            archive(Entry("handler.py", HANDLER), Entry("MAR-INF/MANIFEST.json", manifest(modelName=name[0])))
        )
    made = archives.create_manifest(models, None, version=1, created=NOW)
    (models / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))
    config = tmp_path / "config.properties"
    config.write_text("model_store=models\nload_models=m.mar,n.mar\nguard.private_copies=m.mar\n")
    return load(config, Flags(), Surroundings({}, tmp_path, tmp_path))


@pytest.fixture
def store(tmp_path):
    return archives.Store(tmp_path / "store")


@pytest.fixture
def registration(settings, store, tmp_path):
    return Registration(settings, store, tmp_path / "exposed", tmp_path / "links", lambda: NOW)


def copies(tmp_path):
    return sorted((tmp_path / "store" / "copies").iterdir())


def link(tmp_path, name):
    """What TorchServe does with what it is shown (ModelArchive.downloadModel)."""
    place = tmp_path / "links" / name
    place.mkdir(parents=True)
    (place / "m.mar").symlink_to(tmp_path / "exposed" / "m.mar")
    return place / "m.mar"


def test_only_what_is_named_is_copied_and_models_of_one_archive_share_it(settings, store, registration, tmp_path):
    models = preflight(settings, store, NOW).models
    again = dataclasses.replace(models[0], item=LoadItem("m.mar", "other"), model="other")
    registration.begin((*models, again))
    assert [(one["model"], one["files"]) for one in registration.listed()] == [
        ("m", "private-copy"),
        ("n", "read-only"),
        ("other", "private-copy"),
    ]
    assert (tmp_path / "exposed" / "m.mar").resolve().parent == copies(tmp_path)[0]
    assert len(copies(tmp_path)) == 1
    registration.end()
    assert copies(tmp_path) == []


async def test_a_registration_gets_a_fresh_copy_and_one_that_nothing_uses_goes(settings, store, registration, tmp_path):
    registration.begin(preflight(settings, store, NOW).models)
    linked = link(tmp_path, "first")
    (linked / "handler.py").write_text("changed by the model")
    await registration.prepare(ASKED)
    assert b"changed" not in (tmp_path / "exposed" / "m.mar" / "handler.py").read_bytes()
    assert b"changed" in (linked / "handler.py").read_bytes(), "what serves keeps its own"
    assert registration.shown(ASKED)["files"] == "private-copy"
    await registration.settled(ASKED, 200)
    assert len(copies(tmp_path)) == 2
    linked.unlink()
    await registration.prepare(ASKED)
    assert len(copies(tmp_path)) == 1


async def test_two_registrations_of_one_archive_at_one_time_share_a_copy(settings, registration, tmp_path):
    await registration.prepare(ASKED)
    shown = (tmp_path / "exposed" / "m.mar").resolve()
    await registration.prepare(ASKED)
    assert (tmp_path / "exposed" / "m.mar").resolve() == shown
    assert len(copies(tmp_path)) == 1
