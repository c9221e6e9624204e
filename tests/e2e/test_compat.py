"""The profile `compat`: a team moves in steps; what is not yet enforced is reported, and what runs is on record."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import servers
import yaml

pytestmark = pytest.mark.e2e

CORPUS = yaml.safe_load((Path(__file__).parents[1] / "corpus" / "torchserve_configs.yaml").read_text("utf-8"))["files"]
COMPAT = {"guard.profile": "compat", "enable_model_api": "true"}


@pytest.fixture(scope="module")
def moved(archives):
    """A guard in the profile compat, without a manifest; `noop` is loaded, `noop_v2` and `doubled` may be."""
    with servers.folder("tsg-c-") as folder:
        store = folder / "store"
        store.mkdir()
        for name in ("noop.mar", "noop_v2.mar", "doubled.mar", "unimportable.mar"):
            shutil.copy(archives / name, store / name)
        server = servers.Guarded(folder / "g", store, {"load_models": "noop.mar", **COMPAT})
        with servers.serving(server):
            yield server


def started(server: servers.Guarded) -> subprocess.CompletedProcess[str]:
    """A start that is expected to be refused."""
    return server.run("start", "--config", str(server.config), *server.arguments)


def bare(store: Path) -> Path:
    """The store without its manifest."""
    (store / "tsguard-manifest.json").unlink()
    return store


def test_a_missing_manifest_is_told_of_and_every_archive_is_on_record(moved):
    assert "TSG070" in moved.output()
    serving = next(entry for entry in moved.audit() if entry["event"] == "serving")
    digest = subprocess.run(["sha256sum", moved.store / "noop.mar"], capture_output=True, text=True, check=True)
    assert serving["models"] == [f"noop.mar={digest.stdout.split()[0]}"]
    assert moved.ask("POST", "/predictions/noop", b"hello").body == b"hello"


def test_models_are_managed_without_a_key_as_with_stock_and_on_record_as_nobody(moved):
    headers = {"X-Request-Id": "keyless-1"}
    done = moved.manage("POST", "/models?url=noop_v2.mar&initial_workers=1&synchronous=true", headers=headers)
    assert done.status == 200, done.body
    assert moved.manage("PUT", "/models/noop/2.0/set-default").status == 200
    assert moved.manage("DELETE", "/models/noop/2.0").status in {200, 403}
    entries = [entry for entry in moved.audit() if entry.get("request_id") == "keyless-1"]
    assert entries[0]["principal"] == "anonymous"
    assert entries[0]["rules"] == ["keyless-management"]
    verified = [entry for entry in moved.audit() if entry["event"] == "verified"]
    assert verified[0]["archive"] == "noop_v2.mar"
    assert len(verified[0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ({"Origin": "https://attacker.example"}, "cross-site"),
        ({"Origin": "null"}, "cross-site"),
        ({"Origin": "http://localhost:8081"}, "cross-site"),
        ({"Origin": "https://attacker.example", "Content-Type": "text/plain"}, "cross-site"),
        ({"Host": "attacker.example"}, "foreign-host"),
        ({"Host": "attacker.example:8081"}, "foreign-host"),
        ({"Host": "127.0.0.1.attacker.example"}, "foreign-host"),
        ({"Host": "0.0.0.0"}, "foreign-host"),
    ],
)
@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", "/models?url=doubled.mar"), ("PUT", "/models/noop?min_worker=0"), ("DELETE", "/models/noop")],
)
def test_a_page_in_a_browser_changes_nothing_by_request_forgery_or_rebinding(moved, headers, rule, method, target):
    """Hazard H59: without keys, a browser on this machine reaches the listener for whatever page it shows."""
    answer = moved.manage(method, target, b"" if method != "DELETE" else None, headers=headers)
    assert answer.status == 403
    assert moved.audit()[-1]["rule"] == rule
    assert moved.audit()[-1]["principal"] == "anonymous"
    # Reading is what a stock listener grants; nothing has changed.
    assert [one["modelName"] for one in moved.manage("GET", "/models").json["models"]] == ["noop"]
    assert moved.ask("POST", "/predictions/noop", b"x").body == b"x"


@pytest.mark.parametrize(
    "url",
    [
        "https://attacker.example/evil.mar",
        "file:///etc/evil.mar",
        "../evil.mar",
        "/tmp/evil.mar",
        "s3://b/noop.mar",
    ],
)
def test_what_is_registered_still_comes_from_the_store(moved, url):
    answer = moved.manage("POST", f"/models?url={url}")
    assert answer.status in {400, 403}
    assert "noop" in moved.manage("GET", "/models").body.decode()


def test_keys_are_not_rotated_without_one(moved):
    assert moved.manage("GET", "/token?type=management").status == 401


def test_who_removes_the_manifest_gains_nothing(guard, own_store):
    store = own_store("noop.mar")
    server = guard(store, {"load_models": "noop.mar", **COMPAT})
    with servers.serving(server):
        shutil.copy(store / "noop.mar", store / "planted.mar")
        bare(store)
        refused = server.manage("POST", "/models?url=planted.mar&model_name=planted")
        assert refused.status in {403, 503}
        assert [one["modelName"] for one in server.manage("GET", "/models").json["models"]] == ["noop"]
    # Nor at the next start: there was one before.
    done = started(server)
    assert done.returncode == 2
    assert "there is no manifest" in done.stderr


def test_a_manifest_that_was_named_is_not_done_without(guard, own_store, place):
    server = guard(bare(own_store("noop.mar")), {"load_models": "noop.mar", **COMPAT, "guard.manifest": "gone.json"})
    done = started(server)
    assert done.returncode == 2
    assert "there is no manifest" in done.stderr


def test_the_profile_strict_starts_nothing_without_a_manifest_and_changes_nothing_without_a_key(guard, own_store):
    store = own_store("noop.mar")
    listed = guard(store, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(listed):
        assert listed.manage("DELETE", "/models/noop").status == 401
    done = started(guard(bare(store), {"load_models": "noop.mar"}))
    assert done.returncode == 2
    assert "there is no manifest" in done.stderr


def test_a_link_in_the_store_is_followed_and_told_of_and_in_the_profile_strict_refused(guard, own_store, place):
    store = own_store("noop.mar")
    (store / "noop.mar").rename(place / "elsewhere.mar")
    (store / "noop.mar").symlink_to(place / "elsewhere.mar")
    strict = started(guard(store, {"load_models": "noop.mar"}))
    assert strict.returncode == 4
    assert "symbolic link" in strict.stderr
    server = guard(store, {"load_models": "noop.mar", **COMPAT})
    with servers.serving(server):
        assert "TSG071" in server.output()
        assert server.ask("POST", "/predictions/noop", b"x").body == b"x"
        # What was verified is what serves: nothing is read through the link again.
        (place / "elsewhere.mar").write_bytes(b"changed")
        assert server.manage("PUT", "/models/noop?min_worker=2&synchronous=true").status == 200
        assert server.ask("POST", "/predictions/noop", b"y").body == b"y"


def test_a_damaged_archive_is_refused_in_every_profile(guard, own_store):
    store = bare(own_store("noop.mar"))
    (store / "noop.mar").write_bytes((store / "noop.mar").read_bytes()[:-5])
    assert started(guard(store, {"load_models": "noop.mar", **COMPAT})).returncode == 4


def test_what_would_make_stock_fail_in_silence_is_found_before_anything_starts(guard, listed):
    server = guard(listed, {"load_models": "noop.mar,unimportable.mar,unparsable.mar"})
    began = time.monotonic()
    done = started(server)
    assert done.returncode == 3, done.stderr
    assert f"{listed / 'unimportable.mar'}!unimportable.py:1" in done.stderr
    assert "`a_module_that_nobody_has`" in done.stderr
    assert "TSG073" in done.stderr
    assert f"{listed / 'unparsable.mar'}!unparsable.py:1" in done.stderr
    assert "TSG074" in done.stderr
    assert "Torchserve version" not in done.stdout
    assert time.monotonic() - began < 20


def test_a_registration_whose_imports_are_missing_is_refused_where_that_stops_a_start(guard, own_store):
    store = own_store("noop.mar", "unimportable.mar")
    server = guard(store, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        key = json.loads((server.folder / "key_file.json").read_text())["management"]["key"]
        headers = {"Authorization": f"Bearer {key}"}
        assert server.manage("POST", "/models?url=unimportable.mar", headers=headers).status == 403
        assert "a_module_that_nobody_has" in json.dumps(server.audit()[-1])


REPRESENTATIVE = (
    "benchmarks/config_template.properties",
    "docker/config.properties",
    "examples/custom_metrics/config.properties",
    "examples/image_classifier/mnist/config.properties",
    "examples/image_classifier/near_real_time_video/config.properties",
    "test/resources/config_token.properties",
)


@pytest.mark.parametrize("path", REPRESENTATIVE)
def test_a_configuration_of_torchserves_own_starts_and_serves(guard, own_store, place, path):
    """As it is, but for ports and folders that this machine does not have, and with a model."""
    assert not CORPUS[path]["refused"]
    (place / "metrics.yaml").write_bytes((_torchserve() / "configs" / "metrics.yaml").read_bytes())
    store = bare(own_store("noop.mar"))
    own = {
        key: value for key, value in CORPUS[path]["properties"].items() if "address" not in key and "port" not in key
    }
    own |= {key: str(store) for key in ("model_store", "workflow_store") if key in own}
    own |= {key: str(place / "metrics.yaml") for key in ("metrics_config",) if key in own}
    server = guard(store, {**own, "load_models": "noop.mar", "guard.profile": "compat"})
    with servers.serving(server):
        assert server.ask("POST", "/predictions/noop", b"hello").body == b"hello"


def _torchserve() -> Path:
    from torchserve_guard.frontend import find_torchserve, installed

    return find_torchserve(installed()).home / "ts"


def test_the_command_that_compares_with_torchserves_own_tests_says_how_it_is_used():
    script = Path(__file__).parents[2] / "scripts" / "compat.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert "checkout" in done.stdout
