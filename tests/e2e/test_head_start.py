"""Java starts while archives are verified, and TorchServe is told nothing until they are (docs/adr/0021)."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import servers
from corpus.archives import manifest

from torchserve_guard.frontend import find_java

pytestmark = pytest.mark.e2e

NOOP = Path(__file__).parents[1] / "models" / "noop.py"
BOOTED_WITHIN = 2.0
"""Seconds after which a TorchServe that had been told would be listening; it takes less than one."""


@pytest.fixture(scope="module")
def built():
    """A store whose one archive takes half a second or more to verify."""
    with servers.folder("tsg-h-") as folder:
        store, sources = folder / "store", folder / "sources"
        (sources / "MAR-INF").mkdir(parents=True)
        shutil.copy(NOOP, sources / "handler.py")
        (sources / "MAR-INF" / "MANIFEST.json").write_bytes(manifest(modelName="heavy"))
        piece = os.urandom(1_000_000)
        with (sources / "weights.bin").open("wb") as file:
            for _ in range(200):
                file.write(piece)
        store.mkdir()
        pack = ["tar", "--use-compress-program", "gzip -1", "-cf", store / "heavy.tar.gz", "-C", sources, "."]
        subprocess.run(pack, check=True)
        servers.manifest(store)
        yield store


@pytest.fixture
def heavy(built, place):
    """A copy of it, for a test that changes it."""
    return shutil.copytree(built, place / "heavy")


def held(server: servers.Guarded) -> psutil.Process:
    """Launch, and stop the guard in its tracks while it verifies; return the JVM that waits, or will."""
    server.launch()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        java = java_of(server)
        if java is not None:
            server.signal(signal.SIGSTOP)
            return java
        time.sleep(0.005)
    raise AssertionError(server.output())


def java_of(server: servers.Guarded) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "org.pytorch.serve.ModelServer" in child.cmdline():
                    return child
    return None


def run_directory(server: servers.Guarded) -> Path:
    (root,) = (server.folder / "tmp").glob("tsguard-*")
    return root / "ts"


def test_torchserve_knows_nothing_and_listens_nowhere_before_all_is_verified(guard, heavy):
    server = guard(heavy, {"load_models": "heavy.tar.gz"})
    java = held(server)
    time.sleep(BOOTED_WITHIN)
    run = run_directory(server)
    assert stat.S_ISFIFO((run / "config.properties").stat().st_mode)
    assert stat.S_IMODE((run / "config.properties").stat().st_mode) == 0o600
    assert not [socket for socket in java.net_connections("all") if socket.laddr]
    assert not java.children()
    assert not list(run.glob("*.sock"))
    assert not list((run / "cwd").iterdir())
    assert not list((run.parent / "models").iterdir())
    server.signal(signal.SIGCONT)
    server.wait_serving()
    assert server.status()["frontend_pid"] == java.pid
    assert stat.S_ISREG((run / "config.properties").stat().st_mode)
    assert server.ask("POST", "/predictions/heavy", b"x").status == 200
    server.signal(signal.SIGTERM)
    assert server.wait(30) == 0


def test_a_refused_archive_ends_a_torchserve_that_was_never_told(guard, heavy):
    with (heavy / "heavy.tar.gz").open("r+b") as file:
        file.seek(-50_000_000, os.SEEK_END)
        file.write(b"changed")
    server = guard(heavy, {"load_models": "heavy.tar.gz"})
    java = held(server)
    server.signal(signal.SIGCONT)
    assert server.wait(60) == 4
    assert not java.is_running()
    assert [entry["event"] for entry in server.audit()] == ["start", "start-refused"]
    assert not list((server.folder / "tmp").glob("tsguard-*"))
    assert "org.pytorch.serve" not in server.output()


def test_a_guard_that_is_killed_before_takes_it_along(guard, heavy):
    server = guard(heavy, {"load_models": "heavy.tar.gz"})
    family = [held(server), *psutil.Process(server.process.pid).children(recursive=True)]
    server.signal(signal.SIGKILL)
    server.wait(10)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, alive
    (left,) = (server.folder / "tmp").glob("tsguard-*")
    (heavy / "heavy.tar.gz").write_bytes(b"")
    assert server.run("start", "--config", str(server.config)).returncode == 4
    assert not left.exists()


def test_a_warden_that_is_killed_before_is_replaced(guard, heavy):
    server = guard(heavy, {"load_models": "heavy.tar.gz"})
    held(server)
    (warden,) = wardens(server)
    warden.kill()
    server.signal(signal.SIGCONT)
    server.wait_serving()
    (another,) = wardens(server)
    assert another.pid != warden.pid
    server.signal(signal.SIGTERM)
    assert server.wait(30) == 0


def wardens(server: servers.Guarded) -> list[psutil.Process]:
    family = psutil.Process(server.process.pid).children()
    alive = [child for child in family if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if any(word.endswith("/warden.py") for word in child.cmdline())]


def test_one_that_still_verifies_says_so_and_can_be_told_to_stop(guard, heavy):
    server = guard(heavy, {"load_models": "heavy.tar.gz"})
    java = held(server)
    told = server.run("status", "--config", str(server.config))
    assert (told.returncode, told.stdout.split("\n")[0]) == (
        0,
        f"STARTING  process {server.process.pid} verifies archives",
    )
    document = json.loads(server.run("status", "--json", "--config", str(server.config)).stdout)
    assert (document["state"], document["pid"]) == ("STARTING", server.process.pid)
    asked = server.run("status", "--verify", "--config", str(server.config))
    assert (asked.returncode, "still verifies" in asked.stderr) == (5, True)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(server.run, "stop", "--config", str(server.config))
        time.sleep(1.5)  # by then it was asked
        server.signal(signal.SIGCONT)
        done = stopping.result()
    assert (done.returncode, done.stdout) == (0, "stopped\n")
    assert server.wait(5) == 0
    assert not java.is_running()
    assert [entry["event"] for entry in server.audit()] == ["start", "stop"]
    assert server.run("status", "--config", str(server.config)).returncode == 5


@pytest.mark.parametrize("how", ["refused", "stopped"])
def test_a_java_that_is_the_child_of_a_script_goes_with_it(guard, heavy, how):
    home = heavy.parent / "java"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text(f'#!/bin/sh\n{find_java(os.environ).path} "$@"\nexit $?\n')
    (home / "bin" / "java").chmod(0o755)
    with (heavy / "heavy.tar.gz").open("r+b") as file:
        file.write(b"changed")
    server = guard(heavy, {"load_models": "heavy.tar.gz"}, environment={"JAVA_HOME": str(home)})
    held(server)
    deadline = time.monotonic() + BOOTED_WITHIN
    family: list[psutil.Process] = []
    while len([one for one in family if "org.pytorch.serve.ModelServer" in one.cmdline()]) < 2:
        assert time.monotonic() < deadline, "the script has no child"
        family = psutil.Process(server.process.pid).children(recursive=True)
    if how == "stopped":
        server.signal(signal.SIGTERM)
    server.signal(signal.SIGCONT)
    assert server.wait(60) == (4 if how == "refused" else 0)
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert server.audit()[-1]["event"] == ("start-refused" if how == "refused" else "stop")


def test_a_terminal_that_is_closed_meanwhile_leaves_nothing(guard, heavy):
    server = guard(heavy, {"load_models": "heavy.tar.gz"})
    java = held(server)
    for number in (signal.SIGHUP, signal.SIGCONT, signal.SIGTERM, signal.SIGTERM):
        server.signal(number)
    assert server.wait(30) == 0, server.output()
    assert not java.is_running()
    assert [entry["event"] for entry in server.audit()] == ["start", "stop"]
    assert not list((server.folder / "tmp").glob("tsguard-*"))


def test_nothing_is_launched_when_the_settings_alone_stop_the_start(guard, own_store):
    store = own_store("noop.mar")
    home, launched = store.parent / "java", store.parent / "launched"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text(
        f'#!/bin/sh\ncase "$*" in *ModelServer*) : > {launched};; esac\nexec {find_java(os.environ).path} "$@"\n'
    )
    (home / "bin" / "java").chmod(0o755)
    server = guard(store, {"load_models": "noop.mar"}, environment={"JAVA_HOME": str(home)})
    (store / "tsguard-manifest.json").chmod(0o666)
    assert server.run("start", "--config", str(server.config)).returncode == 3
    assert not launched.exists()
    (store / "tsguard-manifest.json").chmod(0o600)
    with servers.serving(server):
        assert launched.exists()


def test_a_java_that_ends_at_once_is_told_in_its_own_words(guard, listed):
    server = guard(listed, {"load_models": "noop.mar", "vmargs": "-Xms2g -Xmx1g"})
    done = server.run("start", "--config", str(server.config))
    assert done.returncode == 5
    assert "larger value than the maximum heap size" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((server.folder / "tmp").glob("tsguard-*"))
