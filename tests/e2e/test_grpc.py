"""gRPC through the guard and the real TorchServe: stock's answers, and nobody's changes but those that may be."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import authority
import grpc
import messages
import psutil
import pytest
import servers

from torchserve_guard.wire.grpc.calls import CALLS

pytestmark = pytest.mark.e2e

MODELS = "noop.mar,noop_v2.mar,counting.mar,summing.mar"
READY = ("noop", "counting", "summing")
SETTINGS = {"load_models": MODELS, "ts_open_inference_protocol": "true", "max_request_size": "1000000"}
CODE = grpc.StatusCode
NOWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
def stock(listed):
    """A stock TorchServe without tokens, models managed."""
    with servers.folder("tsg-gs-") as folder:
        server = servers.Stock(folder, listed, SETTINGS, arguments=("--enable-model-api",))
        with servers.serving(server, READY):
            yield server


@pytest.fixture(scope="module")
def guarded(listed):
    """A guarded TorchServe with the same configuration, in mode none."""
    with servers.folder("tsg-gg-") as folder, servers.serving(servers.Guarded(folder, listed, SETTINGS)) as server:
        yield server


@pytest.fixture
def explicit(guard, own_store):
    """A guard in mode explicit that asks for keys, with noop 1.0 loaded, and 2.0 and doubled listed."""
    store = own_store("noop.mar", "noop_v2.mar", "doubled.mar")
    settings = {"load_models": "noop.mar", "model-control-mode": "explicit", "disable_token_authorization": "false"}
    with servers.serving(guard(store, settings)) as server:
        yield server


@contextlib.contextmanager
def channel(port: int):
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def port_of(server: servers.Server, path: str) -> int:
    return server.grpc[path.startswith(messages.MANAGEMENT)]


def said(server: servers.Server, path: str, *requests: bytes, metadata=(), timeout=30.0, port=None):
    """What comes back: the answers, the code, the details."""
    shape = {
        messages.INFERENCE + "StreamPredictions": "unary_stream",
        messages.INFERENCE + "StreamPredictions2": "both",
    }
    with channel(port or port_of(server, path)) as opened:
        answers = []
        try:
            match shape.get(path):
                case "unary_stream":
                    answers += opened.unary_stream(path)(requests[0], metadata=metadata, timeout=timeout)
                case "both":
                    answers += in_turn(opened, path, requests, metadata, timeout)
                case _:
                    answers.append(opened.unary_unary(path)(requests[0], metadata=metadata, timeout=timeout))
        except grpc.RpcError as error:
            return answers, error.code(), error.details()
    return answers, CODE.OK, ""


def in_turn(opened: grpc.Channel, path: str, requests, metadata, timeout):
    """Say one thing after the answer to the one before: TorchServe closes when its client has said all."""
    answered = threading.Semaphore(1)

    def asking():
        for request in requests:
            answered.acquire()
            yield request
        answered.acquire()

    for answer in opened.stream_stream(path)(asking(), metadata=metadata, timeout=timeout):
        answered.release()
        yield answer


def predictions(model: str, *inputs: bytes, version: str = "", sequence: str | None = None) -> list[bytes]:
    more = {"sequence_id": sequence} if sequence else {}
    path = messages.INFERENCE + "Predictions"
    return [
        messages.request(path, model_name=model, model_version=version, input={"data": data}, **more) for data in inputs
    ]


def infer(model: str, data: list[float]) -> bytes:
    path = messages.OPEN_INFERENCE + "ModelInfer"
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(data)], "contents": {"fp32_contents": data}}
    return messages.request(path, model_name=model, id="7", inputs=[tensor])


def manage(method: str, **fields) -> tuple[str, bytes]:
    return messages.MANAGEMENT + method, messages.request(messages.MANAGEMENT + method, **fields)


I, O = messages.INFERENCE, messages.OPEN_INFERENCE  # noqa: E741
ASKED = [
    (I + "Ping", b""),
    (I + "Predictions", *predictions("noop", b"hello")),
    (I + "Predictions", *predictions("noop", os.urandom(500_000))),
    (I + "Predictions", *predictions("noop", b"two", version="2.0")),
    (I + "Predictions", *predictions("noop", b"none", version="3.0")),
    (I + "Predictions", *predictions("absent", b"none")),
    (I + "StreamPredictions", *predictions("counting", b"7")),
    (I + "StreamPredictions", *predictions("absent", b"7")),
    (I + "StreamPredictions2", *predictions("summing", b"1", b"2", b"3", sequence="a")),
    (O + "ServerLive", b""),
    (O + "ServerReady", b""),
    (O + "ServerMetadata", b""),
    (O + "ModelReady", messages.request(O + "ModelReady", name="noop")),
    (O + "ModelReady", messages.request(O + "ModelReady", name="noop", version="2.0")),
    (O + "ModelReady", messages.request(O + "ModelReady", name="absent")),
    (O + "ModelMetadata", messages.request(O + "ModelMetadata", name="noop")),
    (O + "ModelInfer", infer("absent", [1.0])),
    manage("ListModels", limit=10),
    manage("ListModels"),
    manage("DescribeModel", model_name="absent"),
    manage("DescribeModel", model_name="noop", model_version="7.0"),
]


@pytest.mark.parametrize("asked", ASKED, ids=[f"{at}-{asked[0].rpartition('/')[2]}" for at, asked in enumerate(ASKED)])
def test_a_client_of_a_stock_server_notices_nothing(guarded, stock, asked):
    path, *requests = asked
    assert said(guarded, path, *requests) == said(stock, path, *requests)


def test_no_method_is_left_out():
    assert {path for path, *_ in ASKED} | {path for path, _ in CHANGES} == {call.path for call in CALLS}


def test_a_description_is_stocks_own(guarded, stock):
    def described(server: servers.Server, version: str):
        path, request = manage("DescribeModel", model_name="noop", model_version=version)
        ((answer,), code, _) = said(server, path, request)
        assert code is CODE.OK
        told = json.loads(messages.answer(path, answer).msg)
        return [{key: one[key] for key in ("modelName", "modelVersion", "modelUrl", "batchSize")} for one in told]

    for version in ("", "2.0", "all"):
        assert described(guarded, version) == described(stock, version)


def state(server: servers.Server):
    names = [model["modelName"] for model in server.manage("GET", "/models?limit=100").json["models"]]
    versions = {name: server.manage("GET", f"/models/{name}/all").json for name in names}
    workers = {
        name: [(one["modelVersion"], one["minWorkers"], [worker["pid"] for worker in one["workers"]]) for one in told]
        for name, told in versions.items()
    }
    return workers, {name: server.manage("GET", f"/models/{name}").json[0]["modelVersion"] for name in names}


CHANGES = [
    manage("RegisterModel", url="noop.mar"),
    manage("RegisterModel", url=f"http://{NOWHERE}/evil.mar"),
    manage("RegisterModel"),
    manage("UnregisterModel", model_name="noop"),
    manage("ScaleWorker", model_name="noop", min_worker=3),
    manage("SetDefault", model_name="noop", model_version="2.0"),
    (messages.MANAGEMENT + "ScaleWorker", b"\xff\xff"),
    (messages.MANAGEMENT + "SetDefault", b""),
]


def test_in_none_nobody_changes_anything_and_every_try_is_on_record(guarded):
    before, entries = state(guarded), len(guarded.audit())
    for path, request in CHANGES:
        for metadata in ((), (("authorization", "Bearer x"),), (("x-http-method-override", "PUT"),)):
            answers, code, _ = said(guarded, path, request, metadata=metadata)
            assert (answers, code) == ([], CODE.PERMISSION_DENIED)
        _, code, _ = said(guarded, path, request, port=guarded.grpc[0])
        assert code is CODE.UNIMPLEMENTED
        _, code, _ = said(guarded, path.replace("ice/", "ice//"), request, port=guarded.grpc[1])
        assert code is CODE.UNIMPLEMENTED
    assert state(guarded) == before
    refused = [entry for entry in guarded.audit()[entries:] if entry["event"] == "refusal"]
    assert len(refused) == 5 * len(CHANGES)
    assert {entry["listener"] for entry in refused} == {"grpc-management", "grpc-inference"}


def test_torchserves_own_ports_give_nothing_to_who_finds_them(guarded):
    """They are on loopback, and ask for a key that only the guard has; the client's keys are not it."""
    frontend = psutil.Process(guarded.status()["frontend_pid"])
    own = {one.laddr.port for one in frontend.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    assert len(own) == 2
    assert not own & set(guarded.grpc)
    before = state(guarded)
    for port in own:
        for path, request in [*CHANGES, (I + "Predictions", *predictions("noop", b"x")), manage("ListModels", limit=9)]:
            for metadata in ((), (("authorization", "Bearer x"),)):
                answers, code, _ = said(guarded, path, request, metadata=metadata, port=port)
                assert (answers, code in {CODE.PERMISSION_DENIED, CODE.UNIMPLEMENTED}) == ([], True)
    assert state(guarded) == before


def test_what_is_too_large_for_stock_is_refused_and_here_the_client_is_told_why(guarded, stock):
    (request,) = predictions("noop", bytes(1_100_000))
    assert said(stock, I + "Predictions", request)[1] is CODE.CANCELLED
    assert said(guarded, I + "Predictions", request)[1] is CODE.RESOURCE_EXHAUSTED
    with channel(guarded.grpc[0]) as opened, pytest.raises(grpc.RpcError) as caught:
        opened.unary_unary(I + "Predictions")(request, timeout=30, compression=grpc.Compression.Gzip)
    assert caught.value.code() is CODE.RESOURCE_EXHAUSTED


def test_a_client_that_vanishes_in_a_stream_leaves_nothing_behind(guarded):
    (request,) = predictions("counting", b"200")
    guard = psutil.Process(guarded.process.pid)
    before = len(guard.net_connections("tcp"))
    for _ in range(3):
        with channel(guarded.grpc[0]) as opened:
            stream = opened.unary_stream(I + "StreamPredictions")(request, timeout=30)
            next(stream)
    deadline = time.monotonic() + 20
    while len(guard.net_connections("tcp")) > before + 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(guard.net_connections("tcp")) <= before + 1
    assert said(guarded, I + "Predictions", *predictions("noop", b"still here"))[1] is CODE.OK


def key(server: servers.Guarded, kind: str):
    document = json.loads((server.folder / "key_file.json").read_text())
    return (("authorization", f"Bearer {document[kind]['key']}"),)


def test_in_explicit_models_are_managed_with_the_key_and_on_record(explicit):
    management, inference = key(explicit, "management"), key(explicit, "inference")

    def done(method: str, metadata=management, **fields) -> str:
        path, request = manage(method, **fields)
        answers, code, details = said(explicit, path, request, metadata=metadata)
        return messages.answer(path, answers[0]).msg if code is CODE.OK else f"{code.name} {details}"

    for metadata in ((), (("authorization", "Bearer wrong"),)):
        assert done("RegisterModel", metadata, url="doubled.mar").startswith(
            "UNAUTHENTICATED Token Authorization failed"
        )
    assert done("RegisterModel", inference, url="doubled.mar").startswith("PERMISSION_DENIED")
    assert done("RegisterModel", management * 2, url="doubled.mar").startswith("INVALID_ARGUMENT")
    for fields in (
        {"url": f"http://{NOWHERE}/noop_v2.mar"},
        {"url": "../noop_v2.mar"},
        {"url": "/etc"},
        {"url": "noop_v2.mar", "handler": "/tmp/evil.py:run"},
        {"url": "noop_v2.mar", "runtime": "LSP"},
        {"url": "noop_v2.mar", "s3_sse_kms": True},
    ):
        assert done("RegisterModel", **fields).startswith("PERMISSION_DENIED")
    assert done("DescribeModel", model_name="noop", customized=True).startswith("INVALID_ARGUMENT")
    unknown = messages.request(messages.MANAGEMENT + "RegisterModel", url="doubled.mar") + b"\x78\x01"
    assert (
        said(explicit, messages.MANAGEMENT + "RegisterModel", unknown, metadata=management)[1] is CODE.INVALID_ARGUMENT
    )

    registered = done("RegisterModel", url="noop_v2.mar", initial_workers=1, synchronous=True)
    assert registered == 'Model "noop" Version: 2.0 registered with 1 initial workers'
    scaled = done("ScaleWorker", model_name="noop", model_version="2.0", min_worker=2, synchronous=True)
    assert scaled == "Workers scaled to 2 for model: noop, version: 2.0"
    switched = done("SetDefault", model_name="noop", model_version="2.0")
    assert switched == 'Default version successfully updated for model "noop" to "2.0"'
    assert done("SetDefault", model_name="noop").startswith("NOT_FOUND Model version  does not exist for model noop")
    assert done("UnregisterModel", model_name="noop", model_version="1.0") == 'Model "noop" unregistered'
    assert done("UnregisterModel", model_name="noop", model_version="1.0").startswith("NOT_FOUND")

    predicted = said(explicit, I + "Predictions", *predictions("noop", b"x"), metadata=inference)
    assert messages.answer(I + "Predictions", predicted[0][0]).prediction == b"x"
    assert said(explicit, I + "Predictions", *predictions("noop", b"x"))[1] is CODE.UNAUTHENTICATED
    assert [(model["model"], model["version"]) for model in explicit.status()["models"]] == [("noop", "2.0")]

    deadline = time.monotonic() + 10
    while explicit.audit()[-2]["event"] != "outcome" and time.monotonic() < deadline:
        time.sleep(0.02)
    mine = [entry for entry in explicit.audit() if entry.get("listener") == "grpc-management"]
    granted = [entry["action"] for entry in mine if entry["event"] == "outcome" and entry["status"] == 200]
    assert granted == ["register-model", "scale-model", "set-default", "unregister-model"]
    secret = management[0][1].removeprefix("Bearer ")
    assert secret not in (explicit.state / "audit.jsonl").read_text() + explicit.output()


def test_a_port_that_is_taken_is_told_at_once(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    with socket.create_server(("127.0.0.1", server.grpc[1])):
        server.launch()
        assert server.wait(30) == 2
    assert f"grpc_management_port `{server.grpc[1]}`" in server.output()
    assert "cannot listen there" in server.output()


def test_ports_0_leave_grpc_closed(guard, listed):
    server = guard(listed, {"load_models": "noop.mar", "grpc_inference_port": "0", "grpc_management_port": "0"})
    with servers.serving(server):
        assert set(server.status()["listeners"]) == {"inference", "management", "metrics"}
        owned = {one.laddr.port for one in psutil.Process(server.process.pid).net_connections("tcp")}
        assert len(owned) == 3
        maps = subprocess.run(["cat", f"/proc/{server.process.pid}/maps"], capture_output=True, text=True, check=True)
        assert "cygrpc" not in maps.stdout


def test_over_tls_with_torchserves_own_keys_and_new_certificates_without_a_restart(guard, listed, place):
    first, second = authority.root("First"), authority.root("Second")
    certificate, key_file = first.issue().written(place)
    settings = {
        "load_models": "noop.mar",
        "enable_grpc_ssl": "true",
        "certificate_file": str(certificate),
        "private_key_file": str(key_file),
    }
    (request,) = predictions("noop", b"hello")

    def predicted(root: authority.Issued) -> bool:
        options = [("grpc.use_local_subchannel_pool", 1)]
        credentials = grpc.ssl_channel_credentials(root.pem)
        with grpc.secure_channel(f"127.0.0.1:{server.grpc[0]}", credentials, options) as opened:
            try:
                return b"hello" in opened.unary_unary(I + "Predictions")(request, timeout=5)
            except grpc.RpcError:
                return False

    with servers.serving(guard(listed, settings)) as server:
        assert predicted(first)
        assert not predicted(second)
        assert said(server, I + "Predictions", request, timeout=5)[1] is not CODE.OK
        second.issue().written(place)
        server.signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while not predicted(second):
            assert time.monotonic() < deadline, server.output()[-3000:]
        assert not predicted(first)
