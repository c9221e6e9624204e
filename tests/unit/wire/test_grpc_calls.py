"""The grammar of calls: TorchServe's own services, the same operations as in HTTP, one spelling."""

import messages
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.access import CHANGES, INFERENCE, MANAGEMENT, Action
from torchserve_guard.errors import BadRequest, NotFound
from torchserve_guard.wire import Listener, classify
from torchserve_guard.wire.grpc.calls import CALLS, call_of, classify_call, render_call
from torchserve_guard.wire.grpc.protobuf import Kind

BY_METHOD = {call.method: call for call in CALLS}
KINDS = {9: Kind.TEXT, 5: Kind.INTEGER, 8: Kind.BOOLEAN, 11: Kind.PASSED, 12: Kind.PASSED}


def asked(method: str, **fields):
    call = BY_METHOD[method]
    return classify_call(call, messages.request(call.path, **fields))


def test_the_table_is_the_jars_services_method_by_method_and_field_by_field():
    described = dict(messages.methods())
    assert {call.path for call in CALLS} == set(described)
    for call in CALLS:
        method = described[call.path]
        assert (call.many_in, call.many_out) == (method.client_streaming, method.server_streaming)
        fields = {field.number: field for field in method.input_type.fields}
        assert {field.number for field in call.fields} == set(fields)
        for field in call.fields:
            if field.kind is not Kind.PASSED:
                assert (field.name, field.kind) == (fields[field.number].name, KINDS[fields[field.number].type])
            else:  # length-delimited: text, bytes, messages
                assert fields[field.number].type in {9, 11, 12}


def test_every_change_that_grpc_knows_is_marked_as_one():
    changing = {call.method for call in CALLS if call.action in CHANGES}
    assert changing == {"RegisterModel", "UnregisterModel", "ScaleWorker", "SetDefault"}
    assert all((call.listener is Listener.MANAGEMENT) == (call.action in MANAGEMENT) for call in CALLS)
    assert all(call.action in INFERENCE | {Action.PING} for call in CALLS if call.listener is Listener.INFERENCE)


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_@+-]{0,20}", fullmatch=True)
registrations = st.fixed_dictionaries(
    {"url": st.from_regex(r"[a-z]{1,9}\.mar", fullmatch=True)},
    optional={
        "model_name": names,
        "handler": names,
        "runtime": st.sampled_from(["python", "python3", "LSP"]),
        "batch_size": st.integers(0, 65536),
        "max_batch_delay": st.integers(0, 3_600_000),
        "initial_workers": st.integers(0, 256),
        "synchronous": st.booleans(),
        "response_timeout": st.integers(0, 9999),
        "startup_timeout": st.integers(0, 9999),
        "s3_sse_kms": st.booleans(),
    },
)
about_a_model = st.fixed_dictionaries({"model_name": names}, optional={"model_version": names})
scales = st.fixed_dictionaries(
    {"model_name": names},
    optional={
        "model_version": names,
        "min_worker": st.integers(0, 256),
        "max_worker": st.integers(0, 256),
        "number_gpu": st.integers(-1, 8),
        "timeout": st.integers(-1, 100),
        "synchronous": st.booleans(),
    },
)
pages = st.fixed_dictionaries({}, optional={"limit": st.integers(0, 1000), "next_page_token": st.integers(0, 1000)})
managed = st.one_of(
    st.tuples(st.just("RegisterModel"), registrations),
    st.tuples(st.just("UnregisterModel"), about_a_model),
    st.tuples(st.just("DescribeModel"), about_a_model),
    st.tuples(st.just("ScaleWorker"), scales),
    st.tuples(st.just("SetDefault"), about_a_model),
    st.tuples(st.just("ListModels"), pages),
)


@given(managed)
def test_what_is_rendered_is_classified_as_the_same_operation_and_says_all_that_torchserve_looks_at(case):
    method, fields = case
    call = BY_METHOD[method]
    operation = asked(method, **fields)
    rendered = render_call(operation)
    assert classify_call(call, rendered) == operation
    kept = {name: value for name, value in fields.items() if name not in {"number_gpu", "timeout"}}
    assert rendered == messages.request(call.path, **kept)


def test_the_operation_is_the_one_that_http_would_have_asked_for():
    over_http = classify(Listener.MANAGEMENT, "POST", b"/models?url=a.mar&model_name=m&batch_size=2&synchronous=false")
    over_grpc = asked("RegisterModel", url="a.mar", model_name="m", batch_size=2)
    for one in (over_http, over_grpc):
        assert (one.action, str(one.resource)) == (Action.REGISTER_MODEL, "model/m")
    assert set(over_http.parameters) - {("model_name", "m")} == set(over_grpc.parameters)
    over_http = classify(Listener.MANAGEMENT, "PUT", b"/models/m/2.0/set-default")
    over_grpc = asked("SetDefault", model_name="m", model_version="2.0")
    assert (over_http.action, over_http.resource) == (over_grpc.action, over_grpc.resource)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("RegisterModel", {}),
        ("RegisterModel", {"url": "a.mar", "batch_size": -1}),
        ("RegisterModel", {"url": "a.mar", "initial_workers": 257}),
        ("RegisterModel", {"url": "a.mar", "runtime": "python4"}),
        ("RegisterModel", {"url": "a\nb.mar"}),
        ("RegisterModel", {"url": "a.mar", "model_name": "../m"}),
        ("UnregisterModel", {}),
        ("UnregisterModel", {"model_name": "a/b"}),
        ("UnregisterModel", {"model_name": "m", "model_version": "1%2e0"}),
        ("ScaleWorker", {"model_name": "m", "min_worker": 1000}),
        ("ScaleWorker", {"min_worker": 1}),
        ("SetDefault", {"model_version": "1.0"}),
        ("DescribeModel", {"model_name": "m", "customized": True}),
        ("ListModels", {"limit": -1}),
        ("Predictions", {}),
        ("Predictions", {"model_name": "a b"}),
        ("ModelInfer", {"model_name": "a", "model_version": ".."}),
    ],
)
def test_a_message_says_nothing_that_http_may_not(method, fields):
    with pytest.raises(BadRequest):
        asked(method, **fields)


@pytest.mark.parametrize(
    "path",
    [
        "org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel",
        "//org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel",
        "/org.pytorch.serve.grpc.management.ManagementAPIsService//RegisterModel",
        "/org.pytorch.serve.grpc.management.ManagementAPIsService/registerModel",
        "/org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel/",
        "/org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel ",
        "/org.pytorch.serve.grpc.management.ManagementAPIsService%2FRegisterModel",
        "/ORG.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel",
        "/ManagementAPIsService/RegisterModel",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "",
    ],
)
def test_a_method_has_one_spelling(path):
    for listener in (Listener.INFERENCE, Listener.MANAGEMENT):
        with pytest.raises(NotFound):
            call_of(listener, path, optional=True)


def test_a_method_that_is_not_there_is_named_as_stock_names_it():
    """Java's server says what it was asked for without the slash that the path begins with."""
    with pytest.raises(NotFound, match=r"\AMethod not found: grpc\.health\.v1\.Health/Check\Z"):
        call_of(Listener.INFERENCE, "/grpc.health.v1.Health/Check", optional=True)
    with pytest.raises(NotFound, match=r"\AMethod not found: /pkg\.Service/Method\Z"):
        call_of(Listener.INFERENCE, "//pkg.Service/Method", optional=True)


def test_a_method_exists_on_its_own_listener_and_the_open_protocol_only_when_it_is_switched_on():
    for call in CALLS:
        assert call_of(call.listener, call.path, optional=True) is call
        for other in set(Listener) - {call.listener}:
            with pytest.raises(NotFound):
                call_of(other, call.path, optional=True)
        if call.optional:
            with pytest.raises(NotFound):
                call_of(call.listener, call.path, optional=False)
