"""Mode explicit: models are managed at run time, with the management key, from the manifest, on record."""

import json
import shutil
import signal
import time

import pytest
import servers

pytestmark = pytest.mark.e2e


@pytest.fixture
def explicit(guard, own_store):
    """A guard in mode explicit whose store lists noop 1.0 (loaded), noop 2.0 and doubled."""
    store = own_store("noop.mar", "noop_v2.mar", "doubled.mar")
    server = guard(store, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        yield server


@pytest.fixture(scope="module")
def steady(archives):
    """The same, shared by tests that are refused and so change nothing; an unlisted `slow`, a damaged `pair`."""
    with servers.folder("tsg-e-") as folder:
        store = folder / "store"
        store.mkdir()
        for name in ("noop.mar", "noop_v2.mar", "doubled.mar", "pair.mar"):
            shutil.copy(archives / name, store / name)
        servers.manifest(store)
        shutil.copy(archives / "slow.mar", store / "slow.mar")
        with (store / "pair.mar").open("ab") as file:
            file.write(b"\0")
        server = servers.Guarded(folder / "g", store, {"load_models": "noop.mar", "model-control-mode": "explicit"})
        with servers.serving(server):
            yield server
            assert models(server) == ["noop"]


def key(server: servers.Guarded, kind: str = "management") -> dict[str, str]:
    document = json.loads((server.folder / "key_file.json").read_text())
    return {"Authorization": f"Bearer {document[kind]['key']}"}


def change(server: servers.Guarded, method: str, target: str, body=None, headers=None):
    return server.manage(method, target, body, headers={**key(server), **(headers or {})})


def models(server: servers.Guarded) -> list[str]:
    return sorted(model["modelName"] for model in server.manage("GET", "/models").json["models"])


def test_a_model_is_registered_scaled_switched_and_unregistered_as_with_stock(explicit):
    registered = change(explicit, "POST", "/models?url=noop_v2.mar&initial_workers=1&synchronous=true")
    assert registered.status == 200, registered.body
    assert registered.json["status"] == 'Model "noop" Version: 2.0 registered with 1 initial workers'
    scaled = change(explicit, "PUT", "/models/noop/2.0?min_worker=2&synchronous=true")
    assert scaled.json["status"] == "Workers scaled to 2 for model: noop, version: 2.0"
    assert change(explicit, "PUT", "/models/noop/2.0/set-default").status == 200
    assert explicit.manage("GET", "/models/noop").json[0]["modelVersion"] == "2.0"
    assert explicit.ask("POST", "/predictions/noop/2.0", b"two").body == b"two"
    assert change(explicit, "DELETE", "/models/noop/1.0").status == 200
    assert [version["modelVersion"] for version in explicit.manage("GET", "/models/noop/all").json] == ["2.0"]


def recorded(server: servers.Guarded, request_id: str, count: int):
    """The entries of one request, once there are so many: the outcome is recorded after the answer."""
    deadline = time.monotonic() + 10
    while True:
        entries = [entry for entry in server.audit() if entry.get("request_id") == request_id]
        if len(entries) >= count or time.monotonic() > deadline:
            return entries
        time.sleep(0.02)


def test_every_change_is_on_record_before_it_and_after_it(explicit):
    change(explicit, "PUT", "/models/noop?min_worker=2&synchronous=true", headers={"X-Request-Id": "night-shift-1"})
    entries = recorded(explicit, "night-shift-1", 2)
    assert [entry["event"] for entry in entries] == ["request", "outcome"]
    assert entries[0]["principal"] == "management-key"
    assert entries[0]["action"] == "scale-model"
    assert entries[0]["parameters"]["min_worker"] == "2"
    assert entries[1]["status"] == 200


@pytest.mark.parametrize("credential", ["none", "wrong", "inference", "API"])
def test_nobody_changes_anything_without_the_management_key(steady, credential):
    headers = {"none": {}, "wrong": {"Authorization": "Bearer wrong"}}.get(credential)
    headers = key(steady, credential) if headers is None else headers
    for method, target in (
        ("POST", "/models?url=doubled.mar"),
        ("PUT", "/models/noop?min_worker=0"),
        ("DELETE", "/models/noop"),
    ):
        answer = steady.manage(method, target, headers=headers)
        assert answer.status == (403 if credential in {"inference", "API"} else 401)
        if answer.status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert models(steady) == ["noop"]
    assert steady.ask("POST", "/predictions/noop", b"x").body == b"x"


def test_what_the_manifest_does_not_list_is_not_registered(steady):
    answer = change(steady, "POST", "/models?url=slow.mar")
    assert answer.status == 403
    assert b"slow" not in answer.body
    refusal = [entry for entry in steady.audit() if entry["event"] == "refusal"][-1]
    assert "slow.mar" in refusal["reason"]
    assert models(steady) == ["noop"]


def test_an_archive_that_changed_is_not_registered(steady):
    assert change(steady, "POST", "/models?url=pair.mar").status == 403
    assert models(steady) == ["noop"]


def test_listing_a_new_archive_is_all_that_a_researcher_does_before_registering_it(explicit, archives):
    shutil.copy(archives / "slow.mar", explicit.store / "slow.mar")
    servers.manifest(explicit.store)
    assert change(explicit, "POST", "/models?url=slow.mar&initial_workers=1&synchronous=true").status == 200
    assert models(explicit) == ["noop", "slow"]


def test_a_new_archive_under_the_same_name_leaves_the_running_one_what_it_was(explicit, archives):
    """The old version's workers start again, after the new archive was registered under the old one's name."""
    assert change(explicit, "POST", "/models?url=doubled.mar&initial_workers=1&synchronous=true").status == 200
    before = explicit.ask("POST", "/predictions/doubled", b"[1, 2, 3, 4]", headers={"Content-Type": "application/json"})
    shutil.copy(archives / "noop_v2.mar", explicit.store / "doubled.mar")
    servers.manifest(explicit.store)
    assert (
        change(explicit, "POST", "/models?url=doubled.mar&model_name=other&initial_workers=1&synchronous=true").status
        == 200
    )
    for workers in (0, 1):
        assert (
            change(explicit, "PUT", f"/models/doubled?min_worker={workers}&max_worker=1&synchronous=true").status == 200
        )
    after = explicit.ask("POST", "/predictions/doubled", b"[1, 2, 3, 4]", headers={"Content-Type": "application/json"})
    assert (after.status, after.body) == (before.status, before.body)


@pytest.mark.parametrize(
    "target",
    [
        "/models?url=http://127.0.0.1:9/noop_v2.mar",
        "/models?url=file:///etc/passwd",
        "/models?url=/etc",
        "/models?url=../noop_v2.mar",
        "/models?url=s3://bucket/noop_v2.mar",
        "/models?url=noop_v2.mar&handler=/tmp/evil.py:run",
        "/models?url=noop_v2.mar&runtime=LSP",
        "/models?url=noop_v2.mar&s3_sse_kms=true",
        "/models?url=noop_v2.mar&unknown=1",
        "/models?url=noop_v2.mar&url=http://127.0.0.1:9/x.mar",
        "/models",
        "/workflows?url=http://127.0.0.1:9/evil.war",
    ],
)
def test_nothing_but_a_listed_archive_by_its_bare_name_is_registered_even_with_the_key(steady, target):
    assert change(steady, "POST", target).status in {400, 403}
    assert models(steady) == ["noop"]


def test_a_json_body_says_what_is_registered_as_with_stock(explicit):
    body = json.dumps({"url": "doubled.mar", "initial_workers": 1, "synchronous": True})
    answer = change(explicit, "POST", "/models", body, {"Content-Type": "application/json"})
    assert answer.status == 200, answer.body
    assert models(explicit) == ["doubled", "noop"]


@pytest.mark.parametrize(
    "body",
    [
        '{"url": "doubled.mar", "url": "http://127.0.0.1:9/x.mar"}',
        '{"url": "doubled.mar", "handler": "/tmp/e.py:f"}',
        '{"url": "http://127.0.0.1:9/x.mar"}',
        "{",
        "[]",
        '{"surprise": 1}',
    ],
)
def test_a_json_body_says_nothing_that_a_query_may_not(steady, body):
    answer = change(steady, "POST", "/models?url=doubled.mar", body, {"Content-Type": "application/json"})
    assert answer.status in {400, 403}
    assert models(steady) == ["noop"]


def test_a_key_is_rotated_as_with_stock_and_the_old_one_is_dead(explicit):
    old = key(explicit)
    answer = explicit.manage("GET", "/token?type=management", headers=key(explicit, "API"))
    assert (answer.status, answer.body) == (200, b"")
    assert explicit.manage("PUT", "/models/noop?min_worker=1", headers=old).status == 401
    assert change(explicit, "PUT", "/models/noop?min_worker=1&synchronous=true").status == 200
    assert explicit.manage("GET", "/token?type=management", headers=key(explicit)).status == 403


def test_when_the_record_cannot_be_written_nothing_is_changed(guard, own_store, place):
    """The record goes to a full device; reading still works, no change does."""
    import os

    store = own_store("noop.mar")
    server = guard(store, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        # A limit on the size of files that the guard may write, as small as the log is by now.
        import resource

        size = (server.state / "audit.jsonl").stat().st_size
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, size))
        answer = change(server, "PUT", "/models/noop?min_worker=0")
        assert answer.status == 503
        assert server.ask("POST", "/predictions/noop", b"x").body == b"x"
        assert os.path.exists(server.state / "audit.jsonl")
        server.process.send_signal(signal.SIGTERM)
        server.wait(30)


def test_a_model_whose_name_begins_with_token_is_managed_all_the_same(explicit):
    answer = change(explicit, "POST", "/models?url=doubled.mar&model_name=tokenizer&initial_workers=1&synchronous=true")
    assert answer.status == 200, answer.body
    assert explicit.manage("GET", "/models/tokenizer").json[0]["modelName"] == "tokenizer"
    assert change(explicit, "DELETE", "/models/tokenizer").status == 200
