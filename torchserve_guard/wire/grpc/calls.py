"""The calls: every method of TorchServe's gRPC API that exists for us, one row each, and the grammar of their messages.

Service names, method names and field numbers are those of TorchServe 0.12.0 (inference.proto, management.proto,
open_inference_grpc.proto). What a field may hold is what the parameter of the same name may in HTTP. Law:
`classify_call(call, render_call(operation)) == operation` for every operation of a row that is `rebuilt`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torchserve_guard.access import MANAGEMENT, SERVER, Action, Operation, Resource
from torchserve_guard.errors import NotFound
from torchserve_guard.wire.grpc.protobuf import Field, Kind, Value, fields_by_tag, parse, refused, render
from torchserve_guard.wire.parameters import Parameter, shown, verify_name
from torchserve_guard.wire.routes import CUSTOMIZED, ROUTES, Listener

METHOD = "GRPC"
"""What stands in the place of the HTTP method in an operation and in the record."""

_EXPLICIT = frozenset({"synchronous"})
"""Absent it is false here and may be true in HTTP: so it is always said, in the record too."""


@dataclass(frozen=True, slots=True)
class Call:
    """One row: a method of a service.

    `named_by` and `versioned_by` name the fields that say which model it is about, `required` those that must be
    given. `parameters` bound the other fields; a field without a parameter is one that TorchServe does not look at.
    `many_in` and `many_out` say whether requests and answers are streams. `optional` says that the service is only
    there with `ts_open_inference_protocol`.
    """

    listener: Listener
    service: str
    method: str
    action: Action
    fields: tuple[Field, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    named_by: str | None = None
    versioned_by: str | None = None
    required: tuple[str, ...] = ()
    many_in: bool = False
    many_out: bool = False
    optional: bool = False
    tags: Mapping[int, Field] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", fields_by_tag(self.fields))

    @property
    def path(self) -> str:
        """The `:path` of the call."""
        return f"/{self.service}/{self.method}"

    @property
    def route(self) -> str:
        """The name of the row, as it stands in an operation."""
        return f"{self.service.rpartition('.')[2]}/{self.method}"

    @property
    def rebuilt(self) -> bool:
        """Whether what goes on is made of the operation: everything but what a model is to read."""
        return self.action in MANAGEMENT

    @property
    def about(self) -> Operation:
        """The operation as far as it is known without its message."""
        return Operation(self.action, SERVER if self.named_by is None else Resource("model"), self.route, method=METHOD)


def call_of(listener: Listener, path: str, *, optional: bool) -> Call:
    """Return the row of a `:path` on this listener. Raises NotFound: paths are compared byte by byte."""
    call = _CALLS.get((listener, path))
    if call is None or (call.optional and not optional):
        reason = f"{shown(path)} is not a method of the {listener.value} service"
        # As stock names it: without the slash that the path begins with.
        raise NotFound(f"Method not found: {shown(path[1:])[1:-1]}", reason=reason, rule="wire.method")
    return call


def classify_call(call: Call, message: bytes) -> Operation:
    """Return what a message asks for. Raises BadRequest when it may not be asked, or is not surely understood."""
    given = parse(message, call.tags)
    for name in call.required:
        if name not in given:
            raise refused(f"the field {name} is missing")
    about = SERVER
    if call.named_by is not None:
        about = Resource("model", _name(given, "name", call.named_by), _name(given, "version", call.versioned_by))
    return Operation(call.action, about, call.route, _parameters(call, given), (), METHOD)


def render_call(operation: Operation) -> bytes:
    """Return the one message of an operation that came in by a row that is `rebuilt`."""
    call = _ROWS[operation.route]
    given = dict(operation.parameters)
    if call.named_by is not None and operation.resource.name is not None:
        given[call.named_by] = operation.resource.name
    if call.versioned_by is not None and operation.resource.version is not None:
        given[call.versioned_by] = operation.resource.version
    return render((one, _READ[one.kind](given[one.name])) for one in call.fields if one.name in given)


def _name(given: Mapping[str, Value], what: str, by: str | None) -> str | None:
    value = given.get(by) if by is not None else None
    if value is None:
        return None
    verify_name(what, str(value))
    return str(value)


def _parameters(call: Call, given: Mapping[str, Value]) -> tuple[tuple[str, str], ...]:
    accepted: list[tuple[str, str]] = []
    for parameter in call.parameters:
        value = given.get(parameter.name, False if parameter.name in _EXPLICIT else None)
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            accepted.append((parameter.name, parameter.canonical(text)))
    return tuple(accepted)


_READ: Mapping[Kind, Callable[[str], Value]] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.BOOLEAN: lambda text: text == "true",
}

_INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
_OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
_MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"

_HTTP = {route.name: route.parameters for route in ROUTES}

_NAME = Field(1, "model_name", Kind.TEXT)
_VERSION = Field(2, "model_version", Kind.TEXT)
_PREDICT = (_NAME, _VERSION, Field(3, "input", Kind.PASSED), Field(4, "sequence_id", Kind.PASSED))
_REGISTER = (
    Field(1, "batch_size", Kind.INTEGER),
    Field(2, "handler", Kind.TEXT),
    Field(3, "initial_workers", Kind.INTEGER),
    Field(4, "max_batch_delay", Kind.INTEGER),
    Field(5, "model_name", Kind.TEXT),
    Field(6, "response_timeout", Kind.INTEGER),
    Field(7, "runtime", Kind.TEXT),
    Field(8, "synchronous", Kind.BOOLEAN),
    Field(9, "url", Kind.TEXT),
    Field(10, "s3_sse_kms", Kind.BOOLEAN),
    Field(11, "startup_timeout", Kind.INTEGER),
)
# ManagementImpl.scaleWorker looks at neither number_gpu nor timeout: they end here.
_SCALE = (
    _NAME,
    _VERSION,
    Field(3, "max_worker", Kind.INTEGER),
    Field(4, "min_worker", Kind.INTEGER),
    Field(5, "number_gpu", Kind.INTEGER),
    Field(6, "synchronous", Kind.BOOLEAN),
    Field(7, "timeout", Kind.INTEGER),
)
_INFER = (_NAME, _VERSION, *(Field(3 + at, "rest", Kind.PASSED) for at in range(5)))
_ASKED = (Field(1, "name", Kind.TEXT), Field(2, "version", Kind.TEXT))


def _predicts(method: str, *, many_in: bool = False, many_out: bool = False) -> Call:
    return Call(
        Listener.INFERENCE,
        _INFERENCE,
        method,
        Action.INFER,
        _PREDICT,
        named_by="model_name",
        versioned_by="model_version",
        required=("model_name",),
        many_in=many_in,
        many_out=many_out,
    )


def _serves(method: str) -> Call:
    return Call(Listener.INFERENCE, _OPEN_INFERENCE, method, Action.SERVER_METADATA, optional=True)


def _tells(method: str) -> Call:
    return Call(
        Listener.INFERENCE,
        _OPEN_INFERENCE,
        method,
        Action.SERVER_METADATA,
        _ASKED,
        named_by="name",
        versioned_by="version",
        required=("name",),
        optional=True,
    )


def _manages(
    method: str, action: Action, fields: tuple[Field, ...], http: tuple[Parameter, ...], *required: str
) -> Call:
    return Call(
        Listener.MANAGEMENT,
        _MANAGEMENT,
        method,
        action,
        fields,
        tuple(parameter for parameter in http if parameter.name not in {"model_name", "model_version"}),
        named_by="model_name",
        versioned_by="model_version",
        required=required,
    )


CALLS: tuple[Call, ...] = (
    Call(Listener.INFERENCE, _INFERENCE, "Ping", Action.PING),
    _predicts("Predictions"),
    _predicts("StreamPredictions", many_out=True),
    _predicts("StreamPredictions2", many_in=True, many_out=True),
    _serves("ServerLive"),
    _serves("ServerReady"),
    _serves("ServerMetadata"),
    _tells("ModelReady"),
    _tells("ModelMetadata"),
    Call(
        Listener.INFERENCE,
        _OPEN_INFERENCE,
        "ModelInfer",
        Action.INFER,
        _INFER,
        named_by="model_name",
        versioned_by="model_version",
        required=("model_name",),
        optional=True,
    ),
    Call(
        Listener.MANAGEMENT,
        _MANAGEMENT,
        "ListModels",
        Action.LIST_MODELS,
        (Field(1, "limit", Kind.INTEGER), Field(2, "next_page_token", Kind.INTEGER)),
        _HTTP["models"],
    ),
    _manages(
        "DescribeModel",
        Action.DESCRIBE_MODEL,
        (_NAME, _VERSION, Field(3, "customized", Kind.BOOLEAN)),
        (CUSTOMIZED,),
        "model_name",
    ),
    _manages("RegisterModel", Action.REGISTER_MODEL, _REGISTER, _HTTP["register-model"], "url"),
    _manages("UnregisterModel", Action.UNREGISTER_MODEL, (_NAME, _VERSION), (), "model_name"),
    _manages("ScaleWorker", Action.SCALE_MODEL, _SCALE, _HTTP["scale-model"], "model_name"),
    # Without a version stock says that there is no such version.
    _manages("SetDefault", Action.SET_DEFAULT, (_NAME, _VERSION), (), "model_name"),
)

_CALLS = {(call.listener, call.path): call for call in CALLS}
_ROWS = {call.route: call for call in CALLS}
