"""What is being asked: the grammar of TorchServe's HTTP API, without any I/O.

`classify` reads a request line as an Operation or refuses it, `render` writes the operation's one canonical
spelling, and the header rules say what else of a message is believed and passed on. Only what is rendered here goes
upstream.
"""

from torchserve_guard.wire.answers import METHOD_NOT_ALLOWED, RESOURCE_NOT_FOUND, refusal_body
from torchserve_guard.wire.body import LONGEST_JSON
from torchserve_guard.wire.grammar import classify, listener_of, render, route_of, with_json_body
from torchserve_guard.wire.headers import AnswerHead, RequestHead, is_json, parse_answer_head, parse_request_head
from torchserve_guard.wire.parameters import verify_name
from torchserve_guard.wire.routes import ROUTES, Listener, Route

__all__ = [
    "LONGEST_JSON",
    "METHOD_NOT_ALLOWED",
    "RESOURCE_NOT_FOUND",
    "ROUTES",
    "AnswerHead",
    "Listener",
    "RequestHead",
    "Route",
    "classify",
    "is_json",
    "listener_of",
    "parse_answer_head",
    "parse_request_head",
    "refusal_body",
    "render",
    "route_of",
    "verify_name",
    "with_json_body",
]
