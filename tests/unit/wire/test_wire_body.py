"""The JSON body of a registration: what Gson would take from it, and nothing that could be taken in two ways."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchserve_guard.errors import BadRequest
from torchserve_guard.wire import Listener, classify, render, with_json_body

REGISTER = classify(Listener.MANAGEMENT, "POST", b"/models")
REGISTER_WORKFLOW = classify(Listener.MANAGEMENT, "POST", b"/workflows")


def read(body):
    return dict(with_json_body(REGISTER, body if isinstance(body, bytes) else json.dumps(body).encode()).parameters)


def test_a_body_is_read_as_the_query_would_be():
    body = {"synchronous": True, "url": "https://h/a b.mar", "model_name": "noop", "initial_workers": 2}
    operation = with_json_body(REGISTER, json.dumps(body).encode())
    query = b"/models?initial_workers=2&model_name=noop&synchronous=true&url=https://h/a%20b.mar"
    assert operation == classify(Listener.MANAGEMENT, "POST", query)
    assert str(operation.resource) == "model/noop"


def test_a_workflow_is_named_by_its_own_parameter():
    operation = with_json_body(REGISTER_WORKFLOW, b'{"url": "w.war", "workflow_name": "w"}')
    assert str(operation.resource) == "workflow/w"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"url": "a", "batch_size": "4"}', {"url": "a", "batch_size": "4"}),
        (b'{"url": "a", "batch_size": 4.0}', {"url": "a", "batch_size": "4"}),
        (b'{"url": "a", "batch_size": 4e2}', {"url": "a", "batch_size": "400"}),
        (b'{"url": "a", "synchronous": "TRUE"}', {"url": "a", "synchronous": "true"}),
        (b'{"url": "a", "model_name": 1.0}', {"url": "a", "model_name": "1.0"}),
        (b'{"url": "a", "model_name": true}', {"url": "a", "model_name": "true"}),
        (b'{"url": "a", "handler": null}', {"url": "a"}),
        (b'{"\\u0075rl": "a"}', {"url": "a"}),
        (b"{}", {}),
    ],
)
def test_scalars_are_the_text_that_gson_makes_of_them(body, expected):
    assert read(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"url"',
        b"{",
        b'{"url": "a"} {"url": "b"}',
        b'{"url": "a", "url": "b"}',
        b'{"url": null, "\\u0075rl": "b"}',
        b"{url: 'a'}",
        b'{"url": "a",}',
        b'{"url": "a"} // why',
        b'{"url": "a", "unknown": 1}',
        b'{"URL": "a"}',
        b'{"url": ["a"]}',
        b'{"url": {"a": "b"}}',
        b'{"url": ""}',
        b'{"url": "a\\u0000b"}',
        b'{"url": "\\ud800"}',
        b'{"\\ud800": "a"}',
        b'{"model_name": "../x"}',
        b'{"model_name": "\\u002fx"}',
        b'{"batch_size": 1.5}',
        b'{"batch_size": NaN}',
        b'{"batch_size": Infinity}',
        b'{"batch_size": 1e999}',
        b'{"batch_size": -1}',
        b'{"batch_size": true}',
        b'{"batch_size": "+1"}',
        b'{"initial_workers": 100000}',
        b'{"initial_workers": ' + b"9" * 5000 + b"}",
        b'{"synchronous": 1}',
        b'{"synchronous": "yes"}',
        b'{"runtime": "bash"}',
        b'\xef\xbb\xbf{"url": "a"}',
        b'{"url": "\xff"}',
        '{"url": "a"}'.encode("utf-16"),
        b'{"url": ' + b"[" * 60000,
        b'{"url": "' + b"a" * 70000 + b'"}',
        b'{"url": "' + "ä".encode() * 1500 + b'"}',
    ],
)
def test_a_body_that_could_be_taken_in_two_ways_is_refused(body):
    with pytest.raises(BadRequest) as caught:
        with_json_body(REGISTER, body)
    assert caught.value.status == 400


def test_a_query_beside_a_body_is_refused():
    with pytest.raises(BadRequest):
        with_json_body(classify(Listener.MANAGEMENT, "POST", b"/models?url=good.mar"), b'{"url": "evil.mar"}')


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_no_other_operation_takes_a_json_body(method):
    with pytest.raises(BadRequest):
        with_json_body(classify(Listener.MANAGEMENT, method, b"/models/noop"), b"{}")


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["url", "model_name", "handler", "batch_size", "synchronous", "runtime", "x"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.lists(st.text(), max_size=1),
    )
)
def test_a_body_that_is_accepted_is_rendered_as_a_query_that_means_the_same(members):
    try:
        operation = with_json_body(REGISTER, json.dumps(members).encode())
    except BadRequest:
        return
    assert classify(Listener.MANAGEMENT, *render(operation)) == operation
    assert {name for name, _ in operation.parameters} == {name for name, value in members.items() if value is not None}
