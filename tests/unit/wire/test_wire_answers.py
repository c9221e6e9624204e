"""Refusals look like TorchServe's own errors, byte for byte."""

import json

import pytest

from torchserve_guard.errors import BadRequest, Forbidden, MethodNotAllowed, NotFound
from torchserve_guard.wire import METHOD_NOT_ALLOWED, Listener, classify, refusal_body


def test_a_405_is_stocks_own():
    with pytest.raises(MethodNotAllowed) as caught:
        classify(Listener.MANAGEMENT, "PATCH", b"/models")
    assert refusal_body(caught.value) == (
        b'{\n  "code": 405,\n  "type": "MethodNotAllowedException",\n'
        b'  "message": "Requested method is not allowed, please refer to API document."\n}\n'
    )
    assert refusal_body(MethodNotAllowed(METHOD_NOT_ALLOWED)) == refusal_body(caught.value)


def test_a_404_is_stocks_own():
    with pytest.raises(NotFound) as caught:
        classify(Listener.INFERENCE, "GET", b"/nothing/here")
    assert refusal_body(caught.value) == (
        b'{\n  "code": 404,\n  "type": "ResourceNotFoundException",\n'
        b'  "message": "Requested resource is not found, please refer to API document."\n}\n'
    )


def test_the_client_is_told_the_message_and_not_the_reason_or_the_rule():
    body = json.loads(refusal_body(Forbidden("no", reason="because of `x`", rule="policy.y")))
    assert body == {"code": 403, "type": "ForbiddenException", "message": "no"}


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ('a "b" \\ <c> & \n', rb'"a \"b\" \\ <c> & \n"'),
        ("ä\u2028", '"ä\\u2028"'.encode()),
        ("\x01", rb'"\u0001"'),
        ("\ud800", b'"?"'),
    ],
)
def test_a_message_is_escaped_as_gson_escapes_it(message, written):
    assert b'"message": ' + written + b"\n" in refusal_body(BadRequest(message))
