"""One port for several listeners: each request is one listener's, with its rules, its key and its way upstream."""

from __future__ import annotations

import ssl

import authority
import doorway
import pytest

from torchserve_guard.access import Mode
from torchserve_guard.policy import Access
from torchserve_guard.proxy import context_of
from torchserve_guard.wire import Listener

ALL = tuple(Listener)
KEYS, NO_KEYS = True, False
END = b"Connection: close\r\n"


def request(line: str, *headers: bytes, body: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b HTTP/1.1\r\nHost: g\r\n%b%b\r\n%b" % (line.encode(), b"".join(headers), length, body)


@pytest.fixture
def door(tmp_path):
    with doorway.opened(tmp_path, Access(Mode.EXPLICIT, keys_required=KEYS), shared=ALL) as door:
        yield door


@pytest.mark.parametrize(
    ("line", "listener", "key"),
    [
        ("POST /predictions/noop", "inference", "inference"),
        ("POST /invocations", "inference", "inference"),
        ("POST /models/noop/invoke", "inference", "inference"),
        ("POST /v1/models/noop:predict", "inference", "inference"),
        ("GET /v2/health/live", "inference", "inference"),
        ("POST /workflows/predict", "inference", "inference"),
        ("POST /token/predict", "inference", "inference"),
        ("GET /ping", "inference", None),
        ("GET /api-description", "inference", None),
        ("OPTIONS /", "inference", None),
        ("GET /models", "management", "management"),
        ("GET /models/noop", "management", "management"),
        ("GET /models/noop/1.0", "management", "management"),
        ("GET /models/noop/all", "management", "management"),
        ("GET /v1/models/noop", "management", "management"),
        ("OPTIONS /models/noop", "management", "management"),
        ("GET /workflows", "management", "management"),
        ("PUT /models/noop?min_worker=2", "management", "management"),
        ("PUT /models/noop/1.0/set-default", "management", "management"),
        ("DELETE /models/noop/1.0", "management", "management"),
        ("GET /metrics", "metrics", None),
    ],
)
def test_each_request_goes_to_its_own_listener_with_its_own_key(door, line, listener, key):
    for kind in (None, "inference", "management", "API"):
        credential = [door.bearer(kind)] if kind else []
        answers = doorway.statuses(door.say(request(line, *credential, END)))
        heard = door.heard()
        if key not in {None, kind}:
            assert answers == [401 if kind is None else 403]
            assert heard == []
            continue
        assert answers == [200]
        assert [(one.listener, one.line) for one in heard] == [(listener, line)]
        token = [] if listener == "metrics" else [f"Bearer upstream-{listener}"]
        assert heard[0].header("authorization") == token


def test_requests_of_all_listeners_on_one_connection_do_not_mix(door):
    inference, management = door.bearer("inference"), door.bearer("management")
    secret = b"X-Mine: for the handler\r\n"
    said = [
        request("POST /predictions/noop", inference, secret, body=b"one"),
        request("GET /models", management, secret),
        request("GET /models", inference, secret),  # the same target, and not the key for it
        request("POST /predictions/noop", management, secret, body=b"two"),
        request("GET /metrics", secret),
        request("POST /predictions/noop", inference, secret, body=b"one"),
        request("GET /absent", inference),
        request("GET /models", management, secret, END),
    ]
    assert doorway.statuses(door.say(b"".join(said))) == [200, 200, 403, 403, 200, 200, 404, 200]
    heard = door.heard()
    assert [(one.listener, one.line, one.body) for one in heard] == [
        ("inference", "POST /predictions/noop", b"one"),
        ("inference", "POST /predictions/noop", b"one"),
        ("management", "GET /models", b""),
        ("management", "GET /models", b""),
        ("metrics", "GET /metrics", b""),
    ]
    assert {one.listener for one in heard if one.header("x-mine")} == {"inference"}


def test_the_same_head_again_goes_the_same_way(door):
    """A head that was just read is not read again: its way must be remembered with it."""
    predict = request("GET /predictions/noop", door.bearer("inference"))
    models = request("GET /models", door.bearer("management"))
    absent = request("GET /absent/absent/absent")
    said = [predict, predict, models, models, absent, models, predict, absent, predict, request("GET /ping", END)]
    assert doorway.statuses(door.say(b"".join(said))) == [200, 200, 200, 200, 404, 200, 200, 404, 200, 200]
    told = [(one.listener, one.line) for one in door.heard()]
    assert told.count(("inference", "GET /predictions/noop")) == 4
    assert told.count(("management", "GET /models")) == 3
    assert len(told) == 8


def test_management_headers_pass_an_allow_list_there_too(door):
    said = request("GET /models", door.bearer("management"), b"Referer: /token\r\nCookie: a=b\r\nAccept: */*\r\n", END)
    assert doorway.statuses(door.say(said)) == [200]
    (heard,) = door.heard()
    assert heard.header("accept") == ["*/*"]
    assert b"/token" not in heard.head
    assert b"ookie" not in heard.head


@pytest.mark.parametrize(
    "line",
    [
        "POST /models?url=noop.mar",
        "DELETE /models/noop",
        "PUT /models/noop?min_worker=0",
        "PUT /models/noop/1.0/set-default",
        "POST /workflows?url=a.war",
        "GET /token?type=management",
    ],
)
def test_a_change_asks_for_the_management_key_whatever_keys_say(tmp_path, line):
    with doorway.opened(tmp_path, Access(Mode.EXPLICIT, keys_required=NO_KEYS), shared=ALL) as door:
        assert doorway.statuses(door.say(request(line, END))) == [401]
        assert doorway.statuses(door.say(request(line, door.bearer("inference"), END))) == [403]
        assert door.heard() == []


def test_in_mode_none_nothing_changes_there_and_each_try_is_on_record_under_management(tmp_path):
    with doorway.opened(tmp_path, shared=ALL) as door:
        tries = ["DELETE /models/noop", "PUT /models/noop?min_worker=0", "POST /models?url=noop.mar"]
        for line in tries:
            assert doorway.statuses(door.say(request(line, door.bearer("management"), END)))[0] in {403, 405}
        assert door.heard() == []
        assert [(one["method"], one["listener"]) for one in door.entries("refusal")] == [
            (line.split()[0], "management") for line in tries
        ]


@pytest.mark.parametrize(
    "shared", [ALL[:2], ALL[1:], (ALL[0], ALL[2])], ids=lambda shared: "+".join(one.value for one in shared)
)
def test_two_may_share_and_the_third_is_not_there(tmp_path, shared):
    mine = {"inference": "GET /predictions/noop", "management": "GET /models", "metrics": "GET /metrics"}
    with doorway.opened(tmp_path, shared=shared) as door:
        (alone,) = set(ALL) - set(shared)
        for listener in ALL:
            answers = doorway.statuses(door.say(request(mine[listener.value], END), listener=shared[0]))
            assert answers == [200 if listener in shared else 404]
            assert [one.listener for one in door.heard()] == [listener.value] * (listener in shared)
        assert doorway.statuses(door.say(request(mine[alone.value], END), listener=alone)) == [200]
        assert [one.listener for one in door.heard()] == [alone.value]


def test_what_is_no_request_is_refused_before_it_has_a_way(door):
    for raw in (
        b"NONSENSE\r\n\r\n",
        b"GET  /models HTTP/1.1\r\nHost: g\r\n\r\n",
        b"GET http:/ HTTP/1.1\r\nHost: g\r\n\r\n",
    ):
        assert doorway.statuses(door.say(raw)) == [400]
    assert door.heard() == []


def test_over_tls_one_port_is_as_in_clear_and_a_certificate_stands_for_both_keys(tmp_path):
    root = authority.root()
    server, client = root.issue(), root.issue("operator", usage=authority.CLIENT)
    (tmp_path / "client.pem").write_bytes(client.key + client.chain)
    trusting = ssl.create_default_context(cadata=root.pem.decode())
    known = ssl.create_default_context(cadata=root.pem.decode())
    known.load_cert_chain(tmp_path / "client.pem")
    access = Access(Mode.EXPLICIT, keys_required=KEYS)
    with doorway.opened(tmp_path, access, shared=ALL, tls=context_of(server.chain, server.key, root.pem)) as door:
        lines = ["GET /predictions/noop", "GET /models", "PUT /models/noop/1.0/set-default", "GET /metrics"]
        for context, wanted in ((trusting, [401, 401, 401, 200]), (known, [200, 200, 200, 200])):
            door.secured = lambda raw, context=context: context.wrap_socket(raw, server_hostname="localhost")
            said = b"".join(request(line) for line in lines) + request("GET /ping", END)
            assert doorway.statuses(door.say(said)) == [*wanted, 200]
        heard = [(one.listener, one.line) for one in door.heard()]
        assert ("management", "PUT /models/noop/1.0/set-default") in heard
        assert len(heard) == 7
