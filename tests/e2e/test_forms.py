"""A model in every form that torch-model-archiver writes serves through the guard, and answers as through stock."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import servers
from corpus import writers

pytestmark = pytest.mark.e2e

NOOP = Path(servers.__file__).parent / "models" / "noop.py"
MODELS = {"byzip": "default", "bystore": "zip-store", "bytar": "tgz", "bare": "no-archive"}
BODIES = (b"hello", bytes(range(256)), b"")


@pytest.fixture(scope="module")
def forms():
    """A store with one model in each form, and its manifest."""
    with servers.folder("tsg-f-") as folder:
        store = folder / "store"
        store.mkdir()
        source = folder / "noop.py"
        shutil.copy(NOOP, source)
        for model, form in MODELS.items():
            writers.by_archiver(model, form, source, store)
        servers.manifest(store)
        yield store


@pytest.fixture(scope="module")
def both(forms):
    """Stock and guarded servers, one after the other: what each answers to the same requests, and the guarded one's."""
    answers = {}
    names = ",".join(f"{model}{writers.FORMS[form]}" for model, form in MODELS.items())
    for kind, ready in ((servers.Stock, (tuple(MODELS),)), (servers.Guarded, ())):
        with servers.folder("tsg-f-") as folder:
            # Stock links to a directory, and Python writes its cache there: that is another directory then.
            store = shutil.copytree(forms, folder / "store")
            server = kind(folder, store, {"load_models": names})
            with servers.serving(server, *ready):
                answers[kind] = {model: asked(server, model) for model in MODELS}
    return answers


def asked(server, model):
    predictions = [server.ask("POST", f"/predictions/{model}", body) for body in BODIES]
    described = server.manage("GET", f"/models/{model}").json[0]
    kept = {key: described[key] for key in ("modelName", "modelVersion", "modelUrl", "runtime")}
    return [(answer.status, answer.body) for answer in predictions], kept


@pytest.mark.parametrize("model", MODELS)
def test_each_form_answers_as_stock(both, model):
    stock, guarded = both[servers.Stock][model], both[servers.Guarded][model]
    assert guarded == stock
    assert stock[0][0] == (200, b"hello")
    assert stock[1]["modelUrl"] == f"{model}{writers.FORMS[MODELS[model]]}"


def test_all_loads_every_form_and_a_tarball_is_registered_again_at_run_time(forms, guard):
    server = guard(forms, {"load_models": "ALL", "model-control-mode": "explicit"})
    with servers.serving(server):
        assert models(server) == set(MODELS)
        assert changed(server, "DELETE", "/models/bytar").status == 200
        assert models(server) == set(MODELS) - {"bytar"}
        again = changed(server, "POST", "/models?url=bytar.tar.gz&initial_workers=1&synchronous=true")
        assert again.status == 200, again.body
        assert server.ask("POST", "/predictions/bytar", b"again").body == b"again"


def models(server):
    return {one["modelName"] for one in server.manage("GET", "/models").json["models"]}


def changed(server, method, target):
    key = json.loads((server.folder / "key_file.json").read_text())["management"]["key"]
    return server.manage(method, target, headers={"Authorization": f"Bearer {key}"})


def test_a_tarball_that_was_exchanged_is_refused(forms, guard, place):
    store = place / "store"
    shutil.copytree(forms, store)
    data = bytearray((store / "bytar.tar.gz").read_bytes())
    data[-1] ^= 1
    (store / "bytar.tar.gz").write_bytes(data)
    server = guard(store, {"load_models": "bytar.tar.gz"})
    done = server.run("start", "--config", str(server.config))
    assert done.returncode == 4
    assert "bytar.tar.gz: is not what the manifest lists" in done.stderr
