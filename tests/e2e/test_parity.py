"""A client of a stock server notices nothing: same status, same body, same headers that matter."""

import json

import pytest
import servers

pytestmark = pytest.mark.e2e

JSON = {"Content-Type": "application/json"}
NUMBERS = b"[1, 2, 3, 4]"
INFERENCE = [
    ("GET", "/ping", None, {}),
    ("GET", "/ping/", None, {}),
    ("HEAD", "/ping", None, {}),
    ("POST", "/predictions/noop", b"hello", {}),
    ("PUT", "/predictions/noop", b"hello", {}),
    ("GET", "/predictions/noop?data=from-query", None, {}),
    ("POST", "/predictions/noop/1.0", b"one", {}),
    ("POST", "/predictions/noop/2.0", b"two", {}),
    ("POST", "/predictions/noop/3.0", b"none", {}),
    ("POST", "/predictions/absent", b"none", {}),
    ("POST", "/predictions/doubled", NUMBERS, JSON),
    ("POST", "/predictions/noop", b"data=form+field", {"Content-Type": "application/x-www-form-urlencoded"}),
    (
        "POST",
        "/predictions/noop",
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\npart\r\n--b--\r\n',
        {"Content-Type": "multipart/form-data; boundary=b"},
    ),
    ("POST", "/explanations/noop", b"why", {}),
    ("POST", "/noop/predict", b"legacy", {}),
    ("POST", "/noop/1.0/predict", b"legacy", {}),
    ("POST", "/models/noop/invoke", b"sagemaker", {}),
    ("POST", "/invocations?model_name=noop", b"sagemaker", {}),
    ("POST", "/v1/models/noop:predict", b"kserve", {}),
    ("POST", "/v1/models/absent:predict", b"kserve", {}),
    ("POST", "/v2/models/noop/infer", b"kserve2", {}),
    ("POST", "/wfpredict/absent", b"x", {}),
    ("GET", "/api-description", None, {}),
    ("OPTIONS", "/", None, {}),
    ("OPTIONS", "/predictions/noop", None, {}),
    ("GET", "/", None, {}),
    ("GET", "/absent", None, {}),
    ("GET", "/predictions", None, {}),
]
MANAGEMENT = [
    ("GET", "/models"),
    ("GET", "/models/"),
    ("GET", "/models?limit=1"),
    ("GET", "/models?limit=2&next_page_token=1"),
    ("GET", "/models/noop"),
    ("GET", "/models/noop/1.0"),
    ("GET", "/models/noop/2.0"),
    ("GET", "/models/noop/all"),
    ("GET", "/models/noop/3.0"),
    ("GET", "/models/absent"),
    ("GET", "/models/%6eoop"),
    ("OPTIONS", "/models/noop"),
    ("OPTIONS", "/models/noop/1.0"),
    ("HEAD", "/models"),
    ("HEAD", "/models/noop"),
    ("GET", "/v1/models/noop"),
    ("GET", "/workflows"),
    ("GET", "/workflows/absent"),
    ("GET", "/api-description"),
    ("OPTIONS", "/"),
    ("GET", "/absent"),
]
METRICS = [("GET", "/metrics"), ("HEAD", "/metrics"), ("OPTIONS", "/"), ("GET", "/api-description"), ("GET", "/absent")]


@pytest.mark.parametrize(("method", "target", "body", "headers"), INFERENCE, ids=lambda value: str(value)[:40])
def test_inference_answers_as_stock_does(stock, guarded, method, target, body, headers):
    assert servers.comparable(guarded.ask(method, target, body, headers=headers)) == servers.comparable(
        stock.ask(method, target, body, headers=headers)
    )


@pytest.mark.parametrize(("method", "target"), MANAGEMENT)
def test_management_reads_as_stock_does(stock, guarded, method, target):
    assert servers.comparable(guarded.manage(method, target)) == servers.comparable(stock.manage(method, target))


@pytest.mark.parametrize(("method", "target"), METRICS)
def test_metrics_read_as_stock_does(stock, guarded, method, target):
    ours, theirs = (servers.comparable(server.ask(method, target, port=server.metrics)) for server in (guarded, stock))
    assert ours == theirs


def test_a_handler_sees_the_headers_of_the_client_and_no_credential(guarded, stock):
    """`mirror` tells its worker's circumstances: nothing of the guard's keys may be among them."""
    told = json.loads(guarded.ask("POST", "/predictions/mirror", b"x", headers={"Authorization": "Bearer mine"}).body)
    assert "mine" not in json.dumps(told)
    names = {name for name in told["environment"] if "KEY" in name or "TOKEN" in name or name.startswith("TSGUARD")}
    assert names == {"TSGUARD_ROSTER"}  # the digests of the model's own members (handlers/verified.py)
    assert told["umask"] == 0o077


def test_one_connection_serves_many_requests_in_order(guarded):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", guarded.inference, timeout=10)
    local = None
    for number in range(50):
        connection.request("POST", "/predictions/noop", str(number))
        response = connection.getresponse()
        assert response.read() == str(number).encode()
        local = local or connection.sock.getsockname()
        assert connection.sock.getsockname() == local
    connection.close()


def test_an_answer_names_its_request(guarded):
    given = guarded.ask("POST", "/predictions/noop", b"x", headers={"X-Request-Id": "my-id-1"})
    assert given.headers["x-request-id"] == "my-id-1"
    assert guarded.ask("GET", "/ping").headers["x-request-id"]
    odd = guarded.ask("GET", "/ping", headers={"X-Request-Id": "no good id\t" + "x" * 300})
    assert odd.headers["x-request-id"] != "no good id"


@pytest.fixture(scope="module")
def with_keys(listed):
    """A guarded server that asks for keys, as a configuration without `disable_token_authorization` does."""
    with servers.folder("tsg-k-") as folder:
        server = servers.Guarded(folder, listed, {"load_models": "noop.mar", "disable_token_authorization": "false"})
        with servers.serving(server):
            yield server


def bearer(server: servers.Guarded, kind: str) -> dict[str, str]:
    return {"Authorization": "Bearer " + json.loads((server.folder / "key_file.json").read_text())[kind]["key"]}


def test_keys_open_what_they_open_with_stock(with_keys):
    for kind, inference, management in (("inference", 200, 403), ("management", 403, 200), ("API", 403, 403)):
        assert with_keys.ask("POST", "/predictions/noop", b"x", headers=bearer(with_keys, kind)).status == inference
        assert with_keys.manage("GET", "/models", headers=bearer(with_keys, kind)).status == management
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}):
        refused = with_keys.ask("POST", "/predictions/noop", b"x", headers=headers)
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert with_keys.manage("GET", "/models", headers=headers).status == 401


def test_health_and_metrics_need_no_key(with_keys):
    assert with_keys.ask("GET", "/ping").status == 200
    assert with_keys.ask("GET", "/metrics", port=with_keys.metrics).status == 200
    assert with_keys.ask("GET", "/api-description").status == 200


def test_no_key_of_a_client_or_of_torchserve_is_in_any_log(with_keys):
    keys = json.loads((with_keys.folder / "key_file.json").read_text())
    with_keys.manage("GET", "/models", headers=bearer(with_keys, "management"))
    with_keys.manage("DELETE", "/models/noop", headers=bearer(with_keys, "management"))
    written = "".join(
        path.read_text(errors="replace")
        for path in with_keys.folder.rglob("*")
        if path.is_file() and path.name != "key_file.json"
    )
    assert not [kind for kind, key in keys.items() if key["key"] in written]
    assert (with_keys.folder / "key_file.json").stat().st_mode & 0o077 == 0
