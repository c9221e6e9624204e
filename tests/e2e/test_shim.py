"""The shim: stock's own command line starts, stops and tells of a guarded TorchServe."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import servers

pytestmark = pytest.mark.e2e

STARTED = "Model server started."
STOPPED = "TorchServe has stopped."
NOT_RUNNING = "TorchServe is not currently running."
RUNNING = "TorchServe is already running, please use torchserve --stop to stop TorchServe."
ORPHAN = "Removing orphan pid file."


class Shim(servers.Server):
    """A written `torchserve` in a folder of its own, with its own TMPDIR."""

    def write(self, *baked: str) -> Shim:
        command = [str(servers.SCRIPTS / "tsguard"), "shim", str(self.folder / "bin"), *baked]
        subprocess.run(command, check=True, capture_output=True)
        return self

    def variables(self) -> dict[str, str]:
        return {"TSGUARD_STATE_DIR": str(self.folder / "state"), **super().variables()}

    def command(self) -> list[str]:
        return [str(self.folder / "bin" / "torchserve"), *self.arguments]

    def torchserve(self, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
        """The shim, run to its end; `more` is for `subprocess.run`."""
        given = {
            "cwd": self.folder,
            "env": self.variables(),
            "capture_output": True,
            "text": True,
            "timeout": 120,
            **more,
        }
        return subprocess.run([str(self.folder / "bin" / "torchserve"), *arguments], check=False, **given)

    def start(self, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
        """Start in the background; what it says goes into a file, as the guard keeps the streams."""
        with (self.folder / "output.txt").open("wb") as log:
            given = ("--start", "--ts-config", str(self.config), *arguments)
            return self.torchserve(*given, capture_output=False, stdout=log, stderr=log, **more)

    def running(self) -> list[psutil.Process]:
        """What runs in this folder: the guard, TorchServe and its workers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # one that has just ended
                if process.environ().get("TMPDIR", "").startswith(str(self.folder)):
                    found.append(process)
        return found


@pytest.fixture
def shim(place, own_store):
    """Make shims of the test's own on a store with `noop`; stopped afterwards."""
    made: list[Shim] = []

    def make(*baked: str, **settings: str) -> Shim:
        store = own_store("noop.mar")
        server = Shim(place / f"s{len(made)}", store, {"load_models": "noop.mar", **settings})
        made.append(server.write(*baked))
        return server

    yield make
    for server in made:
        server.torchserve("--stop")


def free(server: Shim) -> bool:
    """Whether every port of a server can be bound again, now."""
    with contextlib.ExitStack() as stack:
        for port in (server.inference, server.management, server.metrics):
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def test_it_starts_in_the_background_and_stops_in_stocks_words(shim):
    server = shim()
    assert server.start().returncode == 0, server.output()
    assert server.output().splitlines().count(STARTED) == 1
    # Ready is ready: no wait between the command's end and the first answer.
    assert server.ask("POST", "/predictions/noop", b"hello").body == b"hello"
    again = server.torchserve("--start", "--ts-config", str(server.config))
    assert (again.returncode, again.stdout.strip()) == (1, RUNNING)
    stopped = server.torchserve("--stop")
    assert (stopped.returncode, stopped.stdout.strip()) == (0, STOPPED)
    assert free(server)
    assert server.running() == []
    idle = server.torchserve("--stop")
    assert (idle.returncode, idle.stdout.strip()) == (0, NOT_RUNNING)
    assert server.start().returncode == 0, server.output()


def test_it_is_ready_when_it_says_so_and_not_when_torchserve_does(shim, own_store):
    own_store("noop.mar", "slow.mar")
    server = shim(load_models="noop.mar,slow.mar")
    assert server.start().returncode == 0, server.output()
    lines = server.output().splitlines()
    assert lines.index(STARTED) > next(n for n, line in enumerate(lines) if "the door is open" in line)
    assert sum(line.count("WORKER_MODEL_LOADED") for line in lines[: lines.index(STARTED)]) == 2


def test_in_the_foreground_it_serves_until_it_is_told_to_stop(shim):
    server = shim()
    server.arguments = ("--start", "--foreground", "--ts-config", str(server.config))
    for stop in (lambda: server.signal(signal.SIGTERM), lambda: server.torchserve("--stop", "--foreground")):
        server.launch()
        deadline = time.monotonic() + 60
        while STARTED not in server.output():
            assert server.process.poll() is None, server.output()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.ask("GET", "/ping").status == 200
        told = stop()
        assert told is None or (told.returncode, told.stdout) == (0, "")
        assert server.wait(30) == 0
        assert free(server)


def test_a_start_that_fails_tells_why_with_the_guards_exit_code(shim):
    server = shim()
    archive = server.store / "noop.mar"
    archive.write_bytes(archive.read_bytes() + b"\0")
    done = server.start()
    assert done.returncode == 4, server.output()
    assert "noop.mar" in server.output()
    assert STARTED not in server.output()
    assert server.torchserve("--stop").stdout.strip() == NOT_RUNNING
    assert server.running() == []


def test_a_guard_that_was_killed_is_an_orphan_and_nothing_of_it_stays(shim):
    server = shim()
    assert server.start().returncode == 0, server.output()
    guard = next(one for one in server.running() if "torchserve_guard.shim" in one.cmdline())
    guard.kill()
    deadline = time.monotonic() + 30
    while server.running():
        assert time.monotonic() < deadline, server.running()
        time.sleep(0.05)
    stopped = server.torchserve("--stop")
    assert (stopped.returncode, stopped.stdout.splitlines()) == (0, [ORPHAN, NOT_RUNNING])
    assert server.start().returncode == 0, server.output()
    assert ORPHAN not in server.output()


def test_it_goes_on_when_nobody_reads_what_it_says_any_more(shim):
    server = shim()
    command = [str(server.folder / "bin" / "torchserve"), "--start", "--ts-config", str(server.config)]
    with subprocess.Popen(
        command, cwd=server.folder, env=server.variables(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        # As ts.launcher and ts_scripts do: read until the greeting, then leave.
        for line in process.stdout:
            if STARTED in line:
                break
        process.stdout.close()
        assert process.wait(30) == 0
    for number in range(50):
        assert server.ask("POST", "/predictions/noop", str(number)).status == 200
        server.manage("POST", "/models?url=noop.mar")
    assert server.torchserve("--stop").stdout.strip() == STOPPED


def test_another_temporary_folder_is_another_server_and_stop_means_its_own(shim):
    first, second = shim(), shim()
    assert first.start().returncode == second.start().returncode == 0
    assert first.torchserve("--stop").stdout.strip() == STOPPED
    assert second.ask("GET", "/ping").status == 200
    assert first.torchserve("--stop").stdout.strip() == NOT_RUNNING


def test_stop_ends_nothing_that_is_no_guard(shim):
    """Stock reads a number that anybody may have written (hazards H46, S21)."""
    server = shim()
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "org.pytorch.serve.ModelServer"]
    ) as other:
        (server.folder / "tmp" / ".model_server.pid").write_text(str(other.pid))
        assert server.torchserve("--stop").stdout.strip() == NOT_RUNNING
        assert other.poll() is None
        other.kill()


def test_defaults_and_flags_alone_start_as_with_stock(shim, place):
    """Stock needs no configuration; the ports are stock's own, so the addresses come from a file that is found."""
    server = shim()
    text = server.config.read_text()
    (server.folder / "work").mkdir()
    (server.folder / "work" / "config.properties").write_text(
        "".join(line + "\n" for line in text.splitlines() if not line.startswith(("model_store", "load_models")))
    )
    arguments = ("--start", "--model-store", str(server.store), "--models", "other=noop.mar", "--ncs")
    with (server.folder / "output.txt").open("wb") as log:
        done = server.torchserve(
            *arguments, cwd=server.folder / "work", capture_output=False, stdout=log, stderr=subprocess.STDOUT
        )
    assert done.returncode == 0, server.output()
    assert "config.properties, as TorchServe does" in server.output()
    assert server.ask("POST", "/predictions/other", b"x").body == b"x"
    # Stock's log files are where stock has them.
    names = {path.name for path in (server.folder / "work" / "logs").iterdir()}
    assert {"access_log.log", "model_log.log", "ts_log.log", "model_metrics.log", "ts_metrics.log"} <= names


def test_a_start_that_is_stopped_before_it_is_ready_ends_and_says_so(shim, own_store):
    own_store("noop.mar", "slow.mar")
    server = shim(load_models="noop.mar,slow.mar")
    server.arguments = ("--start", "--ts-config", str(server.config))
    server.launch()
    deadline = time.monotonic() + 30
    while "Torchserve version" not in server.output():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert server.torchserve("--stop").stdout.strip() == STOPPED
    assert server.wait(30) == 0
    assert STARTED not in server.output()
    assert free(server)


def test_the_version_is_told_as_stock_tells_it(shim):
    stock = subprocess.run([servers.SCRIPTS / "torchserve", "--version"], capture_output=True, text=True, check=True)
    for flag in ("--version", "-v", "--vers"):
        assert shim().torchserve(flag).stdout == stock.stdout


def test_what_is_baked_in_stands_whatever_the_environment_says(shim):
    server = shim("--profile", "strict", "--model-control-mode", "none")
    (server.store / "tsguard-manifest.json").unlink()
    environment = {**server.variables(), "TSGUARD_PROFILE": "compat", "TSGUARD_MODEL_CONTROL_MODE": "explicit"}
    done = server.start("--enable-model-api", env=environment)
    assert done.returncode == 2, server.output()
    assert "there is no manifest" in server.output()


def test_code_in_the_working_directory_or_on_pythonpath_does_not_run(shim):
    server = shim()
    for name in ("torchserve_guard", "psutil", "javaproperties", "yaml", "sitecustomize"):
        (server.folder / f"{name}.py").write_text(f"open({str(server.folder / 'ran')!r}, 'w').close()\n")
    environment = {**server.variables(), "PYTHONPATH": str(server.folder)}
    assert server.torchserve("--version", env=environment).returncode == 0
    assert server.start(env=environment).returncode == 0, server.output()
    assert server.torchserve("--stop", env=environment).stdout.strip() == STOPPED
    assert not (server.folder / "ran").exists()


def write(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [str(servers.SCRIPTS / "tsguard"), "shim", str(folder), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_shim_is_written_again_and_stocks_own_program_never_replaced_unasked(place):
    path = place / "bin" / "torchserve"
    assert write(place / "bin").returncode == 0
    first = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o755
    assert write(place / "bin").returncode == 0
    assert path.read_bytes() == first
    assert write(place / "bin", "--profile", "compat").returncode == 0
    assert path.read_bytes() != first
    for stocks in ("#!/usr/bin/python3\nfrom ts.model_server import start\n", ""):
        path.write_text(stocks)
        refused = write(place / "bin")
        assert refused.returncode == 2
        assert "--force" in refused.stderr
        assert path.read_text() == stocks
    path.unlink()
    path.symlink_to(place / "elsewhere")
    assert write(place / "bin").returncode == 2
    assert write(place / "bin", "--force").returncode == 0
    assert not path.is_symlink()
    assert not (place / "elsewhere").exists()
    assert os.listdir(place / "bin") == ["torchserve"]
