"""The configurations in `config/` start as they are shipped, but for the folders and ports of the test."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
from pathlib import Path

import authority
import pki
import pytest
import requests
import servers

pytestmark = pytest.mark.e2e

CONFIG = Path(__file__).parents[2] / "config"
PORT = re.compile(r"(?<=:)(8443|8080|8081|8082)\b|(?<=_port=)(7070|7071)\b")
CHANGES = [
    ("POST", "/models?url=noop_v2.mar"),
    ("DELETE", "/models/noop"),
    ("PUT", "/models/noop?min_worker=0"),
    ("PUT", "/%6dodels/noop?min_worker=0"),
    ("PUT", "/models/noop/1.0/set-default"),
    ("POST", "/workflows?url=w.war"),
]


def tsguard(*arguments: object) -> None:
    subprocess.run([str(servers.SCRIPTS / "tsguard"), *map(str, arguments)], check=True, capture_output=True)


def shipped(server: servers.Guarded, name: str, folders: dict[str, Path]) -> servers.Guarded:
    """Give the server the file as it is shipped, in folders and at ports of its own."""
    text = (CONFIG / name).read_text()
    for folder, here in folders.items():
        assert folder in text
        text = text.replace(folder, str(here))
    new = dict(
        zip(
            ("8443", "8080", "8081", "8082", "7070", "7071"),
            map(str, (server.inference, server.inference, server.management, server.metrics, *server.grpc)),
            strict=True,
        )
    )
    server.config.write_text(PORT.sub(lambda match: new[match[0]], text))
    server.config.chmod(0o644)
    return server


def over(path: Path, method: str, target: str, key: str) -> int:
    """Ask on a unix socket; return the status."""
    connection = http.client.HTTPConnection("localhost", timeout=30)
    with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as link:
        link.settimeout(30)
        link.connect(str(path))
        connection.sock = link
        connection.request(method, target, headers={"Authorization": f"Bearer {key}"})
        return connection.getresponse().status


@pytest.fixture
def production(guard, own_store, place):
    """What production.properties asks for: a signed store, TLS from an own authority, folders of its own."""
    store = own_store("noop.mar")
    tls, keys = place / "etc" / "tls", place / "etc" / "keys"
    for folder in (tls, keys, place / "var", place / "run"):
        folder.mkdir(parents=True)
    root = authority.root()
    root.issue().written(tls)
    (place / "root.pem").write_bytes(root.pem)
    for who in ("release", "review"):
        key = pki.key()
        pki.written(keys / f"{who}.pem", pki.private_pem(key))
        pki.written(keys / f"{who}.pub", pki.public_pem(key))
    folders = {
        "/etc/tsguard": place / "etc",
        "/srv/models": store,
        "/var/lib/tsguard": place / "var",
        "/run/tsguard": place / "run",
    }
    server = shipped(guard(store, {}), "production.properties", folders)
    server.state = place / "var"
    return server


def test_production_takes_what_two_have_signed_serves_it_over_tls_and_changes_nothing(production, place):
    keys = place / "etc" / "keys"
    tsguard("manifest", "sign", production.store, "--key", keys / "release.pem")
    refused = production.run("start", "--config", str(production.config))
    assert (refused.returncode, "review" in refused.stderr) == (4, True), refused.stderr

    tsguard("manifest", "sign", production.store, "--key", keys / "review.pem")
    checked = production.run("check", "--config", str(production.config), "--format", "json", "--fail-on", "medium")
    assert checked.returncode in {0, 3}, checked.stderr
    assert {one["severity"] for one in json.loads(checked.stdout)["findings"]} <= {"info", "low", "medium"}

    with servers.serving(production), requests.Session() as session:
        session.verify, session.trust_env = str(place / "root.pem"), False
        key = json.loads((production.folder / "key_file.json").read_text())["inference"]["key"]
        url = f"https://localhost:{production.inference}/predictions/noop"
        assert session.post(url, data=b"hello", timeout=30).status_code == 401
        answer = session.post(url, data=b"hello", headers={"Authorization": f"Bearer {key}"}, timeout=30)
        assert (answer.status_code, answer.content) == (200, b"hello")

        management = json.loads((production.folder / "key_file.json").read_text())["management"]["key"]
        for method, target in CHANGES:
            status = over(place / "run" / "management.sock", method, target, management)
            assert status in {400, 403, 405}, (method, target, status)
        assert session.post(url, data=b"on", headers={"Authorization": f"Bearer {key}"}, timeout=30).content == b"on"


def test_development_swaps_models_with_the_management_key_alone(guard, own_store, place):
    store = own_store("noop.mar")
    server = shipped(guard(store, {}), "development.properties", {"model_store=model_store": f"model_store={store}"})
    server.environment = {"XDG_STATE_HOME": str(place / "state")}
    server.config.write_text(
        server.config.read_text() + f"grpc_inference_port={server.grpc[0]}\ngrpc_management_port={server.grpc[1]}\n"
    )
    with servers.serving(server):
        key = json.loads((server.folder / "key_file.json").read_text())["management"]["key"]
        change = "/models?url=noop.mar&initial_workers=1&synchronous=true"
        assert server.manage("POST", change).status == 401
        answer = server.manage("POST", change, headers={"Authorization": f"Bearer {key}"})
        assert answer.status == 200, answer.body
        assert server.ask("POST", "/predictions/noop", b"hello").body == b"hello"
        assert server.manage("DELETE", "/models/noop", headers={"Authorization": f"Bearer {key}"}).status == 200


def test_moving_in_takes_the_configuration_that_is_there_and_reports(guard, own_store):
    store = own_store("noop.mar")
    (store / "tsguard-manifest.json").unlink()
    server = guard(store, {"load_models": "noop.mar"})
    server.config.write_text(server.config.read_text() + (CONFIG / "compat.properties").read_text())
    with servers.serving(server):
        assert server.ask("POST", "/predictions/noop", b"hello").body == b"hello"
    assert "TSG07" in server.output()


def test_every_shipped_configuration_is_started_here():
    assert sorted(path.name for path in CONFIG.iterdir()) == [
        "compat.properties",
        "development.properties",
        "production.properties",
    ]
