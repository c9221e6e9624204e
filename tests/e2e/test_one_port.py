"""One port for everything: a guarded server and a stock one are asked the same, and every difference has a name."""

import json
import socket
from pathlib import Path

import pytest
import servers
import yaml

pytestmark = pytest.mark.e2e

CORPUS = Path(__file__).parents[1] / "corpus" / "smuggling.yaml"
BODY = b"hello"
SAME = [
    ("GET", "/ping"),
    ("HEAD", "/ping"),
    ("GET", "/"),
    ("POST", "/predictions/noop"),
    ("POST", "/predictions/noop/1.0"),
    ("POST", "/predictions/absent"),
    ("OPTIONS", "/predictions/noop"),
    ("POST", "/explanations/noop"),
    ("POST", "/noop/predict"),
    ("POST", "/noop/1.0/predict"),
    ("POST", "/invocations"),
    ("POST", "/invocations?model_name=noop"),
    ("POST", "/models/noop/invoke"),
    ("GET", "/models/noop/invoke"),
    ("POST", "/models/absent/invoke"),
    ("POST", "/v1/models/noop:predict"),
    ("POST", "/v2/models/noop/infer"),
    ("POST", "/wfpredict/absent"),
    ("POST", "/workflows/predict"),
    ("GET", "/models"),
    ("GET", "/models?limit=1"),
    ("GET", "/models/noop"),
    ("GET", "/models/absent"),
    ("OPTIONS", "/models/noop"),
    ("GET", "/v1/models/noop"),
    ("GET", "/workflows"),
    ("GET", "/workflows/absent"),
    ("GET", "/metrics"),
    ("HEAD", "/metrics"),
    ("GET", "/v2/health/live"),
    ("GET", "/absent"),
    ("GET", "/models/noop/absent/absent"),
]
# The guard's status and stock's, and why they differ.
DIFFERENT = [
    ("GET", "/models/noop/1.0", 200, 404, "stock takes four segments for a prediction that is none"),
    ("GET", "/models/noop/all", 200, 404, "the same"),
    ("OPTIONS", "/models/noop/1.0", 200, 404, "the same"),
    ("OPTIONS", "/ping", 405, 200, "probes do not send it"),
    ("DELETE", "/models/noop/invoke", 405, 200, "stock runs the model, whatever the method"),
    ("POST", "/metrics", 405, 200, "scrapers do not send it"),
    ("PUT", "/models/noop?min_worker=1", 401, 202, "a change needs the management key, though keys are off"),
    ("PUT", "/models/noop/1.0/set-default", 401, 200, "the same"),
    ("POST", "/models?url=absent.mar", 401, 404, "the same"),
    ("DELETE", "/models/absent", 401, 404, "the same"),
    ("DELETE", "/models/noop/9.9", 401, 404, "the same"),
    ("GET", "/token", 401, 404, "keys that changes need can be rotated, though keys are off"),
]


class OnePort:
    """A server whose management is on the port of inference; the port that it would have had stays free."""

    def properties(self):
        self.management = self.inference
        one = f"http://127.0.0.1:{self.inference}"
        return {**super().properties(), "inference_address": one, "management_address": one}


class Stock(OnePort, servers.Stock):
    pass


class Guarded(OnePort, servers.Guarded):
    pass


@pytest.fixture(scope="module")
def one_port_stock(listed):
    with servers.folder("tsg-1s-") as folder:
        server = Stock(folder, listed, {"load_models": "noop.mar"}, arguments=("--enable-model-api",))
        with servers.serving(server, ("noop",)):
            yield server


@pytest.fixture(scope="module")
def one_port(listed):
    settings = {"load_models": "noop.mar", "model-control-mode": "explicit"}
    with servers.folder("tsg-1g-") as folder, servers.serving(Guarded(folder, listed, settings)) as server:
        yield server


def test_without_keys_a_client_of_one_port_gets_stocks_answers(one_port, one_port_stock):
    for method, target in SAME:
        body = BODY if method == "POST" else None
        ours, theirs = (servers.comparable(server.ask(method, target, body)) for server in (one_port, one_port_stock))
        assert ours == theirs, (method, target)


def test_where_they_differ_the_guard_does_what_the_listeners_alone_would_do(one_port, one_port_stock):
    for method, target, ours, theirs, why in DIFFERENT:
        assert (one_port.ask(method, target).status, one_port_stock.ask(method, target).status) == (ours, theirs), (
            method,
            target,
            why,
        )
    described, stocks = (server.ask("OPTIONS", "/").json["paths"] for server in (one_port, one_port_stock))
    assert "/predictions/{model_name}" in described
    assert set(described) < set(stocks)
    assert "/models" not in described


def test_metrics_are_on_their_own_port_too_as_with_stock(one_port, one_port_stock):
    for server in (one_port, one_port_stock):
        assert server.ask("GET", "/metrics", port=server.metrics).status == 200


def test_with_the_management_key_models_are_managed_on_the_one_port(one_port):
    keys = json.loads((one_port.folder / "key_file.json").read_text())
    # `/token` in any line would be a key rotation to stock's management.
    headers = {"Authorization": f"Bearer {keys['management']['key']}", "Referer": "/token", "User-Agent": "a/token"}
    # The one that the server runs with, so that whatever runs after this finds what it expects.
    assert one_port.ask("PUT", "/models/noop/1.0/set-default", headers=headers).status == 200
    added = one_port.ask("POST", "/models?url=doubled.mar&model_name=token&initial_workers=0", headers=headers)
    assert added.status == 200, added.body
    assert one_port.ask("GET", "/models/token/1.0").json[0]["modelName"] == "token"
    assert one_port.ask("DELETE", "/models/token/1.0", headers=headers).status == 200
    assert one_port.ask("GET", "/models/token").status == 404
    wrong = {"Authorization": f"Bearer {keys['inference']['key']}"}
    assert one_port.ask("DELETE", "/models/noop", headers=wrong).status == 403


def said(server, raw: bytes, until: bytes) -> bytes:
    """Return what a server answers to these bytes, up to these or the end."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.inference), timeout=60) as connection:
        connection.sendall(raw)
        while until not in answer and (piece := connection.recv(65536)):
            answer += piece
    return answer


def test_a_change_that_stock_lets_be_smuggled_in_is_not_run(one_port, one_port_stock):
    rows = [row for group in yaml.safe_load(CORPUS.read_text("utf-8")).values() for row in group["rows"]]
    hidden = [row["bytes"].encode("latin-1") for row in rows if row.get("stock") == "changes"]
    assert len(hidden) == 10
    accepted = b"HTTP/1.1 202 "
    for raw in hidden:
        # The same length, and a change that leaves the server as it is.
        harmless = raw.replace(b"min_worker=0", b"min_worker=1")
        assert accepted in said(one_port_stock, harmless, accepted), raw
        answer = said(one_port, harmless, accepted)
        assert answer
        assert accepted not in answer, raw


def test_the_start_said_that_one_port_serves_all(one_port):
    assert "TSG138" in one_port.output()
    refusals = {(one["method"], one["listener"]) for one in one_port.audit() if one["event"] == "refusal"}
    assert refusals >= {("PUT", "management"), ("POST", "metrics"), ("OPTIONS", "inference")}
