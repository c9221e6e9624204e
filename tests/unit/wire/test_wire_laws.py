"""The laws of the grammar, against an oracle that reads a request line as Netty 4.1.53 and TorchServe 0.12.0 do.

The oracle is written from their behaviour (QueryStringDecoder, String.split, the request handlers), shares nothing
with the package, and is as lenient as they are.
"""

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, example, given, reject, settings
from hypothesis import strategies as st

from torchserve_guard.access import CHANGES, Action
from torchserve_guard.errors import BadRequest, MethodNotAllowed, NotFound
from torchserve_guard.wire import ROUTES, Listener, classify, listener_of, render, route_of
from torchserve_guard.wire.parameters import Kind
from torchserve_guard.wire.target import LONGEST_TARGET

CHANGING = {action.value for action in CHANGES}
CORPUS = Path(__file__).parents[2] / "corpus" / "targets.yaml"
ROWS = [row for rows in yaml.safe_load(CORPUS.read_text("utf-8")).values() for row in rows]
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "FOO")


# --- the oracle ---------------------------------------------------------------------------------------------------


class StockRefuses(Exception):
    """Stock answers with an error without doing anything."""


@dataclass(frozen=True)
class Reading:
    """What stock does: the action, of what, and the pairs that it sees."""

    action: str
    name: str | None = None
    version: str | None = None
    rest: tuple[str, ...] = ()


def netty_component(text: str, *, path: bool) -> str:
    if not path:
        text = text.replace("+", " ")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise StockRefuses("IllegalArgumentException")
    return re.sub(
        r"(?:%[0-9A-Fa-f]{2})+",
        lambda run: bytes.fromhex(run.group().replace("%", "")).decode("utf-8", "replace"),
        text,
    )


def netty_segments(target: bytes) -> list[str]:
    uri = re.split(r"[ \t\x0b\x0c\r]", target.decode("latin-1").lstrip(" \t\x0b\x0c\r\n\0"), maxsplit=1)[0]
    segments = netty_component(re.split(r"[?#]", uri, maxsplit=1)[0], path=True).split("/")
    if segments == [""]:
        return segments
    while segments and segments[-1] == "":
        segments.pop()
    return segments


def netty_pairs(target: bytes) -> list[tuple[str, str]]:
    uri = re.split(r"[ \t\x0b\x0c\r]", target.decode("latin-1"), maxsplit=1)[0]
    found = re.search(r"[?#]", uri)
    if found is None:
        return []
    # From the first `?` or `#`; a later `#` ends it, and a leading `#` ends it at once.
    query = uri[found.start() :].removeprefix("?").partition("#")[0]
    pairs = []
    for piece in re.split(r"[&;]", query):
        stripped = piece.lstrip("=")
        if stripped:
            name, _, value = stripped.partition("=")
            pairs.append((netty_component(name, path=False), netty_component(value, path=False)))
    return pairs


Lookup = Callable[[str], str | None]


def stock(listener: Listener, method: str, target: bytes) -> Reading:
    """Return what stock does with this request line, with the model API on and without its token check."""
    segments = netty_segments(target)
    if not segments:
        path = netty_component(re.split(r"[?#]", target.decode("latin-1"), maxsplit=1)[0], path=True)
        if path == "/" and method == "OPTIONS":
            return Reading("describe-api")
        raise StockRefuses(405)
    if len(segments) == 2 and segments[1] == "api-description":
        return Reading("describe-api")
    if len(segments) < 2:
        raise StockRefuses(500)
    if listener is Listener.METRICS:
        if segments[1] == "metrics":
            return Reading("metrics")
        raise StockRefuses(404)

    def parameter(name: str) -> str | None:
        """Decode the query only now: a broken one does not stop a DELETE that never looks at it."""
        return next((value for key, value in netty_pairs(target) if key == name), None)

    if listener is Listener.INFERENCE:
        return stock_inference(method, segments, parameter)
    return stock_management(method, segments, parameter)


# One list of steps in the order of InferenceRequestHandler, so that the two can be compared line by line.
def stock_inference(method: str, s: list[str], parameter: Lookup) -> Reading:  # noqa: C901, PLR0911, PLR0912
    def run(action: str, name: str | None, version: str | None = None, rest: list[str] | None = None) -> Reading:
        return Reading("server-metadata" if method == "OPTIONS" else action, name, version, tuple(rest or ()))

    if (
        s[1] in {"ping", "predictions", "explanations", "invocations"}
        or (len(s) == 4 and s[1] == "models")
        or (len(s) == 3 and s[2] == "predict")
        or (len(s) == 4 and s[3] == "predict")
    ):
        if s[1] == "ping":
            return Reading("ping")
        if s[1] in {"models", "invocations"}:
            if len(s) == 2 and s[1] == "invocations":
                return run("infer", parameter("model_name"))
            if len(s) == 4 and s[1] == "models" and s[3] == "invoke":
                return run("infer", s[2])
            raise StockRefuses(404)
        if s[1] in {"predictions", "explanations"}:
            if len(s) < 3:
                raise StockRefuses(404)
            action = "infer" if s[1] == "predictions" else "explain"
            return run(action, s[2], s[3] if len(s) >= 4 else None, s[4:])
        if len(s) == 4 and s[3] == "predict":
            return run("infer", s[1], s[2])
        if len(s) < 3 or s[2] != "predict":
            raise StockRefuses(404)
        return run("infer", s[1])
    if len(s) == 4 and s[1:3] == ["v1", "models"] and (":predict" in s[3] or ":explain" in s[3]):
        return run("infer" if ":predict" in s[3] else "explain", s[3].split(":")[0])
    if len(s) == 5 and s[1:3] == ["v2", "models"] and s[4] in {"infer", "explain"}:
        return run("infer" if s[4] == "infer" else "explain", s[3].split(":")[0])
    if s[1].lower() == "wfpredict":
        if len(s) < 3:
            raise StockRefuses(404)
        return Reading("infer", s[2])
    joined = "/".join(s).strip()
    if joined in {"/v2", "/v2/health/live", "/v2/health/ready"}:
        return Reading("server-metadata")
    if len(s) > 5 and "/versions" in joined:
        return Reading("not-implemented")
    raise StockRefuses(404)


def stock_management(method: str, s: list[str], parameter: Lookup) -> Reading:
    if (2 <= len(s) <= 4 and s[1] == "models") or (len(s) == 5 and s[4] == "set-default"):
        return stock_models(method, s, parameter)
    if len(s) == 4 and s[1:3] == ["v1", "models"]:
        if method == "GET":
            return Reading("describe-model", s[3].split(":")[0])
        raise StockRefuses(405)
    if 2 <= len(s) <= 4 and s[1] == "workflows":
        rows = (
            {"GET": Reading("list-workflows"), "POST": Reading("register-workflow", parameter("workflow_name"))}
            if len(s) < 3
            else {"GET": Reading("describe-workflow", s[2]), "DELETE": Reading("unregister-workflow", s[2])}
        )
        if method in rows:
            return rows[method]
        raise StockRefuses(405)
    raise StockRefuses(404)


def stock_models(method: str, s: list[str], parameter: Lookup) -> Reading:
    if s[1] != "models":
        raise StockRefuses(404)
    if len(s) < 3:
        rows = {"GET": Reading("list-models"), "POST": Reading("register-model", parameter("model_name"))}
        if method in rows:
            return rows[method]
        raise StockRefuses(405)
    version = s[3] if len(s) == 4 else None
    match method:
        case "GET":
            return Reading("describe-model", s[2], version)
        case "PUT" if len(s) == 5:
            return Reading("set-default", s[2], s[3])
        case "PUT":
            return Reading("scale-model", s[2], version or parameter("model_version"))
        case "DELETE":
            return Reading("unregister-model", s[2], version)
        case "OPTIONS":
            return Reading("describe-model", s[2], version)
    raise StockRefuses(405)


def expected_of(operation) -> Reading:
    """Return the reading that stock must have of a rendered operation."""
    resource = operation.resource
    if operation.route.startswith("v2-version"):
        return Reading("not-implemented")
    version = "all" if operation.route == "model-all" else resource.version
    return Reading(operation.action.value, resource.name, version, operation.rest)


# --- what is drawn ------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_@+-]{0,8}(\.[A-Za-z0-9_]{1,4})?", fullmatch=True) | st.sampled_from(
    ["token", "tokenizer", "predict", "models", "set-default", "all", "v1", "v2", "ping", "wfpredict", "1.0", "invoke"]
)
VERSIONS = NAMES.filter(lambda version: version != "all")  # `/models/x/all` is a row of its own, without parameters
REST = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\"), min_size=1, max_size=8
).filter(lambda segment: segment not in {".", ".."})
FREE = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=8)
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20) | st.just(
    "https://h/token?a=b"
)


def values(parameter):
    match parameter.kind:
        case Kind.INTEGER:
            return st.integers(parameter.low, parameter.high).map(str)
        case Kind.BOOLEAN:
            return st.sampled_from(["true", "false"])
        case Kind.CHOICE:
            return st.sampled_from(sorted(parameter.choices))
        case Kind.NAME:
            return NAMES
    return TEXT


@st.composite
def spellings(draw, text, *, unescaped):
    """Return the text in one of its many spellings: any byte may be escaped, in either case."""
    spelt = b""
    for byte in text.encode("utf-8"):
        escape = draw(st.sampled_from(["%%%02X", "%%%02x"])) % byte
        literal = bytes([byte])
        spelt += literal if literal in unescaped and draw(st.integers(0, 3)) else escape.encode()
    return spelt


UNESCAPED = re.compile(rb"[A-Za-z0-9._~-]")
PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-@:,"


@st.composite
def requests(draw):
    """Return a listener, a method, a target in some spelling, and the row and pairs it was made of."""
    route = draw(st.sampled_from(ROUTES))
    listener = draw(st.sampled_from(sorted(route.listeners, key=lambda listener: listener.value)))
    method = draw(st.sampled_from(sorted(route.methods)))
    path = route.path.replace("{model}", draw(NAMES)).replace("{workflow}", draw(NAMES))
    path = path.replace("{version}", draw(VERSIONS)).replace("{rest...}", "\0")
    segments = [segment for segment in path.split("/") if segment]
    if segments[-1:] == ["\0"]:
        segments[-1:] = draw(st.lists(REST, min_size=1, max_size=4))
    pairs = [
        (parameter.name, draw(values(parameter)))
        for parameter in route.parameters
        for _ in range(draw(st.integers(0, 2 if parameter.repeats else 1)))
    ]
    if route.free_query:
        pairs += draw(st.lists(st.tuples(FREE.filter(lambda name: name != "model_name"), FREE), max_size=3))
    target = b"".join([b"/" + draw(spellings(segment, unescaped=PLAIN)) for segment in segments]) or b"/"
    if segments and draw(st.booleans()):
        target += b"/"
    query = b"&".join(
        [
            draw(spellings(name, unescaped=PLAIN)) + b"=" + draw(spellings(value, unescaped=PLAIN))
            for name, value in pairs
        ]
    )
    return listener, method, target + (b"?" + query if query else b""), route, pairs


SCRAPS = [
    b"/",
    b"//",
    b"%2f",
    b"%2F",
    b"%5c",
    b"\\",
    b".",
    b"..",
    b"/../",
    b"/./",
    b"%2e",
    b"%2e%2e",
    b";",
    b"%3b",
    b"#",
]
SCRAPS += [
    b"?",
    b"&",
    b"=",
    b"%",
    b"%25",
    b"%256d",
    b"%00",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x0c",
    b"\r",
    b"\n",
    b"%0d%0a",
]
SCRAPS += [
    b"+",
    b"%20",
    b"\xc3\xa4",
    b"%c3%a4",
    b"%c1%ad",
    b"%e2%80%a8",
    b"http://h",
    b"http:",
    b"x",
    b"@",
    b"*",
    b":",
    b"'",
]
SCRAPS += [
    b"/token",
    b"models",
    b"/models",
    b"/all",
    b"/set-default",
    b"set%2ddefault",
    b"/predict",
    b":predict",
    b"/infer",
]
SCRAPS += [
    b"/versions",
    b"/invoke",
    b"min_worker=0",
    b"m%69n_worker=0",
    b"model_version=2",
    b"model_name=b",
    b"?x=/token",
]
SCRAPS += [
    b"url=x.mar",
    b"/ping",
    b"/predictions",
    b"/workflows",
    b"/api-description",
    b"/metrics",
    b"/v1",
    b"/v2/models",
]
SEEDS = sorted({row[2].encode("latin-1") for row in ROWS})


@st.composite
def mutated(draw):
    target = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(target)))
        match draw(st.integers(0, 4)):
            case 0 | 1:
                target = target[:start] + draw(st.sampled_from(SCRAPS)) + target[start:]
            case 2:
                target = target[:start] + target[start + draw(st.integers(1, 4)) :]
            case 3:
                target = (
                    target[:start]
                    + b"".join(b"%%%02x" % byte for byte in target[start : start + 1])
                    + target[start + 1 :]
                )
            case 4:
                target = target[:start] + target[start : start + 1].swapcase() + target[start + 1 :]
    return target


# --- the laws -----------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(requests())
def test_every_spelling_of_a_request_is_one_operation_with_one_rendering(request_):
    listener, method, target, route, pairs = request_
    assume(len(target) <= LONGEST_TARGET)
    try:
        operation = classify(listener, method, target)
    except (NotFound, MethodNotAllowed):  # `/models/predict`: a name made it another path
        reject()
    rendered = render(operation)
    assert classify(listener, *rendered) == operation
    assert rendered[0] == method
    assert len(rendered[1]) <= LONGEST_TARGET
    assert re.fullmatch(rb"/[A-Za-z0-9._~%:/-]*(\?[A-Za-z0-9._~%=&-]*)?", rendered[1])
    if operation.route == route.name:
        assert sorted(operation.parameters) == sorted(pairs)


def agreed(listener, method, target):
    """Hold the laws that bind us to stock for one request line; return the operation, or None if refused."""
    try:
        operation = classify(listener, method, target)
    except (BadRequest, NotFound, MethodNotAllowed):
        return None
    rendered = render(operation)
    assert classify(listener, *rendered) == operation
    if operation.action is Action.ROTATE_TOKEN:
        return operation  # answered by the guard; stock has it outside of its routes
    assert listener is not Listener.MANAGEMENT or b"/token" not in rendered[1]
    # What stock does with what we send is what we judged, and what it would have done with what the client sent.
    assert stock(listener, *rendered) == expected_of(operation)
    assert stock(listener, method, target) == expected_of(operation)
    # The parameters, too: the same names, and the very texts that were judged.
    assert netty_pairs(rendered[1]) == list(operation.parameters)
    assert sorted(name for name, _ in netty_pairs(target)) == sorted(name for name, _ in operation.parameters)
    if route_of(operation).free_query:
        assert netty_pairs(target) == list(operation.parameters)
    return operation


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(Listener), st.sampled_from(METHODS), mutated())
@example(Listener.MANAGEMENT, "PUT", b"x/models/plain")
@example(Listener.MANAGEMENT, "PUT", b"%00/models/plain")
@example(Listener.MANAGEMENT, "PUT", b"/models/plain#x")
@example(Listener.MANAGEMENT, "DELETE", b"/models/plain?x=%")
@example(Listener.MANAGEMENT, "GET", b"/models/token")
@example(Listener.INFERENCE, "POST", b"/wfpredict/predict")
@example(Listener.INFERENCE, "POST", b"/noop/predict?a+b=c+%2B;d")
def test_whatever_is_accepted_stock_reads_as_we_do_and_a_change_is_never_taken_for_less(listener, method, target):
    operation = agreed(listener, method, target)
    try:
        reading = stock(listener, method, target)
    except StockRefuses:
        return
    if reading.action in CHANGING and operation is not None:
        assert operation.action.value == reading.action
        assert (operation.resource.name, operation.resource.version) == (reading.name, reading.version)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("listener", Listener)
def test_the_laws_hold_for_the_whole_corpus_with_every_method_on_every_listener(listener, method):
    for target in SEEDS:
        agreed(listener, method, target)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(Listener), st.sampled_from(METHODS), st.binary(max_size=40).map(lambda tail: b"/" + tail))
def test_any_bytes_at_all_are_an_operation_or_a_refusal(listener, method, target):
    agreed(listener, method, target)


SHARED = [tuple(Listener), *itertools.combinations(Listener, 2)]


def agreed_on_one_port(shared, method, target):
    """Hold the laws of a port that several listeners share; return the listener that the request is for."""
    listener = listener_of(shared, target)
    assert listener in shared
    operation = agreed(listener, method, target)
    if operation is not None:
        # What goes upstream is the same listener's, so nobody is judged as one and served as another.
        assert listener_of(shared, render(operation)[1]) is listener
    for other in shared[: shared.index(listener)]:
        with pytest.raises(NotFound):
            classify(other, method, target)
    return listener


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(SHARED), st.sampled_from(METHODS), mutated())
@example(SHARED[0], "GET", b"/models/noop/invoke")
@example(SHARED[0], "DELETE", b"/models/predict")
@example(SHARED[0], "POST", b"/workflows/predict")
@example(SHARED[0], "GET", b"/token/predict")
@example(SHARED[0], "GET", b"/v1/models/noop:predict")
def test_on_one_port_a_request_is_of_the_listener_that_its_rendering_is_of(shared, method, target):
    agreed_on_one_port(shared, method, target)


@settings(max_examples=300, deadline=None)
@given(requests(), st.sampled_from(SHARED))
def test_on_one_port_every_operation_comes_back_or_is_of_a_listener_that_is_asked_before(request_, shared):
    listener, method, target, _, _ = request_
    assume(listener in shared and len(target) <= LONGEST_TARGET)
    try:
        operation = classify(listener, method, target)
    except (NotFound, MethodNotAllowed):
        reject()
    chosen = agreed_on_one_port(shared, method, target)
    assert shared.index(chosen) <= shared.index(listener)
    if chosen is listener:
        assert classify(chosen, *render(operation)) == operation


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shared", SHARED, ids=lambda shared: "+".join(one.value for one in shared))
def test_the_laws_of_one_port_hold_for_the_whole_corpus_with_every_method(shared, method):
    for target in SEEDS:
        agreed_on_one_port(shared, method, target)


def test_management_loses_to_inference_only_where_stock_lets_it():
    """The paths of management that inference has too, by whatever name a model has."""
    names = [
        b"models",
        b"m",
        b"invoke",
        b"predict",
        b"all",
        b"set-default",
        b"v1",
        b"workflows",
        b"token",
        b"m:predict",
    ]
    for count in range(1, 5):
        for segments in itertools.product(names, repeat=count):
            target = b"/" + b"/".join(segments)
            if _is_path(Listener.INFERENCE, target) and _is_path(Listener.MANAGEMENT, target):
                assert stock_claims(netty_segments(target)), target
    for target in (b"/models/m/invoke", b"/workflows/predict"):
        assert _is_path(Listener.INFERENCE, target)
        assert _is_path(Listener.MANAGEMENT, target)


def _is_path(listener, target):
    try:
        classify(listener, "GET", target)
    except MethodNotAllowed:
        return True
    except (NotFound, BadRequest):
        return False
    return True


def stock_claims(s: list[str]) -> bool:
    """Whether stock's inference handlers keep a request from the management handlers behind them."""
    return (
        (len(s) == 4 and s[1] == "models")
        or (len(s) in {3, 4} and s[-1] == "predict")
        or (len(s) == 4 and s[1:3] == ["v1", "models"] and (":predict" in s[3] or ":explain" in s[3]))
    )


def test_the_oracle_knows_every_variant_that_was_seen_to_reach_models_in_stock():
    seen = ["/models/", "/models//", "/models///", "/%6dodels", "/models?.."]
    seen_with_name = ["/models%2fplain", "/models/%70lain", "/models/plain//", "/models/plain#x", "x/models/plain"]
    seen_with_name += ["http:/models/plain", "%00/models/plain", "a%2fmodels%2fplain", "@/models/plain"]
    seen_with_name += ["models/models/plain", "/models/plain\t"]
    assert {stock(Listener.MANAGEMENT, "GET", target.encode()).action for target in seen} == {"list-models"}
    assert {stock(Listener.MANAGEMENT, "PUT", target.encode()) for target in seen_with_name} == {
        Reading("scale-model", "plain")
    }


@pytest.mark.parametrize(
    "target",
    [
        b"//models",
        b"//models/plain",
        b"/%2fmodels/plain",
        b"/./models/plain",
        b"/MODELS/plain",
        b"/models;x=1/plain",
        b"/models\\plain",
        b"http://h/models/plain",
        b"/%256dodels",
        b"/%c1%adodels",
    ],
)
def test_the_oracle_knows_what_was_seen_not_to_reach_models_in_stock(target):
    with pytest.raises(StockRefuses):
        stock(Listener.MANAGEMENT, "PUT", target)


@pytest.mark.parametrize("listener", Listener)
def test_a_target_that_would_outgrow_the_request_line_when_rendered_is_refused(listener):
    path = {
        Listener.INFERENCE: b"/ping?x=",
        Listener.MANAGEMENT: b"/models?url=",
        Listener.METRICS: b"/metrics?name[]=",
    }
    method = "POST" if listener is Listener.MANAGEMENT else "GET"
    assert classify(listener, method, path[listener] + b"[" * 1000)
    with pytest.raises(BadRequest):
        classify(listener, method, path[listener] + b"[" * 1400)
    with pytest.raises(BadRequest):
        classify(listener, method, b"/" + b"x" * LONGEST_TARGET)


def test_more_pairs_than_anybody_sends_are_refused():
    assert classify(Listener.INFERENCE, "GET", b"/ping?" + b"a&" * 128)
    with pytest.raises(BadRequest):
        classify(Listener.INFERENCE, "GET", b"/ping?" + b"a&" * 129)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", [b"a", b"%61", b".", b"a.", b"/", b"a/", b"?", b"&", b"a=&", b"=", b"%25", b"+", b":"]
)
def test_no_target_takes_long_to_read(piece):
    """Found the hard way: `(?:[^%]+|%..)*` took time exponential in the letters before a broken escape."""
    for head, tail in itertools.product(
        [b"/", b"/predictions/", b"/predictions/m/1/", b"/models/", b"/models?url=", b"/ping?"],
        [b"", b"%", b"%zz", b"%ff", b"#", b"..", b"\0", b":predict", b"/predict"],
    ):
        target = head + piece * ((LONGEST_TARGET - len(head) - len(tail)) // len(piece)) + tail
        began = time.thread_time()
        for listener in Listener:
            agreed(listener, "GET", target)
        assert time.thread_time() - began < 0.5
