"""A guarded TorchServe whose archives lie on another host: one at the start, others at run time."""

import json
import shutil
import subprocess
import threading
from urllib.parse import quote

import buckets
import environments
import grpc
import messages
import origins
import pytest
import servers

pytestmark = pytest.mark.e2e
SECRET = "hunter2"
SIGNED = f"?X-Amz-Signature={SECRET}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with origins.host(tmp_path_factory.mktemp("host")) as serving:
        yield serving


@pytest.fixture(scope="module")
def remote(archives, site):
    """A guard with an empty model store; the manifest lists what only the host has."""
    with servers.folder("tsg-r-") as folder:
        built, store = folder / "built", folder / "store"
        built.mkdir()
        store.mkdir()
        for name in ("noop.mar", "noop_v2.mar", "doubled.mar", "pair.mar"):
            shutil.copy(archives / name, built / name)
            site.has(f"/models/{name}", (built / name).read_bytes())
        servers.manifest(built)
        site.has("/models/pair.mar", (archives / "slow.mar").read_bytes())
        site.has("/models/slow.mar", (archives / "slow.mar").read_bytes())
        settings = {
            "load_models": site.url("/models/noop.mar") + SIGNED,
            "allowed_urls": site.url("/models/").replace(".", r"\\.") + ".*",
            "guard.fetch_networks": "127.0.0.1",
            "guard.fetch_ca": str(site.authorities),
            "guard.manifest": str(built / "tsguard-manifest.json"),
            "model-control-mode": "explicit",
        }
        server = servers.Guarded(folder / "g", store, settings)
        with servers.serving(server):
            yield server


def key(server) -> str:
    return json.loads((server.folder / "key_file.json").read_text())["management"]["key"]


def register(server, url: str, *more: str):
    target = "&".join((f"/models?url={quote(url, safe='')}", "initial_workers=1", "synchronous=true", *more))
    return server.manage("POST", target, headers={"Authorization": f"Bearer {key(server)}"})


def doubled(server) -> bytes:
    return server.ask(
        "POST", "/predictions/doubled", b"[1, 2, 3, 4]", headers={"Content-Type": "application/json"}
    ).body


def test_archives_from_elsewhere_are_fetched_verified_and_served(remote, site):
    assert remote.ask("POST", "/predictions/noop", b"x").body == b"x"
    answer = register(remote, site.url("/models/doubled.mar") + SIGNED)
    assert answer.status == 200, answer.body
    assert json.loads(doubled(remote)) == [3.0, 5.0, 7.0, 9.0]
    (described,) = remote.manage("GET", "/models/doubled").json
    assert described["modelUrl"] == "doubled.mar"
    events = [entry for entry in remote.audit() if entry["event"] in {"fetched", "verified"}]
    assert [(one["event"], one["archive"], one["origin"]) for one in events][:2] == [
        ("fetched", "noop.mar", site.url("/models/noop.mar")),
        ("verified", "doubled.mar", site.url("/models/doubled.mar")),
    ]
    assert list(remote.store.iterdir()) == []
    assert list((remote.state / "quarantine").iterdir()) == []


def test_over_grpc_it_is_the_same_and_what_is_here_is_not_fetched_again(remote, site):
    site.asked.clear()
    path = messages.MANAGEMENT + "RegisterModel"
    url = site.url("/models/doubled.mar") + SIGNED
    request = messages.request(path, url=url, model_name="again", initial_workers=1, synchronous=True)
    with grpc.insecure_channel(f"127.0.0.1:{remote.grpc[1]}") as channel:
        credential = (("authorization", f"Bearer {key(remote)}"),)
        channel.unary_unary(path)(request, metadata=credential, timeout=60)
    assert remote.manage("GET", "/models/again").json[0]["modelUrl"] == "doubled.mar"
    assert site.asked == []


def test_while_one_is_fetched_the_door_serves(remote, site):
    go_on, asked, answers = threading.Event(), threading.Event(), []
    data, etag = site.files["/models/noop_v2.mar"]

    def slowly(handler):
        asked.set()
        go_on.wait(60)
        handler.serve(data, etag)

    url = site.does("/models/noop_v2.mar", slowly)
    slow = threading.Thread(target=lambda: answers.append(register(remote, url)))
    slow.start()
    assert asked.wait(60)
    assert remote.ask("POST", "/predictions/noop", b"x").body == b"x"
    assert remote.manage("GET", "/models").status == 200
    go_on.set()
    slow.join(60)
    assert [one.status for one in answers] == [200]
    assert remote.ask("POST", "/predictions/noop/2.0", b"two").body == b"two"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/pair.mar", 403),
        ("/models/slow.mar", 403),
        ("/elsewhere/doubled.mar", 403),
        ("/models/a/pair.mar", 503),
    ],
    ids=["another archive", "not listed", "not allowed", "not there"],
)
def test_what_is_not_the_listed_archive_from_an_allowed_address_is_not_registered(remote, site, path, status):
    before = remote.manage("GET", "/models").json
    answer = register(remote, site.url(path) + SIGNED)
    assert answer.status == status, answer.body
    assert remote.manage("GET", "/models").json == before
    refusal = [entry for entry in remote.audit() if entry["event"] == "refusal"][-1]
    assert path.rpartition("/")[2] in refusal["reason"]
    assert refusal["status"] == status


def test_the_secret_of_an_address_is_nowhere_but_in_the_users_own_file(remote, site):
    """In what TorchServe was told, in every log and record, in the status, in the store: nowhere."""
    register(remote, site.url("/elsewhere/doubled.mar") + SIGNED)
    told = json.dumps(remote.status()) + remote.output() + remote.manage("GET", "/models/noop/all").body.decode()
    assert SECRET not in told
    files = [path for path in remote.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "config.properties" and path != remote.config for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == [remote.config]


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucketed(request, archives):
    """A guard whose archives lie in a bucket, and the bucket; the clients are in an environment beside this one."""
    python = environments.made("buckets", buckets.PACKAGES, ours_too=True)
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    clients = subprocess.run([str(python), "-c", show], capture_output=True, text=True, check=True).stdout.strip()
    with servers.folder("tsg-b-") as folder, buckets.store(request.param, python) as bucket:
        built, store = folder / "built", folder / "store"
        built.mkdir()
        store.mkdir()
        for name in ("noop.mar", "doubled.mar", "pair.mar"):
            shutil.copy(archives / name, built / name)
            bucket.has(f"a/{name}", (built / name).read_bytes())
        servers.manifest(built)
        bucket.has("a/pair.mar", (archives / "slow.mar").read_bytes())
        settings = {
            "load_models": f"{request.param}://models/a/noop.mar",
            "allowed_urls": f"{request.param}://models/a/.*",
            "guard.fetch_networks": "127.0.0.1",
            "guard.manifest": str(built / "tsguard-manifest.json"),
            "model-control-mode": "explicit",
        }
        variables = {**bucket.variables, "PYTHONPATH": clients}
        server = servers.Guarded(folder / "g", store, settings, environment=variables)
        with servers.serving(server):
            yield server, bucket


def test_archives_in_a_bucket_are_fetched_verified_and_served(bucketed):
    server, bucket = bucketed
    assert server.ask("POST", "/predictions/noop", b"x").body == b"x"
    answer = register(server, f"{bucket.scheme}://models/a/doubled.mar")
    assert answer.status == 200, answer.body
    assert json.loads(doubled(server)) == [3.0, 5.0, 7.0, 9.0]
    assert list((server.state / "quarantine").iterdir()) == []
    for name, status in (("pair", 403), ("slow", 403), ("none/pair", 503)):
        assert register(server, f"{bucket.scheme}://models/a/{name}.mar").status == status
    events = [entry for entry in server.audit() if entry["event"] in {"fetched", "verified"}]
    assert [(one["event"], one["archive"], one["origin"]) for one in events][:2] == [
        ("fetched", "noop.mar", f"{bucket.scheme}://models/a/noop.mar"),
        ("verified", "doubled.mar", f"{bucket.scheme}://models/a/doubled.mar"),
    ]


def test_credentials_of_a_bucket_are_nowhere(bucketed):
    server, _ = bucketed
    told = json.dumps(server.status()) + server.output()
    secrets = (buckets.KEY, buckets.SECRET)
    assert not any(secret in told for secret in secrets)
    files = [path for path in server.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]
