"""A start: what is verified runs, what is not stops it, and says so with the exit code of the contract."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import servers

pytestmark = pytest.mark.e2e


def started(server: servers.Guarded):
    return server.run("start", "--config", str(server.config))


def test_a_verified_model_serves_and_a_polite_stop_leaves_nothing(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    server.launch()
    server.wait_serving()
    assert server.ask("POST", "/predictions/noop", b"hello").body == b"hello"
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert any("org.pytorch.serve.ModelServer" in child.cmdline() for child in children)
    server.signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    events = [entry["event"] for entry in server.audit()]
    assert events == ["start", "serving", "stop"]
    assert not list((server.folder / "tmp").glob("tsguard-*"))


def test_torchserve_opens_no_archive_and_stands_in_a_private_place(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(server):
        frontend = psutil.Process(server.status()["frontend_pid"])
        command = frontend.cmdline()
        class_path = command[command.index("-cp") + 1]
        assert "." not in class_path.split(":")
        assert "-ncs" in command
        opened = [file.path for file in frontend.open_files()]
        assert not [path for path in opened if str(listed) in path]
        run = frontend.cwd()
        assert os.stat(os.path.dirname(run)).st_mode & 0o077 == 0
        assert os.listdir(run) == []
        assert server.manage("GET", "/models/noop").json[0]["modelUrl"] == "noop.mar"


def test_the_only_tcp_ports_of_torchserve_are_on_loopback_and_ask_for_a_key_that_only_the_guard_has(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(server):
        frontend = psutil.Process(server.status()["frontend_pid"])
        listening = [c for c in frontend.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert len(listening) == 2
        assert all(c.laddr.ip.removeprefix("::ffff:") == "127.0.0.1" for c in listening)
        environment = frontend.environ()
        assert [name for name in environment if name.startswith(("TS_", "JAVA", "PYTHON", "LD_"))] == [
            "PYTHONDONTWRITEBYTECODE"
        ]


@pytest.mark.parametrize(
    ("arguments", "expected"), [((), ["noop"]), (("--models", "doubled.mar", "second=noop.mar"), ["doubled", "second"])]
)
def test_the_flags_of_torchserve_mean_what_they_mean_there(guard, listed, arguments, expected):
    server = guard(listed, {"load_models": "noop.mar"}, arguments=(*arguments, "--ncs", "--foreground"))
    with servers.serving(server):
        assert sorted(m["modelName"] for m in server.manage("GET", "/models").json["models"]) == expected


def test_all_loads_what_the_manifest_lists(guard, own_store):
    server = guard(own_store("noop.mar", "doubled.mar"), {"load_models": "ALL"})
    with servers.serving(server):
        assert sorted(m["modelName"] for m in server.manage("GET", "/models").json["models"]) == ["doubled", "noop"]


def test_a_changed_byte_is_refused_with_both_digests(guard, own_store):
    store = own_store("noop.mar")
    server = guard(store, {"load_models": "noop.mar"})
    promised = json.loads((store / "tsguard-manifest.json").read_text())["subjects"][0]["sha256"]
    data = bytearray((store / "noop.mar").read_bytes())
    data[len(data) // 2] ^= 1
    (store / "noop.mar").write_bytes(data)
    done = started(server)
    assert done.returncode == 4
    assert promised in done.stderr
    assert "noop.mar" in done.stderr
    assert "Traceback" not in done.stderr
    assert [entry["event"] for entry in server.audit()] == ["start", "start-refused"]


def test_a_change_after_a_good_start_is_refused_at_the_next_one(guard, own_store):
    store = own_store("noop.mar", "noop_v2.mar")
    server = guard(store, {"load_models": "noop.mar"})
    with servers.serving(server):
        pass
    shutil.copy(store / "noop_v2.mar", store / "noop.mar")
    assert started(server).returncode == 4


@pytest.mark.parametrize("change", ["missing", "unlisted", "no manifest", "manifest is not one", "unlisted of ALL"])
def test_what_is_missing_or_not_listed_is_refused_by_name(guard, own_store, archives, change):
    store = own_store("noop.mar")
    load = "noop.mar"
    code = 4
    match change:
        case "missing":
            (store / "noop.mar").unlink()
        case "unlisted":
            shutil.copy(archives / "doubled.mar", store / "doubled.mar")
            load = "doubled.mar"
        case "unlisted of ALL":
            shutil.copy(archives / "doubled.mar", store / "doubled.mar")
            load = "ALL"
        case "no manifest":
            (store / "tsguard-manifest.json").unlink()
            code = 2
        case "manifest is not one":
            (store / "tsguard-manifest.json").write_text("{}")
            code = 2
    done = started(guard(store, {"load_models": load}))
    assert done.returncode == code, done.stderr
    assert ("manifest" if code == 2 else load.replace("ALL", "doubled.mar")) in done.stderr
    assert "Traceback" not in done.stderr


def test_two_archives_of_one_model_and_version_are_refused_before_torchserve_would_die_of_them(guard, own_store):
    store = own_store("noop.mar")
    shutil.copy(store / "noop.mar", store / "again.mar")
    servers.manifest(store)
    done = started(guard(store, {"load_models": "noop.mar,again.mar"}))
    assert done.returncode == 2
    assert "version" in done.stderr


@pytest.mark.parametrize("name", ["broken", "unparsable", "unimportable"])
def test_a_model_that_cannot_load_fails_the_start_and_quotes_torchserve(guard, listed, name):
    # What the preflight finds of it (see test_compat.py) is only reported.
    server = guard(listed, {"load_models": f"noop.mar,{name}.mar", "guard.fail_on": "critical"})
    began = time.monotonic()
    done = started(server)
    assert done.returncode == 5, done.stderr
    assert name in done.stderr
    assert {"broken": "Error", "unparsable": "SyntaxError", "unimportable": "a_module_that_nobody_has"}[
        name
    ] in done.stderr
    assert 'Traceback (most recent call last):\n  File "' not in done.stderr.split("tsguard:")[0]
    assert time.monotonic() - began < 90
    assert server.audit()[-1]["event"] == "failed"


def test_a_port_that_is_taken_is_a_clear_error_before_anything_is_launched(guard, listed):
    first = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(first):
        second = guard(listed, {"load_models": "noop.mar", "inference_address": f"http://127.0.0.1:{first.inference}"})
        began = time.monotonic()
        done = started(second)
        assert done.returncode == 2, done.stderr
        assert str(first.inference) in done.stderr
        assert time.monotonic() - began < 10


def test_a_second_guard_of_one_configuration_is_refused(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(server):
        done = started(server)
        assert done.returncode == 2
        assert f"process {server.process.pid}" in done.stderr
        assert server.ask("POST", "/predictions/noop", b"x").body == b"x"


def test_status_and_stop_talk_to_the_running_guard(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    assert server.run("status", "--config", str(server.config)).returncode == 5
    assert server.run("stop", "--config", str(server.config)).returncode == 0
    server.launch()
    server.wait_serving()
    server.ask("POST", "/predictions/noop", b"x")
    status = server.status()
    assert (status["schema"], status["state"], status["mode"]) == ("torchserve_guard/status/v1", "SERVING", "none")
    assert [(m["model"], m["version"], m["archive"]) for m in status["models"]] == [("noop", "1.0", "noop.mar")]
    assert status["door"]["served"] >= 1
    text = server.run("status", "--config", str(server.config)).stdout
    assert "SERVING" in text
    assert "noop.mar" in text
    done = server.run("stop", "--config", str(server.config))
    assert (done.returncode, done.stdout) == (0, "stopped\n")
    assert server.wait(10) == 0


def test_nobody_else_can_reach_the_control_socket(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(server):
        record = next((server.state / "instances").glob("*.json"))
        control = json.loads(record.read_text())["control"]
        assert os.stat(control).st_mode & 0o077 == 0
        assert os.stat(os.path.dirname(control)).st_mode & 0o077 == 0
        assert os.stat(record).st_mode & 0o077 == 0
        assert os.stat(server.state).st_mode & 0o077 == 0


def test_being_asked_to_stop_while_torchserve_boots_is_obeyed(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    server.launch()
    deadline = time.monotonic() + 30
    while not server.run("status", "--config", str(server.config)).stdout.startswith("STARTING"):
        assert time.monotonic() < deadline
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.signal(signal.SIGINT)
    assert server.wait(30) == 0
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_torchserve_dying_ends_the_guard_with_its_own_exit_code(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    server.launch()
    server.wait_serving()
    os.kill(server.status()["frontend_pid"], signal.SIGKILL)
    assert server.wait(30) == 5
    assert "died" in server.output()
    assert server.audit()[-1]["event"] == "failed"


@pytest.mark.parametrize("moment", ["booting", "serving"])
def test_kill_nine_of_the_guard_leaves_no_torchserve_behind(guard, listed, moment):
    server = guard(listed, {"load_models": "noop.mar"})
    server.launch()
    if moment == "serving":
        server.wait_serving()
    else:
        deadline = time.monotonic() + 30
        while not any("ModelServer" in words for words in command_lines(server)):
            assert time.monotonic() < deadline
    family = children_of(server)
    assert family
    server.signal(signal.SIGKILL)
    server.wait(10)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, alive


def command_lines(server: servers.Guarded) -> list[str]:
    """The command lines of its children; one that has just ended has none."""
    found = []
    for child in children_of(server):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(" ".join(child.cmdline()))
    return found


def children_of(server: servers.Guarded) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def test_a_start_after_kill_nine_works(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    server.launch()
    server.wait_serving()
    family = children_of(server)
    server.signal(signal.SIGKILL)
    server.wait(10)
    psutil.wait_procs(family, timeout=10)
    assert server.run("status", "--config", str(server.config)).returncode == 5
    (left,) = (server.folder / "tmp").glob("tsguard-*")
    with servers.serving(server):
        assert server.ask("POST", "/predictions/noop", b"x").body == b"x"
        assert not left.exists()


def test_a_hostile_environment_and_working_directory_do_not_reach_torchserve(guard, listed):
    server = guard(
        listed,
        {"load_models": "noop.mar"},
        environment={
            "JAVA_TOOL_OPTIONS": "-Dhostile=1",
            "TS_CONFIG_FILE": "/nonexistent",
            "TS_MODEL_SERVER_HOME": "/nonexistent",
            "LOG4J_CONFIGURATION_FILE": "/nonexistent.xml",
            "SECRET_OF_MINE": "s3cr3t",
            "WANTED": "yes",
        },
    )
    with server.config.open("a") as file:
        file.write("guard.pass_environment=WANTED\n")
    (server.folder / "log4j2.xml").write_text("<Configuration/>")
    (server.folder / "logs" / "config").mkdir(parents=True)
    (server.folder / "logs" / "config" / "20990101000000000-startup.cfg").write_text("load_models=doubled.mar\n")
    with servers.serving(server):
        frontend = psutil.Process(server.status()["frontend_pid"])
        assert frontend.environ().get("WANTED") == "yes"
        assert not {"JAVA_TOOL_OPTIONS", "TS_CONFIG_FILE", "SECRET_OF_MINE"} & frontend.environ().keys()
        assert "-Dhostile=1" not in " ".join(frontend.cmdline())
        assert [m["modelName"] for m in server.manage("GET", "/models").json["models"]] == ["noop"]
        assert server.ask("POST", "/predictions/noop", b"x").status == 200


def test_no_snapshot_is_ever_written(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(server):
        pass
    assert not list(server.folder.rglob("*-startup.cfg")) + list(server.folder.rglob("*-shutdown.cfg"))


def test_check_says_what_start_would(guard, own_store):
    store = own_store("noop.mar")
    server = guard(store, {"load_models": "noop.mar"})
    good = server.run("check", "--config", str(server.config))
    assert (good.returncode, "1 archives verified" in good.stdout) == (0, True), good.stderr
    document = json.loads(server.run("check", "--config", str(server.config), "--format", "json").stdout)
    assert document["schema"] == "torchserve_guard/report/v1"
    assert document["passed"] is True
    assert [subject["name"] for subject in document["subjects"]] == ["noop.mar"]
    assert not list((server.folder / "tmp").iterdir())
    with (store / "noop.mar").open("ab") as file:
        file.write(b"x")
    assert server.run("check", "--config", str(server.config)).returncode == 4


def test_findings_at_the_threshold_stop_a_start_and_a_check(guard, own_store):
    store = own_store("noop.mar")
    server = guard(store, {"load_models": "noop.mar"})
    (store / "tsguard-manifest.json").chmod(0o666)
    for command in ("check", "start"):
        done = server.run(command, "--config", str(server.config))
        assert done.returncode == 3
        assert "TSG007" in done.stdout + done.stderr
    assert server.run("check", "--config", str(server.config), "--fail-on", "critical").returncode == 0


def test_the_lean_log_says_what_matters_and_nothing_for_each_request(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with servers.serving(server):
        logs = server.folder / "logs"
        before = sum(file.stat().st_size for file in logs.iterdir())
        for _ in range(50):
            server.ask("POST", "/predictions/noop", b"x")
        time.sleep(0.5)
        assert sum(file.stat().st_size for file in logs.iterdir()) == before
        assert "ts_log.log" in os.listdir(logs)
        assert "noop" in (logs / "ts_log.log").read_text()


def test_being_asked_to_stop_while_archives_are_verified_is_obeyed_and_recorded(guard, own_store):
    store = own_store("noop.mar")
    weights = store.parent / "weights.bin"
    weights.write_bytes(os.urandom(1_000_000) * 400)
    handler = Path(__file__).parents[1] / "models" / "noop.py"
    options = {
        "model-name": "heavy",
        "version": "1.0",
        "export-path": store,
        "handler": handler,
        "extra-files": weights,
    }
    command = [servers.SCRIPTS / "torch-model-archiver", *(f"--{name}={value}" for name, value in options.items())]
    subprocess.run(command, check=True)
    servers.manifest(store)
    server = guard(store, {"load_models": "heavy.mar"})
    server.launch()
    deadline = time.monotonic() + 30
    while not list(server.state.glob("store/staging/*")):
        assert time.monotonic() < deadline
    server.signal(signal.SIGTERM)
    assert server.wait(30) == 0, server.output()
    assert [entry["event"] for entry in server.audit()] == ["start", "stop"]
    # What was staged whole before it was asked may stay.
    assert all((tree / "record.json").is_file() for tree in server.state.glob("store/subjects/*"))


def test_a_model_called_tokenizer_starts_and_serves(guard, listed):
    # Stock takes any request to the management listener with `/token` in its line for a key rotation.
    server = guard(listed, {}, arguments=("--models", "tokenizer=noop.mar"))
    with servers.serving(server):
        assert server.ask("POST", "/predictions/tokenizer", b"x").body == b"x"
        assert server.manage("GET", "/models/tokenizer/all").json[0]["modelName"] == "tokenizer"
        assert server.status()["state"] == "SERVING"
