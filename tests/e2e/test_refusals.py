"""Mode none: nothing is changed by anyone, however it is spelt; what is in the record is what was refused."""

import contextlib
import json
import socket

import grpc
import psutil
import pytest
import servers

pytestmark = pytest.mark.e2e

CHANGES = [
    ("POST", "/models?url=noop.mar"),
    ("POST", "/models?url=http://127.0.0.1:9/evil.mar"),
    ("POST", "/models/"),
    ("PUT", "/models/noop?min_worker=0"),
    ("PUT", "/models/noop/1.0?min_worker=0"),
    ("PUT", "/models/noop/2.0/set-default"),
    ("PUT", "/models/noop/2.0/set%2ddefault"),
    ("DELETE", "/models/noop"),
    ("DELETE", "/models/noop/1.0"),
    ("DELETE", "/models/noop/"),
    ("PUT", "/%6dodels/noop?min_worker=0"),
    ("DELETE", "/%6D%6F%64%65%6C%73/noop"),
    ("PUT", "/models%2fnoop?min_worker=0"),
    ("PUT", "/models%2Fnoop%2F2.0%2Fset-default"),
    ("PUT", "//models/noop?min_worker=0"),
    ("PUT", "/models//noop?min_worker=0"),
    ("PUT", "/models/noop//?min_worker=0"),
    ("PUT", "/./models/noop?min_worker=0"),
    ("PUT", "/x/../models/noop?min_worker=0"),
    ("PUT", "/models/./noop?min_worker=0"),
    ("PUT", "http://127.0.0.1/models/noop?min_worker=0"),
    ("PUT", "x/models/noop?min_worker=0"),
    ("PUT", "%00/models/noop?min_worker=0"),
    ("PUT", "/models/noop#?min_worker=0"),
    ("PUT", "/models/noop?x=1#&min_worker=0"),
    ("PUT", "/models/noop;a=b?min_worker=0"),
    ("PUT", "/models\\noop?min_worker=0"),
    ("PUT", "/MODELS/noop?min_worker=0"),
    ("PUT", "/%256dodels/noop?min_worker=0"),
    ("PUT", "/models/noop?min_worker=0;synchronous=true"),
    ("POST", "/workflows?url=http://127.0.0.1:9/evil.war"),
    ("POST", "/%77orkflows?url=http://127.0.0.1:9/evil.war"),
    ("DELETE", "/workflows/any"),
    ("GET", "/token?type=management"),
    ("POST", "/token"),
    ("PATCH", "/models/noop"),
    ("TRACE", "/models/noop"),
    ("CONNECT", "/models/noop"),
    ("FOO", "/models/noop"),
]


def raw(port: int, data: bytes) -> bytes:
    """What comes back for these bytes, until the connection is closed or nothing comes any more."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection,
        contextlib.suppress(TimeoutError, ConnectionResetError),
    ):
        connection.sendall(data)
        while part := connection.recv(65536):
            answer += part
    return answer


def state(server: servers.Server):
    """Every model with its versions, workers and default: what a change would change."""
    names = [model["modelName"] for model in server.manage("GET", "/models?limit=100").json["models"]]
    return {
        name: [
            {key: version[key] for key in ("modelVersion", "minWorkers", "maxWorkers", "modelUrl")}
            | {"workers": sorted(worker["pid"] for worker in version["workers"]), "default": default(server, name)}
            for version in server.manage("GET", f"/models/{name}/all").json
        ]
        for name in names
    }


def default(server: servers.Server, name: str) -> str:
    return server.manage("GET", f"/models/{name}").json[0]["modelVersion"]


def test_no_spelling_of_a_change_is_let_through_and_each_is_on_record(guarded):
    before = state(guarded)
    for method, target in CHANGES:
        for port in (guarded.management, guarded.inference, guarded.metrics):
            head = f"{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            answer = raw(port, head.encode())
            status = int(answer.split()[1])
            assert status in {400, 403, 404, 405}, (method, target, port, answer)
            document = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert document["code"] == status
            assert set(document) == {"code", "type", "message"}
            assert b"x-request-id" in answer.lower()
    assert state(guarded) == before
    refused = [entry for entry in guarded.audit() if entry["event"] == "refusal"]
    assert len(refused) >= 3 * len(CHANGES)
    assert all(entry["rule"] and entry["reason"] and entry["request_id"] for entry in refused)


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "Referer: http://x/token",
        "Upgrade: h2c",
        "X-Original-URL: /models/noop",
    ],
)
def test_no_header_turns_a_read_into_a_change(guarded, header):
    before = state(guarded)
    answer = raw(
        guarded.management, f"GET /models/noop HTTP/1.1\r\nHost: h\r\n{header}\r\nConnection: close\r\n\r\n".encode()
    )
    assert int(answer.split()[1]) in {200, 400, 501}
    assert state(guarded) == before


def test_stocks_own_refusals_have_stocks_own_bodies(guarded, stock):
    closed = stock.manage("PATCH", "/models/noop")
    for method, target in (("POST", "/models?url=noop.mar"), ("DELETE", "/models/noop")):
        answer = guarded.manage(method, target)
        assert (answer.status, answer.body) == (405, closed.body)


def test_a_request_smuggled_in_a_body_is_never_run(guarded):
    before = state(guarded)
    hidden = b"PUT /models/noop?min_worker=0 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    length = str(len(hidden)).encode()
    for head in (
        b"Expect: something-else\r\nContent-Length: " + length,
        b"Content-Length: " + length + b"\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: " + length,
        b"Transfer-Encoding: xchunked\r\nContent-Length: 0",
        b"Transfer-Encoding: chunked, identity",
        b"Content-Length: 0\r\nContent-Length: " + length,
        b"Content-Length: +" + length,
        b"Content-Length: 0\nContent-Length: " + length,
        b"Content-Length: 0\r\n X-Folded: yes",
    ):
        for port in (guarded.management, guarded.inference):
            answers = raw(port, b"POST /predictions/noop HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n\r\n" + hidden)
            assert b"Processing worker updates" not in answers
    assert state(guarded) == before


def test_reading_stays_possible(guarded):
    assert guarded.manage("GET", "/models").status == 200
    assert guarded.manage("GET", "/models/noop").json[0]["modelName"] == "noop"
    assert len(guarded.manage("GET", "/models/noop/all").json) == 2
    assert guarded.manage("GET", "/workflows").status == 200


MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"
NAMED_NOOP = b"\x0a\x04noop"  # the first field of each of these messages, a string: management.proto
CALLS = {"ScaleWorker": NAMED_NOOP, "SetDefault": NAMED_NOOP + b"\x12\x032.0", "UnregisterModel": NAMED_NOOP}


def called(port: int, method: str, message: bytes, key: str | None) -> grpc.StatusCode:
    """How a gRPC call ends."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        metadata = [("authorization", f"Bearer {key}")] if key else []
        try:
            channel.unary_unary(MANAGEMENT + method)(message, metadata=metadata, timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_local_process_that_finds_torchserves_own_grpc_ports_gets_nothing(guarded, key):
    before = state(guarded)
    frontend = psutil.Process(guarded.status()["frontend_pid"])
    ports = [c.laddr.port for c in frontend.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert len(ports) == 2
    ends = {called(port, method, message, key) for port in ports for method, message in CALLS.items()}
    # One port is inference and does not know these calls; the other is management and refuses them.
    assert ends == {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED}
    assert state(guarded) == before


def test_many_refusals_do_not_keep_anybody_from_inference(guarded):
    for _ in range(200):
        guarded.manage("DELETE", "/models/noop")
    assert guarded.ask("POST", "/predictions/noop", b"x").body == b"x"
