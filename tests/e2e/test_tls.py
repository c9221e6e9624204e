"""The real TorchServe behind TLS: pairs, key stores, renewal under way, and what `tsguard check` says of bad ones."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import ssl
import subprocess
import time
from pathlib import Path

import authority
import pytest
import requests
import servers

pytestmark = pytest.mark.e2e

ROOT = authority.root()
CLIENTS = authority.root("Clients")
KEYTOOL = shutil.which("keytool") or str(Path(servers.java_home()) / "bin" / "keytool")


def addressed(server: servers.Guarded) -> None:
    """Write the configuration anew with `https://`, at the ports that were chosen for the server."""
    text = server.config.read_text()
    server.config.write_text(text.replace("http://127.0.0.1", "https://127.0.0.1"))


def pair(place: Path, issued: authority.Issued, **more: str) -> dict[str, str]:
    certificate, key = issued.written(place)
    return {"certificate_file": str(certificate), "private_key_file": str(key), **more}


@pytest.fixture
def root(place: Path) -> str:
    (place / "root.pem").write_bytes(ROOT.pem)
    return str(place / "root.pem")


def test_torchserve_is_served_over_tls_and_certificates_are_renewed_in_flight(guard, own_store, place, root):
    clients = place / "clients.pem"
    clients.write_bytes(CLIENTS.pem)
    first, second = ROOT.issue(), ROOT.issue()
    settings = {**pair(place, first), "guard.client_ca": str(clients), "model-control-mode": "explicit"}
    server = guard(own_store("noop.mar", "doubled.mar"), {"load_models": "noop.mar", **settings})
    addressed(server)
    inference, management = f"https://localhost:{server.inference}", f"https://localhost:{server.management}"
    with servers.serving(server), requests.Session() as session:
        session.verify, session.trust_env = root, False
        assert session.post(f"{inference}/predictions/noop", data=b"hello", timeout=30).content == b"hello"
        assert session.get(f"{management}/models", timeout=30).json()["models"][0]["modelName"] == "noop"
        metrics = session.get(f"https://localhost:{server.metrics}/metrics", timeout=30)
        assert metrics.status_code == 200
        body = b"x" * 3_000_000
        assert session.post(f"{inference}/predictions/noop", data=body, timeout=60).content == body

        change = f"{management}/models?url=doubled.mar"
        assert session.post(change, timeout=60).status_code == 401
        alice = tuple(map(str, CLIENTS.issue("alice", usage=authority.CLIENT).written(place, "alice")))
        assert requests.post(change, cert=alice, verify=root, timeout=60).status_code == 200
        eve = tuple(map(str, authority.root("Clients").issue("alice", usage=authority.CLIENT).written(place, "eve")))
        with pytest.raises(requests.ConnectionError):
            requests.post(change, cert=eve, verify=root, timeout=60)

        second.written(place)
        server.signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while second.fingerprint not in server.output():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert session.post(f"{inference}/predictions/noop", data=b"still", timeout=30).content == b"still"
        shown = ssl.get_server_certificate(("127.0.0.1", server.inference))
        assert ssl.PEM_cert_to_DER_cert(shown) == ssl.PEM_cert_to_DER_cert(second.pem.decode())
    events = [entry["event"] for entry in server.audit()]
    assert "certificate-reloaded" in events
    registered = [entry for entry in server.audit() if entry.get("action") == "register-model"]
    assert {entry["principal"] for entry in registered if "principal" in entry} == {"CN=alice"}


@pytest.mark.parametrize("kind", ["PKCS12", "JKS"])
def test_a_key_store_as_torchserves_documentation_makes_it_is_served(guard, listed, place, kind):
    store = place / "keystore"
    made = f"-genkey -keyalg RSA -keysize 2048 -alias ts -keystore {store} -storepass changeit -keypass changeit"
    names = ["-dname", "CN=localhost, O=model server, C=US", "-ext", "san=dns:localhost"]
    command = [KEYTOOL, *made.split(), "-storetype", kind, "-validity", "3600", *names]
    subprocess.run(command, check=True, capture_output=True)
    server = guard(listed, {"load_models": "noop.mar", "keystore": str(store), "keystore_type": kind})
    addressed(server)
    with servers.serving(server):
        shown = place / "shown.pem"
        shown.write_text(ssl.get_server_certificate(("127.0.0.1", server.inference)))
        answer = requests.post(
            f"https://localhost:{server.inference}/predictions/noop", data=b"x", verify=str(shown), timeout=30
        )
        assert answer.content == b"x"


def checked(server: servers.Guarded) -> subprocess.CompletedProcess[str]:
    addressed(server)
    return server.run("check", "--config", str(server.config))


def test_a_wrong_password_is_an_error_that_names_the_line(guard, listed, place):
    store = place / "keystore"
    made = f"-genkeypair -keyalg EC -alias ts -keystore {store} -storepass changeit -dname CN=localhost"
    subprocess.run([KEYTOOL, *made.split()], check=True, capture_output=True)
    result = checked(guard(listed, {"keystore": str(store), "keystore_pass": "guessed"}))
    assert result.returncode == 2
    assert "the password in `keystore_pass` is wrong" in result.stdout + result.stderr
    assert "config.properties:" in result.stdout + result.stderr
    assert "guessed" not in result.stdout + result.stderr


def test_a_key_of_another_certificate_is_an_error(guard, listed, place):
    settings = pair(place, ROOT.issue())
    _, other = ROOT.issue().written(place, "other")
    result = checked(guard(listed, {**settings, "private_key_file": str(other)}))
    assert result.returncode == 2
    assert "not that of any certificate" in result.stdout + result.stderr


def test_no_certificate_is_an_error_with_the_command_that_makes_one(guard, listed):
    result = checked(guard(listed, {}))
    assert result.returncode == 2
    assert "openssl req -x509" in result.stdout + result.stderr


def test_an_expired_certificate_stops_a_start_whatever_the_threshold(guard, listed, place):
    settings = pair(place, ROOT.issue(since=-9, days=-1), **{"guard.fail_on": "critical"})
    server = guard(listed, {"load_models": "noop.mar", **settings})
    addressed(server)
    result = server.run("check", "--config", str(server.config), "--format", "json")
    assert result.returncode == 3
    assert "TSG060" in {finding["rule"] for finding in json.loads(result.stdout)["findings"]}
    assert server.run("start", "--config", str(server.config)).returncode == 3


def test_what_stays_plain_is_plain_and_what_is_not_is_not(guard, listed, place, root):
    server = guard(listed, {"load_models": "noop.mar", **pair(place, ROOT.issue())})
    text = server.config.read_text()
    server.config.write_text(text.replace("inference_address=http:", "inference_address=https:"))
    with servers.serving(server):
        assert server.manage("GET", "/models").status == 200
        assert requests.get(f"https://localhost:{server.inference}/ping", verify=root, timeout=30).status_code == 200
        connection = http.client.HTTPConnection("127.0.0.1", server.inference, timeout=30)
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 400
        connection.close()
