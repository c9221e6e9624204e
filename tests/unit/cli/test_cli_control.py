"""Asking a guard that does not answer, answers nonsense, or ends meanwhile."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from torchserve_guard.admin import instance
from torchserve_guard.cli import control, main


@pytest.fixture
def peer(tmp_path, monkeypatch, capsys):
    """Hold the place of a guard whose socket says `answer` (None: nothing, ever); run a command against it."""
    monkeypatch.setattr(control, "ANSWER_WITHIN", 0.3)
    (tmp_path / "store").mkdir()
    config, state, path = tmp_path / "config.properties", tmp_path / "state", tmp_path / "c.sock"
    config.write_text(f"model_store={tmp_path / 'store'}\nguard.state_dir={state}\n")
    config.chmod(0o644)

    def ask(command: str, answer: bytes | None, *more: str, pid: int | None = None) -> tuple[int, str, str]:
        with socket.socket(socket.AF_UNIX) as listener, instance.claimed(state, config) as record:
            listener.bind(str(path))
            listener.listen()
            instance.publish(record, instance.Instance(pid or os.getpid(), str(config), str(path), str(tmp_path)))
            served = threading.Thread(target=_serve, args=(listener, answer))
            if answer is not None:
                served.start()
            monkeypatch.setattr(sys, "argv", ["tsguard", command, "--config", str(config), *more])
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
            if answer is not None:
                served.join()
        return (code, *capsys.readouterr())

    return ask


def _serve(listener: socket.socket, answer: bytes) -> None:
    listener.settimeout(5)
    client, _ = listener.accept()
    with client:
        client.recv(65536)
        client.sendall(answer)


def http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("command", ["status", "stop"])
@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"\x00\xff nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        http(b"{"),
        http(b"\xff\xfe"),
        http(b"[" * 60_000),
        http(b"[]"),
        http(b'{"message":"no"}', "404 Not Found"),
    ],
)
def test_a_guard_that_does_not_answer_as_one_is_a_clear_error(peer, command, answer):
    code, output, error = peer(command, answer)
    assert code == 5
    assert output == ""
    assert error.startswith(f"tsguard: process {os.getpid()} ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "document", [{}, {"state": "x"}, {"listeners": {}, "models": [1], "door": {}, "state": "", "mode": ""}]
)
def test_a_status_of_another_shape_is_a_clear_error(peer, document):
    code, _, error = peer("status", http(json.dumps(document).encode()))
    assert code == 5
    assert "no answer of a guard" in error


def test_a_status_cannot_steer_the_terminal(peer):
    model = {"model": "\x1b[31mred\nforged", "version": "1.0", "archive": "a.mar", "digest": "0" * 64}
    document = {"state": "SERVING", "mode": "none", "pid": 1, "uptime": 1.0, "config": "c", "listeners": {}}
    code, output, _ = peer("status", http(json.dumps({**document, "models": [model], "door": {}}).encode()))
    assert code == 0
    assert "\\x1b[31mred\\nforged" in output


OPEN = {"state": "SERVING", "mode": "none", "pid": 1, "uptime": 1.0, "config": "c", "listeners": {}}
SIGNED = {
    "path": "/m/m\n.json",
    "version": 7,
    "sha256": "a" * 64,
    "expires": "2030-01-31T12:00:00+00:00",
    "signers": ["CN=Alice (release)", "CN=Bob"],
}
LINE = f"manifest   version 7  /m/m\\n.json  sha256:{'a' * 16}  expires "


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (SIGNED, [LINE + "2030-01-31T12:00:00+00:00  signed by CN=Alice (release); CN=Bob"]),
        ({**SIGNED, "expires": None, "signers": []}, [LINE + "never"]),
        (None, []),
    ],
)
def test_a_status_tells_the_manifest_in_one_line(peer, manifest, told):
    document = {**OPEN, "models": [], "door": {}, "manifest": manifest}
    code, output, _ = peer("status", http(json.dumps(document).encode()))
    assert (code, [line for line in output.splitlines() if "manifest" in line]) == (0, told)


@pytest.mark.parametrize("manifest", [1, "m", [], {}, {**SIGNED, "signers": [1]}, {**SIGNED, "sha256": None}])
def test_a_manifest_of_another_shape_is_a_clear_error(peer, manifest):
    document = {**OPEN, "models": [], "door": {}, "manifest": manifest}
    code, output, error = peer("status", http(json.dumps(document).encode()))
    assert (code, output) == (5, "")
    assert "no answer of a guard" in error


def test_stopping_a_guard_that_ended_before_it_was_asked_is_no_error(peer):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert peer("stop", None, pid=ended.pid) == (0, "not running\n", "")


def test_stopping_a_guard_that_ends_instead_of_answering_is_no_error(peer):
    """Its process is a zombie, as that of a guard whose parent has not yet looked."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert peer("stop", b"", pid=ended.pid) == (0, "stopped\n", "")
    finally:
        ended.wait()


SEEN = {
    "model": "m",
    "version": "1.0",
    "archive": "m.mar",
    "digest": "0" * 64,
    "state": "verified",
    "found": [],
    "bytes": 5,
    "closed": False,
}
ROUND = {"clean": True, "models": [SEEN], "elsewhere": [], "seconds": 0.1}
DRIFTED = {**SEEN, "state": "drifted", "found": ["`a\x1b[31m` was added"], "closed": True}


@pytest.mark.parametrize(
    ("document", "code", "said"),
    [
        (ROUND, 0, "verified   m 1.0  m.mar\n"),
        ({**ROUND, "clean": False, "models": [DRIFTED]}, 4, "drifted    m 1.0  m.mar  its door is closed\n"),
        ({**ROUND, "clean": False, "models": [DRIFTED]}, 4, "`a\\x1b[31m` was added\n"),
        ({**ROUND, "clean": False, "elsewhere": ["x"]}, 4, "elsewhere  x\n"),
        ({**ROUND, "clean": "yes"}, 4, "verified"),
    ],
)
def test_a_look_says_what_was_seen_and_its_exit_code_says_whether_it_is_right(peer, document, code, said):
    ended, output, _ = peer("status", http(json.dumps(document).encode()), "--verify")
    assert ended == code
    assert said in output


@pytest.mark.parametrize("document", [{}, {"clean": True}, {**ROUND, "models": [{}]}, {**ROUND, "models": 5}])
def test_a_look_of_another_shape_is_a_clear_error(peer, document):
    code, output, error = peer("status", http(json.dumps(document).encode()), "--verify")
    assert (code, output) == (5, "")
    assert "no answer of a guard" in error


def test_a_guard_that_is_not_open_yet_says_so(peer):
    code, _, error = peer("status", http(b'{"message":"the door is not open"}', "503 Service Unavailable"), "--verify")
    assert code == 5
    assert "the door is not open; try again" in error


def test_metrics_are_passed_on_as_they_are(peer):
    assert peer("status", http(b"tsguard_serving 1\n"), "--metrics") == (0, "tsguard_serving 1\n", "")
