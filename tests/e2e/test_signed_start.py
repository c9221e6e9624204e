"""A start from a signed manifest: what was signed runs, and what was changed, swapped, forged or withdrawn does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pki
import pytest
import servers

pytestmark = pytest.mark.e2e

NAME = "tsguard-manifest.json"


def tsguard(*arguments: object) -> None:
    subprocess.run([str(servers.SCRIPTS / "tsguard"), *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def keys(place):
    """The files of the release engineer's and the security reviewer's keys; the second is encrypted."""
    release, security = pki.key(), pki.key("Ed25519")
    pki.written(place / "release.pem", pki.private_pem(release))
    pki.written(place / "security.pem", pki.private_pem(security, b"two people"))
    pki.written(place / "passphrase", b"two people\n")
    for name, key in (("release", release), ("security", security)):
        pki.written(place / f"{name}.pub", pki.public_pem(key))
    return place


def sign(store, keys, *who) -> None:
    """Sign the manifest that lies there; signatures of former ones go."""
    for old in store.glob("*.sigstore.json"):
        old.unlink()
    for name in who:
        locked = ("--passphrase-file", keys / "passphrase") if name == "security" else ()
        tsguard("manifest", "sign", store, "--key", keys / f"{name}.pem", *locked)


def signed(keys, **more: str) -> dict[str, str]:
    trusted = f"release={keys / 'release.pub'},security={keys / 'security.pub'}"
    return {
        "load_models": "noop.mar",
        "guard.trusted_keys": trusted,
        "guard.signature_threshold": "release,security",
        **more,
    }


def started(server, *flags):
    return server.run("start", "--config", str(server.config), *flags)


def refused(server, why: str) -> None:
    done = started(server)
    assert (done.returncode, why in done.stderr) == (4, True), done.stderr
    assert server.audit()[-1]["event"] == "start-refused"


def test_a_manifest_that_both_have_signed_serves_and_it_is_on_record_who(guard, own_store, keys):
    store = own_store("noop.mar")
    sign(store, keys, "release", "security")
    server = guard(store, signed(keys))
    with servers.serving(server):
        assert server.ask("POST", "/predictions/noop", b"hello").body == b"hello"
    (entry,) = (entry for entry in server.audit() if entry["event"] == "authorized")
    assert entry["manifest_version"] == 1
    assert len(entry["signers"]) == 2
    assert any("(release)" in one for one in entry["signers"])


def test_what_is_not_as_it_was_signed_is_refused(guard, own_store, keys, place):
    store = own_store("noop.mar", "noop_v2.mar")
    server = guard(store, signed(keys))
    refused(server, "nobody whose word counts")
    sign(store, keys, "release")
    refused(server, "asks for `security` too, and in that role nobody has signed")
    sign(store, keys, "release", "security")
    assert server.run("check", "--config", str(server.config)).returncode == 0

    # Everything below happens between a check that passed and the start.
    good = (store / NAME).read_bytes()
    (store / NAME).write_bytes(good.replace(b'"version": 1', b'"version": 2'))
    refused(server, "signs something else")

    forged = json.loads(good)
    forged["subjects"] = [one for one in forged["subjects"] if one["name"] == "noop.mar"]
    (store / NAME).write_text(json.dumps(forged))
    refused(server, "signs something else")
    (store / NAME).write_bytes(good)

    kept = place / "kept.mar"
    (store / "noop.mar").rename(kept)
    shutil.copy(store / "noop_v2.mar", store / "noop.mar")
    refused(server, "is not what the manifest lists")
    (store / "noop.mar").unlink()
    (store / "noop.mar").symlink_to(kept)
    refused(server, "symbolic link")
    (store / "noop.mar").unlink()
    kept.rename(store / "noop.mar")
    assert server.run("check", "--config", str(server.config)).returncode == 0

    other = place / "other"
    shutil.copytree(store, other)
    tsguard("manifest", "create", other)
    sign(other, keys, "release", "security")
    for signature in store.glob("*.sigstore.json"):
        shutil.copy(other / signature.name, signature)
    refused(server, "signs something else")


def test_an_older_manifest_is_refused_unless_it_is_forced_and_then_it_is_on_record(guard, own_store, keys, place):
    store = own_store("noop.mar")
    sign(store, keys, "release", "security")
    releases = place / "releases"
    shutil.copytree(store, releases / "1")
    tsguard("manifest", "create", store)
    sign(store, keys, "release", "security")
    shutil.copytree(store, releases / "2")
    current = place / "current"
    current.symlink_to(releases / "2")

    server = guard(current, signed(keys))
    with servers.serving(server):
        pass
    current.unlink()
    current.symlink_to(releases / "1")
    refused(server, "older than version 2")
    forced = servers.Guarded(server.folder, current, server.settings, ("--allow-rollback",))
    with servers.serving(forced):
        assert forced.ask("POST", "/predictions/noop", b"old").body == b"old"
    (entry,) = (entry for entry in forced.audit() if entry["event"] == "rollback-allowed")
    assert entry["manifest_version"] == 1
    assert "version 2" in entry["reason"]


def test_an_older_manifest_is_refused_by_whatever_path_anything_is_named(guard, own_store, keys, place):
    store = own_store("noop.mar")
    sign(store, keys, "release", "security")
    former = {path.name: path.read_bytes() for path in store.glob(f"{NAME}*")}
    tsguard("manifest", "create", store, "--expires-days", "90")
    sign(store, keys, "release", "security")
    server = guard(store, signed(keys))
    with servers.serving(server):
        told = server.status()["manifest"]
        assert (told["path"], told["version"], len(told["signers"])) == (str(store / NAME), 2, 2)
        numbers = server.run("status", "--config", str(server.config), "--metrics").stdout
        shown = server.run("status", "--config", str(server.config)).stdout
    assert told["expires"] is not None
    assert "tsguard_manifest_version 2\n" in numbers
    assert "\ntsguard_manifest_expires_timestamp_seconds " in numbers
    assert f"manifest   version 2  {store / NAME}  sha256:{told['sha256'][:16]}  expires {told['expires']}" in shown

    for path in store.glob(f"{NAME}*"):
        path.unlink()
    for name, data in former.items():
        (store / name).write_bytes(data)
    (place / "v1").mkdir()
    (place / "up").symlink_to(place)
    copied = server.folder / "copied.properties"
    written = server.config.read_text()
    copied.write_text(written)
    through = server.folder / "through.properties"
    through.write_text(written.replace(f"model_store={store}", f"model_store={place}/up/{store.name}"))
    assert through.read_text() != written
    below = server.config.relative_to(place)
    for config in (server.config, place / "v1" / ".." / below, place / "up" / below, copied, through):
        done = server.run("start", "--config", str(config))
        assert (done.returncode, "older than version 2" in done.stderr) == (4, True), (config, done.stderr)
    kept = server.state / "manifests"
    kept.rename(place / "elsewhere")
    (place / "empty").mkdir(mode=0o700)
    kept.symlink_to(place / "empty")
    done = started(server)
    assert (done.returncode, "links are not followed" in done.stderr) == (2, True), done.stderr


def test_a_flag_that_was_needed_for_nothing_is_told(guard, own_store, keys):
    store = own_store("noop.mar")
    sign(store, keys, "release", "security")
    server = guard(store, signed(keys), arguments=("--allow-rollback",))
    with servers.serving(server):
        assert server.ask("POST", "/predictions/noop", b"hello").body == b"hello"
    assert "TSG096" in server.output()
    assert "rollback-allowed" not in {entry["event"] for entry in server.audit()}


def test_a_registration_is_held_to_the_same(guard, own_store, keys):
    store = own_store("noop.mar", "noop_v2.mar")
    sign(store, keys, "release", "security")
    first = {path.name: path.read_bytes() for path in store.glob(f"{NAME}*")}
    server = guard(store, signed(keys, **{"model-control-mode": "explicit"}))
    with servers.serving(server):
        document = json.loads((server.folder / "key_file.json").read_text())
        headers = {"Authorization": f"Bearer {document['management']['key']}"}

        def register() -> int:
            return server.manage("POST", "/models?url=noop_v2.mar", headers=headers).status

        (store / NAME).write_bytes(first[NAME] + b"\n")
        assert register() == 403
        tsguard("manifest", "create", store)
        assert register() == 403
        sign(store, keys, "release", "security")
        assert server.status()["manifest"]["version"] == 1
        assert register() == 200
        assert server.status()["manifest"]["version"] == 2
        for name, data in first.items():
            (store / name).write_bytes(data)
        for extra in set(os.listdir(store)) - set(first) - {"noop.mar", "noop_v2.mar"}:
            (store / extra).unlink()
        assert server.manage("DELETE", "/models/noop/2.0", headers=headers).status == 200
        assert register() == 403
        reasons = [entry["reason"] for entry in server.audit() if entry["event"] == "refusal"]
    assert "signs something else" in reasons[0]
    assert "older than version 2" in reasons[-1]
