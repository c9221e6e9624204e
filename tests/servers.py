"""Real servers for tests, the demo and the benchmarks: a stock TorchServe, and a guarded one.

Each has its own folder, ports and TMPDIR; each ends only what it started.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SCRIPTS = Path(sys.executable).parent
PATIENCE = 120.0
VARYING = re.compile(
    rb'"(id|startTime|pid|memoryUsage|gpuUsage|jobQueueStatus)": ?("[^"]*"|-?[0-9.]+|\{[^}]*\})|ip-?[0-9.]+'
)
OF_THE_CONNECTION = {"x-request-id", "date", "connection", "content-length", "keep-alive"}
FIRST_PORT, EPHEMERAL = 10_000, 32_768  # net.ipv4.ip_local_port_range begins there


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def comparable(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """What of an answer must be alike, whichever server it came from."""
    headers = {name: value for name, value in answer.headers.items() if name not in OF_THE_CONNECTION}
    return answer.status, headers, VARYING.sub(b"", answer.body)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel hands out: nobody gets them meanwhile.

    Test processes that run side by side (pytest-xdist) draw from ranges of their own.
    """
    found: list[int] = []
    width = (EPHEMERAL - FIRST_PORT) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = FIRST_PORT + width * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while len(found) < count:
        port = first + secrets.randbelow(width)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


def java_home() -> str:
    """The Java that a stock server is started with: the same choice as the guard makes."""
    from torchserve_guard.frontend import find_java

    return str(find_java(os.environ).path.parent.parent)


@dataclass
class Server:
    """A server in a folder of its own; `ports` are inference, management, metrics, and the two of gRPC."""

    folder: Path
    store: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        self.inference, self.management, self.metrics, *self.grpc = free_ports(5)
        self.config = self.folder / "config.properties"
        self.config.write_text("".join(f"{key}={value}\n" for key, value in self.properties().items()))

    def properties(self) -> dict[str, str]:
        return {
            "inference_address": f"http://127.0.0.1:{self.inference}",
            "management_address": f"http://127.0.0.1:{self.management}",
            "metrics_address": f"http://127.0.0.1:{self.metrics}",
            "grpc_inference_port": str(self.grpc[0]),
            "grpc_management_port": str(self.grpc[1]),
            "model_store": str(self.store),
            "default_workers_per_model": "1",
            "disable_token_authorization": "true",
            **self.settings,
        }

    def command(self) -> list[str]:
        raise NotImplementedError

    def variables(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "JAVA_HOME") if name in os.environ}
        temporary = str(self.folder / "tmp")
        return {**kept, "TMPDIR": temporary, "TEMP": temporary, **self.environment}

    def launch(self) -> None:
        with (self.folder / "output.txt").open("wb") as log:
            self._launch(log)

    def _launch(self, log) -> None:
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def output(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | str | None = None,
        *,
        port: int | None = None,
        headers=None,
        timeout=60.0,
    ) -> Answer:
        """One request on a connection of its own, to the inference listener unless a port is named."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.inference, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def manage(self, method: str, target: str, body: bytes | str | None = None, **more) -> Answer:
        return self.ask(method, target, body, port=self.management, **more)

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        assert self.process is not None
        return self.process.wait(timeout)


class Guarded(Server):
    """`tsguard start` on the folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.state = Path(self.settings.get("guard.state_dir", self.folder / "state"))

    def properties(self) -> dict[str, str]:
        return {"guard.state_dir": str(self.folder / "state"), **super().properties()}

    def command(self) -> list[str]:
        return [str(SCRIPTS / "tsguard"), "start", "--config", str(self.config), *self.arguments]

    def run(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Another `tsguard` command, run in the same folder."""
        return subprocess.run(
            [str(SCRIPTS / "tsguard"), *arguments],
            cwd=self.folder,
            env=self.variables(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def status(self) -> dict[str, object]:
        return json.loads(self.run("status", "--config", str(self.config), "--json").stdout)

    def audit(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]

    def wait_serving(self, timeout: float = PATIENCE) -> None:
        """Return when the door is open, which the guard does only when every model is ready."""
        assert self.process is not None
        deadline = time.monotonic() + timeout
        while "the door is open" not in self.output():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"the guard does not serve (exit code {self.process.poll()}):\n{self.output()[-6000:]}"
                )
            time.sleep(0.02)


class Stock(Server):
    """A stock TorchServe, through its own `torchserve` wrapper; model control enabled, as its users do."""

    def command(self) -> list[str]:
        return [
            str(SCRIPTS / "torchserve"),
            "--start",
            "--foreground",
            "--ncs",
            "--ts-config",
            str(self.config),
            "--model-store",
            str(self.store),
            *self.arguments,
        ]

    def variables(self) -> dict[str, str]:
        return {"JAVA_HOME": java_home(), **super().variables()}

    def wait_serving(self, models: tuple[str, ...] = (), timeout: float = PATIENCE) -> None:
        """Return when every model named has a worker that is ready."""
        deadline = time.monotonic() + timeout
        while not self._ready(models):
            if time.monotonic() > deadline:
                raise AssertionError(f"stock TorchServe does not serve:\n{self.output()[-6000:]}")
            time.sleep(0.02)

    def _ready(self, models: tuple[str, ...]) -> bool:
        try:
            described = [self.manage("GET", f"/models/{model}") for model in models]
            up = self.ask("GET", "/ping").status == 200
        except OSError:
            return False
        return up and all(
            one.status == 200 and one.json[0]["workers"] and all(w["status"] == "READY" for w in one.json[0]["workers"])
            for one in described
        )


@contextlib.contextmanager
def serving(server: Server, *ready) -> Iterator[Server]:
    """The server, up; afterwards it and everything it started is gone."""
    server.launch()
    try:
        server.wait_serving(*ready)
        yield server
    finally:
        end(server)


def end(server: Server) -> None:
    """End the server and its children, politely first; by the processes that it was seen to start."""
    process = server.process
    if process is None:
        return
    children = _children(process.pid)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    if process.poll() is None:
        process.kill()
    process.wait(10)


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def manifest(store: Path, *arguments: str) -> None:
    """List everything in a store."""
    subprocess.run(
        [str(SCRIPTS / "tsguard"), "manifest", "create", str(store), *arguments], check=True, capture_output=True
    )


@contextlib.contextmanager
def folder(prefix: str = "tsg-") -> Iterator[Path]:
    """A folder with a short path (unix sockets end at 107 bytes), removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield path
    finally:
        for parent, _, _ in os.walk(path):
            os.chmod(parent, 0o700)
        shutil.rmtree(path, ignore_errors=True)
