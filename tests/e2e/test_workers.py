"""The real TorchServe behind several processes: one dies under load, keys, the record, the access log, the end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import threading
import time

import authority
import psutil
import pytest
import servers

pytestmark = pytest.mark.e2e

PATIENCE = 30.0


def until(found, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def standing(server: servers.Guarded) -> list[int]:
    return [one["pid"] for one in server.status()["processes"] if one["state"] == "serving"]


def connections(server: servers.Guarded, pid: int) -> int:
    found = psutil.Process(pid).net_connections("tcp")
    return len([one for one in found if one.status == "ESTABLISHED" and one.laddr.port == server.inference])


def bearer(server: servers.Guarded, kind: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {json.loads((server.folder / 'key_file.json').read_text())[kind]['key']}"}


class Load:
    """Clients that ask on and on, each on a connection that it keeps until it is broken."""

    def __init__(self, server: servers.Guarded, headers: dict[str, str]) -> None:
        self.server, self.headers = server, headers
        self.answered, self.broken = 0, 0
        self.wrong: list[int] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.server.inference, timeout=PATIENCE)
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                while not self.done.is_set():
                    self.broken += 1
                    connection.request("POST", "/predictions/noop", b"x", self.headers)
                    response = connection.getresponse()
                    response.read()
                    self.broken -= 1
                    self.answered += 1
                    self.wrong += [response.status] if response.status != 200 else []


def test_two_processes_serve_one_torchserve_and_one_of_them_may_die(guard, own_store):
    settings = {
        "load_models": "noop.mar",
        "model-control-mode": "explicit",
        "disable_token_authorization": "false",
        "guard.workers": "2",
    }
    server = guard(own_store("noop.mar", "doubled.mar"), settings)
    with servers.serving(server):
        assert len(standing(server)) == 2
        assert {os.sched_getscheduler(pid) for pid in standing(server)} == {os.sched_getscheduler(server.process.pid)}
        inference = bearer(server, "inference")
        loads = [Load(server, inference) for _ in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(load.run) for load in loads]
            until(lambda: all(load.answered > 10 for load in loads), "load runs")
            doomed = max(standing(server), key=lambda pid: connections(server, pid))
            held = connections(server, doomed)
            os.kill(doomed, signal.SIGKILL)
            until(lambda: doomed not in standing(server) and len(standing(server)) == 2, "another takes its place")
            seen = [load.answered for load in loads]
            until(lambda: all(load.answered > n + 10 for load, n in zip(loads, seen, strict=True)), "load runs on")
            for load in loads:
                load.done.set()
            for one in running:
                one.result()
        assert [load.wrong for load in loads] == [[]] * 4
        assert sum(load.broken for load in loads) == held < 4

        # Changes go through the guard's own process; what they change holds in all.
        management = bearer(server, "management")
        change = "/models?url=doubled.mar&initial_workers=1&synchronous=true"
        assert server.manage("POST", change, headers=management).status == 200
        numbers = {"Content-Type": "application/json", **inference}
        answers = [server.ask("POST", "/predictions/doubled", b"[1, 2, 3, 4]", headers=numbers) for _ in range(8)]
        assert {answer.status for answer in answers} == {200}
        assert server.manage("GET", "/token?type=inference", headers=bearer(server, "API")).status == 200
        assert {server.ask("POST", "/predictions/noop", b"x", headers=inference).status for _ in range(8)} == {401}
        renewed = bearer(server, "inference")
        assert {server.ask("POST", "/predictions/noop", b"x", headers=renewed).status for _ in range(8)} == {200}

        status = server.status()
        # What the one that died did after its last heartbeat nobody counted.
        assert status["door"]["served"] > sum(load.answered for load in loads) / 2
        assert [one["restarts"] for one in status["processes"]].count(1) == 1
        assert "process" in server.run("status", "--config", str(server.config)).stdout
        porters = standing(server)
        server.signal()
        assert server.wait() == 0
    assert not [pid for pid in porters if psutil.pid_exists(pid)]
    entries = server.audit()
    assert [entry["sequence"] for entry in entries] == list(range(len(entries)))
    refused = [entry for entry in entries if entry["event"] == "refusal"]
    assert len(refused) == 8
    assert {entry["process"] for entry in refused} <= set(porters)
    assert [entry["process"] for entry in entries if entry["event"] == "porter-ended"] == [doomed]
    lines = [json.loads(line) for line in (server.state / "access.log").read_text().splitlines()]
    assert len([line for line in lines if line.get("model") == "doubled" and line.get("digest")]) == 8


def test_new_certificates_are_shown_by_all_and_when_the_guard_is_killed_nothing_of_it_serves_on(guard, listed, place):
    root = authority.root()
    first, second = root.issue(), root.issue()
    certificate, key = first.written(place)
    settings = {"certificate_file": str(certificate), "private_key_file": str(key), "guard.workers": "2"}
    server = guard(listed, {"load_models": "noop.mar", **settings})
    inference = f"inference_address=http://127.0.0.1:{server.inference}\n"
    server.config.write_text(server.config.read_text().replace(inference, inference.replace("http:", "https:")))
    with servers.serving(server):
        assert shown(server) == {ssl.PEM_cert_to_DER_cert(first.pem.decode())}
        second.written(place)
        server.signal(signal.SIGHUP)
        until(lambda: second.fingerprint in server.output(), "the new certificates are in use")
        assert shown(server) == {ssl.PEM_cert_to_DER_cert(second.pem.decode())}

        everything = servers._children(server.process.pid)
        assert len(everything) >= 4
        server.signal(signal.SIGKILL)
        server.wait()
        _, alive = psutil.wait_procs(everything, timeout=10)
        assert alive == []
        with pytest.raises(ConnectionError):
            shown(server)


def shown(server: servers.Guarded) -> set[bytes]:
    """What eight clients at once are shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", server.inference), 30)) for _ in range(8)]
        return {stack.enter_context(context.wrap_socket(one)).getpeercert(binary_form=True) for one in sockets}
