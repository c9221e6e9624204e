"""A model is asked for an answer in pieces, or for one of KServe's, where it is named as one that gives it."""

import pytest

from torchserve_guard.access import INFERENCE, Action, Operation, Resource
from torchserve_guard.proxy.grpc.forms import ASKED_FOR, Forms, NotInThisForm
from torchserve_guard.settings.keys import KEYS
from torchserve_guard.wire.grpc.calls import CALLS, METHOD, Call
from torchserve_guard.wire.grpc.status import CODES, refusal_status

PIECES = ("InferenceAPIsService/StreamPredictions", "InferenceAPIsService/StreamPredictions2")
WHOLE = "InferenceAPIsService/Predictions"
INFER = "GRPCInferenceService/ModelInfer"
ASKING = [call for call in CALLS if call.action in INFERENCE]


def operation(route: str, model: str | None, version: str | None = None) -> Operation:
    return Operation(Action.INFER, Resource("model", model, version), route, method=METHOD)


def test_every_call_that_asks_a_model_has_a_form():
    assert set(ASKED_FOR) == {call.route for call in ASKING if call.named_by == "model_name"}


def test_every_key_that_is_told_is_one():
    told = {key for key, _, _ in ASKED_FOR.values()}
    assert told == {f"guard.{form}_models" for form in ("stream", "kserve", "unary")}
    assert told <= set(KEYS)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.method)
def test_without_names_every_model_is_asked_as_in_stock(call: Call):
    Forms().verify(operation(call.route, "m"))


@pytest.mark.parametrize("version", [None, "1.0"])
@pytest.mark.parametrize("named", [frozenset(), frozenset({"n"}), frozenset({"M", "m.", "mm", "*"})])
@pytest.mark.parametrize(
    ("route", "rule"), [(PIECES[0], "stream"), (PIECES[1], "stream"), (INFER, "kserve"), (WHOLE, "unary")]
)
def test_a_model_that_is_not_named_is_refused(route, rule, named, version):
    forms = Forms(**{rule: named})
    with pytest.raises(NotInThisForm) as caught:
        forms.verify(operation(route, "m", version))
    assert caught.value.rule == f"grpc.{rule}-models"
    assert f"`m` is not named in `guard.{rule}_models`" in caught.value.reason
    code, details = refusal_status(caught.value)
    assert code == CODES["UNIMPLEMENTED"]
    assert details.endswith("here; use StreamPredictions." if rule == "unary" else "here; use Predictions.")
    assert "guard" not in details


@pytest.mark.parametrize("route", [*PIECES, INFER, WHOLE])
def test_one_that_is_named_is_not_and_each_key_is_for_its_own_calls(route):
    Forms(*[frozenset({"m"})] * 3).verify(operation(route, "m"))
    mine = "stream" if route in PIECES else "kserve" if route == INFER else "unary"
    Forms(**{key: None if key == mine else frozenset() for key in ("stream", "kserve", "unary")}).verify(
        operation(route, "m")
    )


@pytest.mark.parametrize("route", ASKED_FOR)
def test_a_call_that_names_no_model_names_none_of_them(route):
    with pytest.raises(NotInThisForm):
        Forms(*[frozenset({"None"})] * 3).verify(operation(route, None))
