"""Which models answer in which form over gRPC: asked for another they lose a worker, unless the guard was told."""

from __future__ import annotations

import threading
import time

import grpc
import messages
import psutil
import pytest
import servers

pytestmark = pytest.mark.e2e

CODE = grpc.StatusCode
PREDICT, STREAM, CONVERSE = (
    messages.INFERENCE + name for name in ("Predictions", "StreamPredictions", "StreamPredictions2")
)
INFER = messages.OPEN_INFERENCE + "ModelInfer"
ARCHIVES = ("noop.mar", "counting.mar", "summing.mar", "kserved.mar")
SETTINGS = {"load_models": ",".join(ARCHIVES), "ts_open_inference_protocol": "true"}
NAMED = {
    "guard.stream_models": "counting, summing",
    "guard.kserve_models": "kserved",
    "guard.unary_models": "noop, kserved",
}


@pytest.fixture(scope="module")
def everywhere(listed):
    """A guard that was told nothing: every model may be asked for every form, as in stock."""
    with servers.folder("tsg-f-") as folder, servers.serving(servers.Guarded(folder, listed, SETTINGS)) as server:
        yield server


@pytest.fixture(scope="module", params=["1", "2"], ids=["one-process", "several-processes"])
def told(request, listed):
    """A guard that was told which models answer in which form."""
    settings = {**SETTINGS, **NAMED, "guard.workers": request.param}
    with servers.folder("tsg-f-") as folder, servers.serving(servers.Guarded(folder, listed, settings)) as server:
        yield server


def asking(path: str, model: str, data: bytes = b"3") -> bytes:
    if path == INFER:
        tensor = {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1.5, 2.0]}}
        return messages.request(path, model_name=model, id="7", inputs=[tensor])
    more = {"sequence_id": "a"} if path == CONVERSE else {}
    return messages.request(path, model_name=model, input={"data": data}, **more)


def said(server: servers.Server, path: str, *requests: bytes) -> tuple[list[bytes], grpc.StatusCode, str]:
    """What comes back: answers, code, details. In a conversation each thing is said after an answer."""
    answered = threading.Semaphore(1)

    def in_turn():
        for request in (*requests, None):
            answered.acquire(timeout=30)
            if request is not None:
                yield request

    answers = []
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc[0]}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        if path == CONVERSE:
            call = channel.stream_stream(path)(in_turn(), timeout=30)
        else:
            call = channel.unary_stream(path)(*requests, timeout=30)
        try:
            for answer in call:
                answers.append(messages.answer(path, answer))
                answered.release()
        except grpc.RpcError as error:
            return answers, error.code(), error.details()
    return answers, CODE.OK, ""


def workers(server: servers.Server, model: str) -> list[tuple[int, str]]:
    return [(one["pid"], one["status"]) for one in server.manage("GET", f"/models/{model}").json[0]["workers"]]


def pids(server: servers.Server, model: str) -> list[int]:
    """The processes of a model's workers, once all are ready."""
    deadline = time.monotonic() + 60
    found = workers(server, model)
    while {status for _, status in found} != {"READY"}:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
        found = workers(server, model)
    return [pid for pid, _ in found]


def predicted(server: servers.Server, model: str, data: bytes) -> bytes:
    """What Predictions answers."""
    (answer,), code, _ = said(server, PREDICT, asking(PREDICT, model, data))
    assert code is CODE.OK
    return answer.prediction


@pytest.mark.parametrize("path", [STREAM, INFER], ids=["StreamPredictions", "ModelInfer"])
def test_where_every_model_may_be_asked_one_call_ends_a_worker_as_in_stock(everywhere, path):
    before = pids(everywhere, "noop")
    _, code, details = said(everywhere, path, asking(path, "noop"))
    assert (code, details.splitlines()[0]) == (CODE.INTERNAL, "Worker died.")
    deadline = time.monotonic() + 60
    while (after := pids(everywhere, "noop")) == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not set(after) & set(before)
    assert predicted(everywhere, "noop", b"back") == b"back"


def test_where_every_model_may_be_asked_whole_one_call_ends_a_worker_for_ever_as_in_stock(everywhere):
    (before,) = pids(everywhere, "counting")
    answers, code, _ = said(everywhere, PREDICT, asking(PREDICT, "counting"))
    assert ([one.prediction for one in answers], code) == ([b"1"], CODE.OK)
    time.sleep(10)  # a worker that is missed is back after three
    # TorchServe does not miss it: it is gone, none has taken its place, and the model is said to be ready.
    assert workers(everywhere, "counting") == [(before, "READY")]
    assert not psutil.pid_exists(before)


@pytest.mark.parametrize(
    ("path", "model", "rule"),
    [
        (STREAM, "noop", "grpc.stream-models"),
        (STREAM, "kserved", "grpc.stream-models"),
        (CONVERSE, "noop", "grpc.stream-models"),
        (INFER, "noop", "grpc.kserve-models"),
        (INFER, "counting", "grpc.kserve-models"),
        (PREDICT, "counting", "grpc.unary-models"),
    ],
)
def test_where_models_are_named_no_other_is_asked_and_none_loses_a_worker(told, path, model, rule):
    before, entries = {name: pids(told, name) for name in ("noop", "counting", "kserved")}, len(told.audit())
    for _ in range(3):
        answers, code, details = said(told, path, asking(path, model))
        assert (answers, code) == ([], CODE.UNIMPLEMENTED)
        assert details.endswith("here; use StreamPredictions." if path == PREDICT else "here; use Predictions.")
        assert predicted(told, "noop", b"goes on") == b"goes on"
    time.sleep(0.5)  # a worker that is told to end would be seen to by now
    assert {name: pids(told, name) for name in before} == before
    refused = [entry for entry in told.audit()[entries:] if entry["event"] == "refusal"]
    assert [(entry["rule"], entry["target"]) for entry in refused] == [(rule, path)] * 3


def test_the_models_that_are_named_answer_as_before(told):
    before = {name: pids(told, name) for name in ("counting", "summing", "kserved")}
    pieces, code, _ = said(told, STREAM, asking(STREAM, "counting"))
    assert ([piece.prediction for piece in pieces], code) == ([b"1", b"2", b"3"], CODE.OK)
    sums, code, _ = said(told, CONVERSE, *(asking(CONVERSE, "summing", data) for data in (b"1", b"2", b"3")))
    assert ([one.prediction for one in sums], code) == ([b"1", b"3", b"6"], CODE.OK)
    (answer,), code, _ = said(told, INFER, asking(INFER, "kserved"))
    assert (answer.id, answer.model_name, code) == ("7", "kserved", CODE.OK)
    assert list(answer.outputs[0].contents.fp32_contents) == [1.5, 2.0]
    assert {name: pids(told, name) for name in before} == before


def test_a_conversation_that_turns_to_a_model_that_is_not_named_ends_there(told):
    before = pids(told, "noop")
    answers, code, _ = said(told, CONVERSE, asking(CONVERSE, "summing", b"1"), asking(CONVERSE, "noop", b"2"))
    assert (len(answers), code) == (1, CODE.UNIMPLEMENTED)
    assert predicted(told, "noop", b"goes on") == b"goes on"
    assert pids(told, "noop") == before
