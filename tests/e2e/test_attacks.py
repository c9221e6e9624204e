"""Attacks that once went past the guard, or around it, each as it was run."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import servers

from torchserve_guard.archives import document

pytestmark = pytest.mark.e2e

# A model that tells which key of TorchServe's it was handed, whatever it is asked.
SPY = """
def handle(data, context):
    headers = context.get_all_request_header(0) if data else {}
    return [{"key": str(headers.get("Authorization", ""))}] * len(data or ())
"""


@pytest.fixture
def archive(place, own_store):
    """Build an archive from the text of a handler, and list it beside `noop.mar`."""

    def build(name: str, source: str) -> Path:
        (place / f"{name}.py").write_text(source)
        command = "from model_archiver.model_packaging import generate_model_archive as g; g()"
        options = ["--model-name", name, "--version", "1.0", "--handler", str(place / f"{name}.py")]
        store = own_store("noop.mar")
        subprocess.run([sys.executable, "-c", command, *options, "--export-path", str(store)], check=True)
        servers.manifest(store)
        return store

    return build


def key(server: servers.Guarded, kind: str = "management") -> dict[str, str]:
    return {"Authorization": f"Bearer {json.loads((server.folder / 'key_file.json').read_text())[kind]['key']}"}


def say(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(data)
        return client.recv(65536)


def check(config: Path) -> subprocess.CompletedProcess[str]:
    command = [str(servers.SCRIPTS / "tsguard"), "check", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# --- keys -------------------------------------------------------------------------------------------------------


def test_describing_a_model_hands_no_key_of_torchserve_to_its_handler(guard, archive):
    """With it, a handler changes what is served past the door and past the record, even in mode none."""
    server = guard(archive("spy", SPY), {"load_models": "spy.mar"})
    with servers.serving(server):
        described = server.manage("GET", "/models/spy?customized=true")
    assert b"Bearer " not in described.body


def test_no_key_is_on_record_however_badly_it_was_sent(guard, listed):
    server = guard(listed, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        secret = key(server)["Authorization"]
        say(server.management, f"GET /models HTTP/1.1\nHost: x\nAuthorization: {secret}\n\n".encode())
        assert secret.split()[1] not in (server.state / "audit.jsonl").read_text()


def test_a_stop_does_not_wait_for_a_key_file_that_became_a_pipe(guard, listed):
    server = guard(listed, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        (server.folder / "key_file.json").unlink()
        os.mkfifo(server.folder / "key_file.json")
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_keys_are_renewed_once_their_file_can_be_written_again(guard, listed):
    settings = {"disable_token_authorization": "false", "token_expiration_min": "0.05"}
    server = guard(listed, {"load_models": "noop.mar", **settings})
    with servers.serving(server):
        file = server.folder / "key_file.json"
        file.unlink()
        file.mkdir()
        time.sleep(5)
        file.rmdir()
        deadline = time.monotonic() + 20
        while not file.is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert file.is_file()
        assert server.ask("GET", "/predictions/noop", headers=key(server, "inference")).status == 200


# --- what is loaded ---------------------------------------------------------------------------------------------


def test_a_staged_tree_that_was_changed_together_with_its_record_is_not_served(guard, own_store):
    """What a model can write, as the same user, is not believed at the next start: here with a SHA256SUMS."""
    store = own_store("noop.mar")
    digest = hashlib.sha256((store / "noop.mar").read_bytes()).hexdigest()
    (store / "SHA256SUMS").write_text(f"{digest}  noop.mar\n")
    server = guard(store, {"load_models": "noop.mar", "guard.manifest": str(store / "SHA256SUMS")})
    with servers.serving(server):
        assert server.ask("POST", "/predictions/noop", b"mine").body == b"mine"
    (home,) = (server.state / "store" / "subjects").iterdir()
    _replace_member(home, "noop.py", b"def handle(data, context):\n    return [] if data is None else ['yours']\n")
    with servers.serving(server):
        assert server.ask("POST", "/predictions/noop", b"mine").body == b"mine"


def _replace_member(home: Path, name: str, content: bytes) -> None:
    file, record = home / "tree" / name, home / "record.json"
    file.chmod(0o600)
    file.write_bytes(content)
    file.chmod(0o400)
    listed = json.loads(record.read_text())
    for member in listed["members"]:
        if member["path"] == name:
            member |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    record.write_bytes(document.render(listed))


@pytest.mark.parametrize("what", ["run directory", "above the state directory", "manifest", "configuration", "log4j2"])
def test_a_place_that_others_can_replace_is_found(guard, own_store, place, what):
    """Who renames the run or the state directory while TorchServe boots has his own code run as the guard's user."""
    store, hot, log = own_store("noop.mar"), place / "hot", place / "log.xml"
    shutil.copy(Path(sys.modules["torchserve_guard"].__path__[0]) / "frontend" / "lean.xml", log)
    (hot / "state").mkdir(parents=True, mode=0o700)
    extra = {
        "run directory": {"guard.runtime_dir": str(hot)},
        "above the state directory": {"guard.state_dir": str(hot / "state")},
        "log4j2": {"guard.frontend_log": str(log)},
    }
    server = guard(store, {"load_models": "noop.mar", **extra.get(what, {})})
    assert check(server.config).returncode == 0
    hot.chmod(0o777)
    if what in ("manifest", "configuration"):
        file = server.config if what == "configuration" else store / "tsguard-manifest.json"
        os.chown(file, 0, 12345)
        file.chmod(0o664)
    log.chmod(0o666)
    assert check(server.config).returncode == 3


def test_manifest_create_writes_through_no_link_that_was_laid_for_its_draft(own_store, place):
    store = own_store("noop.mar")
    victim = place / "victim"
    victim.write_text("precious")
    # The shell lays the link under its own number, and then becomes the command.
    script = 'ln -s "$1" "$2/.tsguard-manifest.json.$$"; exec "$3" manifest create "$2"'
    command = ["sh", "-c", script, "sh", str(victim), str(store), str(servers.SCRIPTS / "tsguard")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert victim.read_text() == "precious"
    assert not (store / "tsguard-manifest.json").is_symlink()


# --- the record -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_no_change_is_made_that_is_recorded_in_a_file_that_nobody_finds(guard, listed, how):
    server = guard(listed, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        log = server.state / "audit.jsonl"
        log.unlink() if how == "removed" else log.rename(log.with_suffix(".1"))
        changed = server.manage("PUT", "/models/noop?min_worker=1", headers=key(server))
        assert changed.status == 503 or (log.exists() and "scale-model" in log.read_text())


def test_a_registration_is_on_record_with_the_digest_of_what_was_registered(guard, listed):
    server = guard(listed, {"load_models": "noop.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        server.manage("POST", "/models?url=noop_v2.mar", headers=key(server))
        digest = hashlib.sha256((listed / "noop_v2.mar").read_bytes()).hexdigest()
        assert any(digest in json.dumps(e) for e in server.audit() if e.get("action") == "register-model")


def test_a_record_that_ended_in_the_middle_of_a_line_is_continued_on_the_next(guard, own_store):
    server = guard(own_store("noop.mar"), {"load_models": "absent.mar"})
    server.state.mkdir(mode=0o700)
    (server.state / "audit.jsonl").write_text('{"time":"2026-01-01T00:00:00Z","seq')
    server.launch()
    server.wait()
    events = [json.loads(line)["event"] for line in (server.state / "audit.jsonl").read_text().splitlines()[1:]]
    assert events[:2] == ["start", "start-refused"]


def test_the_status_lists_no_model_that_was_unregistered(guard, listed):
    server = guard(listed, {"load_models": "noop.mar,doubled.mar", "model-control-mode": "explicit"})
    with servers.serving(server):
        assert server.manage("DELETE", "/models/doubled", headers=key(server)).status == 200
        assert [model["model"] for model in server.status()["models"]] == ["noop"]


# --- the process, and its operator ------------------------------------------------------------------------------


def test_idle_clients_of_inference_do_not_keep_the_operator_from_management(guard, listed):
    server = guard(listed, {"load_models": "noop.mar", "guard.max_connections": "40"})
    with servers.serving(server):
        idle = [socket.create_connection(("127.0.0.1", server.inference)) for _ in range(40)]
        time.sleep(1)  # they are accepted in no order that is known
        status = server.manage("GET", "/models").status
        for client in idle:
            client.close()
    assert status == 200


@pytest.mark.parametrize("command", ["status", "stop"])
def test_a_guard_that_does_not_answer_is_a_clear_error(guard, listed, command):
    server = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(server):
        server.signal(signal.SIGSTOP)
        try:
            done = server.run(command, "--config", str(server.config), timeout=30)
        finally:
            server.signal(signal.SIGCONT)
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 5)
    assert done.stderr.startswith("tsguard: ")


@pytest.mark.parametrize(("threshold", "code"), [("high", 3), ("critical", 2)])
def test_an_admin_address_that_is_a_file_is_refused_and_not_deleted(guard, listed, place, threshold, code):
    file = place / "precious"
    file.write_text("mine")
    settings = {"load_models": "noop.mar", "guard.admin_address": f"unix:{file}", "guard.fail_on": threshold}
    server = guard(listed, settings)
    server.launch()
    time.sleep(0.1)
    try:
        assert server.wait(30) == code
    except subprocess.TimeoutExpired:
        pytest.fail("it started")
    finally:
        assert file.is_file()
        assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "model_store=" + "a" * 300,
        "metrics_config=" + "a" * 300,
        "guard.frontend_log=" + "a" * 300,
        "guard.runtime_dir=/dev/null",
        "guard.runtime_dir=/tmp/" + "r" * 300,
        "guard.admin_address=unix:/nonexistent/control.sock",
        "inference_address=http://\\ud800:8080",
    ],
)
def test_a_value_that_cannot_be_used_is_a_configuration_error(guard, own_store, line):
    server = guard(own_store("noop.mar"), {"load_models": "noop.mar"})
    with server.config.open("a") as file:
        file.write(line + "\n")
    done = server.run("start", "--config", str(server.config), timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    "arguments", [("--expires-days", "inf"), ("--expires-days", "1e300"), ("--manifest", "/" + "x" * 300)]
)
def test_an_option_that_cannot_be_used_is_a_usage_error(own_store, arguments):
    command = [str(servers.SCRIPTS / "tsguard"), "manifest", "create", str(own_store("noop.mar")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_no_name_in_a_model_store_writes_a_line_or_a_control_character_of_its_own(guard, own_store):
    store = own_store("noop.mar")
    (store / "\x1b[31mred\nforged.mar").write_bytes(b"")
    server = guard(store, {"load_models": "ALL"})
    for arguments in (("check", "--config", str(server.config)), ("manifest", "create", str(store))):
        done = server.run(*arguments)
        assert done.returncode in (2, 4)
        assert "\x1b" not in done.stderr
        assert "\ntsguard: forged.mar" not in done.stderr
