"""The routes: every operation of TorchServe's HTTP API that exists for us, one row each.

What is not in the table does not exist. The rows follow TorchServe 0.12.0: InferenceRequestHandler,
ManagementRequestHandler, WorkflowMgmtRequestHandler, WorkflowInferenceRequestHandler,
OpenInferenceProtocolRequestHandler, PrometheusMetricsRequestHandler, ApiDescriptionRequestHandler.

Methods are fewer than stock's. Its inference handlers do not look at the method at all; the clients send GET,
POST and PUT (`curl -T` is a PUT), and OPTIONS, which answers with the OpenAPI of the model instead of running it.
HEAD is only where probes send it and stock answers it like a GET; on a prediction it would run the model for an
answer nobody reads, and on management stock refuses it. OPTIONS on `/wfpredict` would run the workflow: not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from torchserve_guard.access import Action
from torchserve_guard.wire.parameters import Kind, Parameter


class Listener(Enum):
    """The three HTTP listeners of TorchServe, in the order in which they are asked where they share a port."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Route:
    """One row.

    `path` is a template of `{model}`, `{workflow}`, `{version}` and, at its end, `{rest...}` (one segment or more).
    `kind` is that of the resource; `named_by` and `versioned_by` name the parameters that say which one it is,
    where the path does not. `free_query` lets pairs through that the row does not know, for the model's handler.
    `body` says whether a body goes upstream; `json_body` that a JSON body takes the place of the query.
    """

    name: str
    listeners: frozenset[Listener]
    methods: frozenset[str]
    path: str
    action: Action
    kind: str = "server"
    parameters: tuple[Parameter, ...] = ()
    named_by: str | None = None
    versioned_by: str | None = None
    free_query: bool = False
    body: bool = False
    json_body: bool = False

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of this name, or None when the row has none."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


_INFERENCE = frozenset({Listener.INFERENCE})
_MANAGEMENT = frozenset({Listener.MANAGEMENT})
_METRICS = frozenset({Listener.METRICS})
_EVERYWHERE = frozenset(Listener)

_GET = frozenset({"GET"})
_PROBE = frozenset({"GET", "HEAD"})
_RUN = frozenset({"GET", "POST", "PUT"})
_OPTIONS = frozenset({"OPTIONS"})

# Each worker is a process: TorchServe starts as many as it is told (hazard H42).
_MOST_WORKERS = 256
_LONGEST_WAIT_S = 7 * 24 * 3600

_MODEL_NAME = Parameter("model_name", Kind.NAME)
_SYNCHRONOUS = Parameter("synchronous", Kind.BOOLEAN)
_TIMEOUTS = (
    Parameter("response_timeout", Kind.INTEGER, 1, _LONGEST_WAIT_S),
    Parameter("startup_timeout", Kind.INTEGER, 1, _LONGEST_WAIT_S),
)
_PAGE = (Parameter("limit", Kind.INTEGER, 0, 10**6), Parameter("next_page_token", Kind.INTEGER, 0, 10**6))
# Only false, as KServe asks: true runs the model's code, with TorchServe's management key in its hands (hazard H44).
CUSTOMIZED = Parameter("customized", Kind.CHOICE, choices=frozenset({"false"}))
_SCALE = (
    Parameter("min_worker", Kind.INTEGER, 0, _MOST_WORKERS),
    Parameter("max_worker", Kind.INTEGER, 0, _MOST_WORKERS),
    _SYNCHRONOUS,
)
_REGISTER = (
    Parameter("url", Kind.TEXT),
    _MODEL_NAME,
    Parameter("handler", Kind.TEXT),
    Parameter("runtime", Kind.CHOICE, choices=frozenset({"python", "python3", "LSP"})),
    Parameter("batch_size", Kind.INTEGER, 1, 65536),
    Parameter("max_batch_delay", Kind.INTEGER, 0, 3_600_000),
    Parameter("initial_workers", Kind.INTEGER, 0, _MOST_WORKERS),
    _SYNCHRONOUS,
    *_TIMEOUTS,
    Parameter("s3_sse_kms", Kind.BOOLEAN),
)
_REGISTER_WORKFLOW = (
    Parameter("url", Kind.TEXT),
    Parameter("workflow_name", Kind.NAME),
    *_TIMEOUTS,
    Parameter("s3_sse_kms", Kind.BOOLEAN),
)


def _runs(name: str, path: str, action: Action = Action.INFER, parameters: tuple[Parameter, ...] = ()) -> list[Route]:
    """Return the two rows of a path that runs a model: running it, and OPTIONS, which describes it.

    The description tells whether the model is there, so it asks for what inference asks for, as in stock.
    """
    named_by = _MODEL_NAME.name if _MODEL_NAME in parameters else None
    run = Route(name, _INFERENCE, _RUN, path, action, "model", parameters, named_by, free_query=True, body=True)
    return [run, replace(run, name=f"{name}-api", methods=_OPTIONS, action=Action.SERVER_METADATA, body=False)]


def _reads(name: str, path: str, methods: frozenset[str], action: Action, kind: str = "server") -> Route:
    """Return the row of a read on the inference listener, which ignores its query there as in stock."""
    return Route(name, _INFERENCE, methods, path, action, kind, free_query=True)


ROUTES: tuple[Route, ...] = (
    Route("api", _EVERYWHERE, _OPTIONS, "/", Action.DESCRIBE_API),
    Route("api-description", _EVERYWHERE, _GET | _OPTIONS, "/api-description", Action.DESCRIBE_API),
    # inference
    _reads("ping", "/ping", _PROBE, Action.PING),
    *_runs("predictions", "/predictions/{model}"),
    *_runs("predictions-version", "/predictions/{model}/{version}"),
    *_runs("predictions-rest", "/predictions/{model}/{version}/{rest...}"),
    *_runs("explanations", "/explanations/{model}", Action.EXPLAIN),
    *_runs("explanations-version", "/explanations/{model}/{version}", Action.EXPLAIN),
    *_runs("explanations-rest", "/explanations/{model}/{version}/{rest...}", Action.EXPLAIN),
    # Without `model_name` the model is the single one loaded at start-up, or the one a form in the body names:
    # the resource is then a model without a name.
    *_runs("invocations", "/invocations", parameters=(_MODEL_NAME,)),
    *_runs("invoke", "/models/{model}/invoke"),
    *_runs("predict", "/{model}/predict"),
    *_runs("predict-version", "/{model}/{version}/predict"),
    *_runs("v1-predict", "/v1/models/{model}:predict"),
    *_runs("v1-explain", "/v1/models/{model}:explain", Action.EXPLAIN),
    *_runs("v2-infer", "/v2/models/{model}/infer"),
    *_runs("v2-explain", "/v2/models/{model}/explain", Action.EXPLAIN),
    _reads("v2", "/v2", _GET, Action.SERVER_METADATA),
    _reads("v2-live", "/v2/health/live", _GET, Action.SERVER_METADATA),
    _reads("v2-ready", "/v2/health/ready", _GET, Action.SERVER_METADATA),
    # TorchServe answers these with 501, without running anything.
    _reads("v2-version", "/v2/models/{model}/versions/{version}", _GET, Action.SERVER_METADATA, "model"),
    _reads("v2-version-ready", "/v2/models/{model}/versions/{version}/ready", _GET, Action.SERVER_METADATA, "model"),
    Route(
        "v2-version-infer",
        _INFERENCE,
        _RUN,
        "/v2/models/{model}/versions/{version}/infer",
        Action.INFER,
        "model",
        free_query=True,
        body=True,
    ),
    Route(
        "wfpredict",
        _INFERENCE,
        _RUN,
        "/wfpredict/{workflow}",
        Action.INFER,
        "workflow",
        free_query=True,
        body=True,
    ),
    # management
    Route("models", _MANAGEMENT, _GET, "/models", Action.LIST_MODELS, parameters=_PAGE),
    Route(
        "register-model",
        _MANAGEMENT,
        frozenset({"POST"}),
        "/models",
        Action.REGISTER_MODEL,
        "model",
        _REGISTER,
        named_by="model_name",
        json_body=True,
    ),
    Route("model", _MANAGEMENT, _GET, "/models/{model}", Action.DESCRIBE_MODEL, "model", (CUSTOMIZED,)),
    Route("model-all", _MANAGEMENT, _GET, "/models/{model}/all", Action.DESCRIBE_MODEL, "model"),
    Route(
        "model-version",
        _MANAGEMENT,
        _GET,
        "/models/{model}/{version}",
        Action.DESCRIBE_MODEL,
        "model",
        (CUSTOMIZED,),
    ),
    Route("model-api", _MANAGEMENT, _OPTIONS, "/models/{model}", Action.DESCRIBE_MODEL, "model"),
    Route("model-version-api", _MANAGEMENT, _OPTIONS, "/models/{model}/{version}", Action.DESCRIBE_MODEL, "model"),
    Route(
        "scale-model",
        _MANAGEMENT,
        frozenset({"PUT"}),
        "/models/{model}",
        Action.SCALE_MODEL,
        "model",
        (*_SCALE, Parameter("model_version", Kind.NAME)),
        versioned_by="model_version",
    ),
    Route(
        "scale-model-version",
        _MANAGEMENT,
        frozenset({"PUT"}),
        "/models/{model}/{version}",
        Action.SCALE_MODEL,
        "model",
        _SCALE,
    ),
    Route(
        "set-default",
        _MANAGEMENT,
        frozenset({"PUT"}),
        "/models/{model}/{version}/set-default",
        Action.SET_DEFAULT,
        "model",
    ),
    Route(
        "unregister-model",
        _MANAGEMENT,
        frozenset({"DELETE"}),
        "/models/{model}",
        Action.UNREGISTER_MODEL,
        "model",
    ),
    Route(
        "unregister-model-version",
        _MANAGEMENT,
        frozenset({"DELETE"}),
        "/models/{model}/{version}",
        Action.UNREGISTER_MODEL,
        "model",
    ),
    Route("v1-model", _MANAGEMENT, _GET, "/v1/models/{model}", Action.DESCRIBE_MODEL, "model"),
    Route("workflows", _MANAGEMENT, _GET, "/workflows", Action.LIST_WORKFLOWS, parameters=_PAGE),
    Route(
        "register-workflow",
        _MANAGEMENT,
        frozenset({"POST"}),
        "/workflows",
        Action.REGISTER_WORKFLOW,
        "workflow",
        _REGISTER_WORKFLOW,
        named_by="workflow_name",
        json_body=True,
    ),
    Route("workflow", _MANAGEMENT, _GET, "/workflows/{workflow}", Action.DESCRIBE_WORKFLOW, "workflow"),
    Route(
        "unregister-workflow",
        _MANAGEMENT,
        frozenset({"DELETE"}),
        "/workflows/{workflow}",
        Action.UNREGISTER_WORKFLOW,
        "workflow",
    ),
    Route(
        "token",
        _MANAGEMENT,
        _GET,
        "/token",
        Action.ROTATE_TOKEN,
        parameters=(Parameter("type", Kind.CHOICE, choices=frozenset({"management", "inference"})),),
    ),
    # metrics
    Route(
        "metrics",
        _METRICS,
        _PROBE,
        "/metrics",
        Action.METRICS,
        parameters=(Parameter("name[]", Kind.TEXT, repeats=True),),
    ),
)
