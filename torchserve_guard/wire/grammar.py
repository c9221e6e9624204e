"""The grammar: `classify` reads a request line as an Operation, `render` writes its one canonical spelling.

Law: `classify(listener, *render(operation)) == operation` for every operation that `classify` or `with_json_body`
returns on that listener. What goes upstream is what `render` returns, never the client's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from torchserve_guard.access import SERVER, Operation, Resource
from torchserve_guard.errors import BadRequest, MethodNotAllowed, NotFound
from torchserve_guard.escape import past_tokens
from torchserve_guard.wire.answers import METHOD_NOT_ALLOWED, RESOURCE_NOT_FOUND
from torchserve_guard.wire.body import parse_json
from torchserve_guard.wire.matching import Shape, match, pieces, variable
from torchserve_guard.wire.parameters import shown, verify_name
from torchserve_guard.wire.routes import ROUTES, Listener, Route
from torchserve_guard.wire.target import LONGEST_TARGET, Pairs, parse_target, refused

Variables = tuple[str | None, str | None, tuple[str, ...]]  # name, version, rest

_ROUTES = {route.name: route for route in ROUTES}
_PARAMETERS = {route.name: {parameter.name: parameter for parameter in route.parameters} for route in ROUTES}
_ORDER = {route.name: [parameter.name for parameter in route.parameters] for route in ROUTES}
_PIECES = {route.name: [(piece, variable(piece)) for piece in pieces(route.path)] for route in ROUTES}

# INVARIANT: a target at most this long cannot outgrow LONGEST_TARGET when it is rendered: a byte becomes at most
# three (`[` is `%5B`), and no pair gains more than its `=`.
_SURELY_FITS = LONGEST_TARGET // 3 - 8


def route_of(operation: Operation) -> Route:
    """Return the row that an operation came in by."""
    return _ROUTES[operation.route]


def classify(listener: Listener, method: str, target: bytes) -> Operation:
    """Return what a request line asks for; raise BadRequest, NotFound or MethodNotAllowed when it may not be asked.

    `method` is the case-sensitive token, `target` the raw request target.
    """
    segments, pairs = parse_target(target)
    shape = match(listener, segments)
    if shape is None:
        where = shown("/" + "/".join(segments))
        raise NotFound(RESOURCE_NOT_FOUND, reason=f"{where} is not a path of {listener.value}", rule="wire.route")
    route = shape.rows.get(method)
    if route is None:
        where = shown("/" + "/".join(segments))
        raise MethodNotAllowed(
            METHOD_NOT_ALLOWED, reason=f"{shown(method)} is not a method of {where}", rule="wire.method"
        )
    operation = _operation(route, method, _accepted(route, pairs), _variables(shape, segments))
    if len(target) > _SURELY_FITS:
        _verify_length(operation)
    return operation


def listener_of(listeners: Sequence[Listener], target: bytes) -> Listener:
    """Return which of the listeners that share a port a target is for: the first that has its path.

    TorchServe asks its handlers in the same order (ServerInitializer, ConnectorType.ALL). Where nobody has the path, or
    it is none, the answer is the first: `classify` says there what is wrong with it.
    """
    try:
        segments, _ = parse_target(target)
    except BadRequest:
        return listeners[0]
    return next((listener for listener in listeners if match(listener, segments) is not None), listeners[0])


def with_json_body(operation: Operation, body: bytes) -> Operation:
    """Return the operation with the members of a JSON body as its parameters, as TorchServe takes them.

    Only for rows with `json_body`. TorchServe drops the query when there is a JSON body; both together are
    refused. What comes out is sent as a query, without a body. Raises BadRequest.
    """
    route = route_of(operation)
    if not route.json_body:
        raise BadRequest("A JSON body is not expected here.", rule="wire.body")
    if operation.parameters:
        raise BadRequest("The parameters stand in the query or in the body, not in both.", rule="wire.body")
    parameters = _accepted(route, parse_json(body, route.parameters))
    read = _operation(route, operation.method, parameters, (None, None, ()))
    _verify_length(read)
    return read


def render(operation: Operation) -> tuple[str, bytes]:
    """Return the method and the canonical target of an operation: everything but unreserved characters escaped."""
    route = route_of(operation)
    path = "".join([f"/{_rendered(piece, found, operation)}" for piece, found in _PIECES[route.name]]) or "/"
    if Listener.MANAGEMENT in route.listeners:
        # INVARIANT: `/token` never stands in a line sent to the management listener.
        path = past_tokens(path)
    query = "&".join([f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in operation.parameters])
    return operation.method, (f"{path}?{query}" if query else path).encode("ascii")


def _operation(route: Route, method: str, parameters: Pairs, variables: Variables) -> Operation:
    name, version, rest = variables
    resource = SERVER
    if route.kind != "server":
        given = dict(parameters)
        name = given.get(route.named_by) if route.named_by else name
        version = given.get(route.versioned_by) if route.versioned_by else version
        resource = Resource(route.kind, name, version)
    return Operation(route.action, resource, route.name, parameters, rest, method)


def _variables(shape: Shape, segments: tuple[str, ...]) -> Variables:
    name = version = None
    if shape.named_at is not None:
        name = segments[shape.named_at].removesuffix(shape.suffix)
        verify_name("name", name)
    if shape.versioned_at is not None:
        version = segments[shape.versioned_at]
        verify_name("version", version)
    return name, version, () if shape.rest_at is None else segments[shape.rest_at :]


def _accepted(route: Route, pairs: Pairs) -> Pairs:
    if not pairs:
        return ()
    known = _PARAMETERS[route.name]
    seen: set[str] = set()
    accepted: list[tuple[str, str]] = []
    for name, value in pairs:
        parameter = known.get(name)
        if parameter is None:
            if not route.free_query:
                raise refused("query-unknown", f"the parameter {shown(name)} is not one of {route.name}")
            accepted.append((name, value))
            continue
        if name in seen and not parameter.repeats:
            raise refused("query-repeated", f"the parameter {name} is given more than once")
        seen.add(name)
        accepted.append((name, parameter.canonical(value)))
    if not route.free_query:
        accepted.sort(key=lambda pair: _ORDER[route.name].index(pair[0]))
    return tuple(accepted)


def _rendered(piece: str, found: tuple[str, str] | None, operation: Operation) -> str:
    if piece == "{rest...}":
        return "/".join([quote(segment, safe="") for segment in operation.rest])
    if found is None:
        return piece
    name, suffix = found
    value = operation.resource.version if name == "version" else operation.resource.name
    if not value:  # never from `classify`; TorchServe would route an empty segment
        raise BadRequest("The operation has no canonical spelling.", reason=f"{operation.route} without its {name}")
    return quote(value, safe="") + suffix


def _verify_length(operation: Operation) -> None:
    rendered = len(render(operation)[1])
    if rendered > LONGEST_TARGET:
        raise refused("target-length", f"the target has {rendered} bytes when rendered, more than {LONGEST_TARGET}")
