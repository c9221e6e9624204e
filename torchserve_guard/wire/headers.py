"""The headers: which ones pass, in which direction, and what a head must be to be believed.

Works on lists of (name, value) as bytes. Nothing that frames a message passes: what goes
on is framed anew (RFC 9110 section 7.6.1, RFC 9112 section 6).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from torchserve_guard.errors import BadRequest, UpstreamFailed
from torchserve_guard.wire.routes import Listener

Header = tuple[bytes, bytes]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:=+@-]{1,128}")  # no `/`: see _pass_without_token
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_CONTROLS = bytes([*range(9), *range(10, 32), 127])  # all but HTAB: RFC 9110 section 5.5
_MOST_DIGITS = 15  # a petabyte is more than anybody sends
_NAMES_NOTHING = frozenset({b"keep-alive", b"close"})
_NOTHING: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class RequestHead:
    """A request's headers, understood: what passes, and what the guard itself has to know.

    `length` is None without Content-Length; it and `chunked` exclude each other. `request_id` is None unless there is
    one (`request_ids` counts them) and it is well formed. `continues` says that the client waits for a 100 before it
    sends its body. `named` are the headers that Connection declares to be for this hop only.
    """

    passing: list[Header] = field(default_factory=list)
    host: bytes | None = None
    length: int | None = None
    chunked: bool = False
    authorization: bytes | None = None
    content_type: bytes | None = None
    request_id: bytes | None = None
    request_ids: int = 0
    origin: bytes | None = None
    continues: bool = False
    named: frozenset[bytes] = _NOTHING


@dataclass(slots=True)
class AnswerHead:
    """An answer's headers, understood: what passes back, and how its body is framed."""

    passing: list[Header] = field(default_factory=list)
    length: int | None = None
    chunked: bool = False


def parse_request_head(listener: Listener, headers: list[Header], version: str = "1.1") -> RequestHead:
    """Return what a request's headers say; raise BadRequest when they could be read in two ways.

    On the inference listener every end-to-end header passes but those the guard sets itself; on the others only an
    allow-list does. Content-Type passes on the inference listener only: no other sends a body upstream.
    """
    _verify_values(headers)
    reader_of = _inference_reader if listener is Listener.INFERENCE else _elsewhere_reader
    head = RequestHead()
    passing = head.passing
    for header in headers:
        reader = reader_of(header[0])
        if reader is None:
            passing.append(header)
        else:
            reader(head, header)
    _verify_framing(head, version)
    if head.named:
        head.passing = [header for header in passing if header[0].lower() not in head.named]
    return head


def parse_answer_head(headers: Iterable[Header]) -> AnswerHead:
    """Return what an answer's headers say; raise UpstreamFailed when its framing is in doubt.

    A model's handler can set any header of its answer, so what frames it is not believed without a look.
    """
    head = AnswerHead()
    named = _NOTHING
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            head.length = _answer_length(head, value)
        elif lower == b"transfer-encoding":
            head.chunked = _answer_chunked(head, value)
        elif lower == b"connection":
            named |= _named(value)
        elif lower not in _NOT_IN_ANSWERS:
            head.passing.append((name, value))
    if head.chunked and head.length is not None:
        raise _unreadable("it is framed in two ways")
    if named:
        head.passing = [header for header in head.passing if header[0].lower() not in named]
    return head


def is_json(content_type: bytes | None) -> bool:
    """Whether a body of this type is JSON to TorchServe: the MIME type alone, in any case (HttpUtil.getMimeType)."""
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == b"application/json"


# --- the readers: one for each header that does not simply pass ---------------------------------------------------


def _drop(_head: RequestHead, _header: Header) -> None:
    """Leave the header out."""


def _pass_without_token(head: RequestHead, header: Header) -> None:
    # INVARIANT: no value with `/token` reaches the management listener, which takes any request that has it, in
    # whatever header, for a key rotation (TokenAuthorizationHandler: req.toString().contains).
    if b"/token" not in header[1]:
        head.passing.append(header)


def _content_type_passing(head: RequestHead, header: Header) -> None:
    _content_type(head, header)
    head.passing.append(header)


def _content_type(head: RequestHead, header: Header) -> None:
    if head.content_type is not None:
        raise _refused("Content-Type is given more than once")
    head.content_type = header[1]


def _content_length(head: RequestHead, header: Header) -> None:
    if head.length is not None:
        raise _refused("Content-Length is given more than once")
    if not _is_length(header[1]):
        raise _refused("Content-Length is not a plain number")
    head.length = int(header[1])


def _transfer_encoding(head: RequestHead, header: Header) -> None:
    if head.chunked or header[1].lower() != b"chunked":
        raise _refused("Transfer-Encoding is not exactly `chunked`")
    head.chunked = True


def _host(head: RequestHead, header: Header) -> None:
    if head.host is not None:
        raise _refused("Host is given more than once")
    head.host = header[1]


def _authorization(head: RequestHead, header: Header) -> None:
    if head.authorization is not None:
        raise _refused("Authorization is given more than once")
    head.authorization = header[1]


def _request_id(head: RequestHead, header: Header) -> None:
    head.request_ids += 1
    head.request_id = header[1] if head.request_ids == 1 and REQUEST_ID.fullmatch(header[1]) else None


def _expect(head: RequestHead, header: Header) -> None:
    # TorchServe answers an unknown expectation with 417 and reads the body as the next request (hazard H52).
    if head.continues or header[1].lower() != b"100-continue":
        raise _refused("Expect is not exactly `100-continue`")
    head.continues = True


def _origin(head: RequestHead, header: Header) -> None:
    head.origin = header[1]


def _origin_passing(head: RequestHead, header: Header) -> None:
    head.origin = header[1]
    head.passing.append(header)


def _connection(head: RequestHead, header: Header) -> None:
    if header[1].lower() not in _NAMES_NOTHING:
        head.named |= _named(header[1])


Reader = Callable[[RequestHead, Header], None]

HOP_BY_HOP = frozenset(
    {b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"upgrade"}
)
_READ: dict[bytes, Reader] = {
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"host": _host,
    b"authorization": _authorization,
    b"x-request-id": _request_id,
    b"expect": _expect,
    b"connection": _connection,
}
# What TorchServe itself tells a handler, by adding it to the request's headers (InferenceRequestHandler,
# ManagementRequestHandler): from a client, `explain: True` on `/{model}/predict` would explain, not predict.
_TOLD_BY_TORCHSERVE = frozenset({b"explain", b"describe", b"url_path"})
# Who asks, as proxies tell the servers behind them: a handler that believes one would believe whoever reaches the door.
# Where a request came from (X-Forwarded-For) passes. Cookie passes: it is between a client and the application.
_SAYS_WHO = frozenset(
    {
        b"remote-user", b"remote-group", b"remote-groups", b"remote-email", b"remote-name",  # CGI; Authelia
        b"client-cert", b"client-cert-chain",  # RFC 9440
        b"x-client-cert",
        b"x-forwarded-user", b"x-forwarded-groups", b"x-forwarded-email", b"x-forwarded-preferred-username",
        b"x-forwarded-access-token",  # oauth2-proxy
        b"kubeflow-userid", b"kubeflow-groups",
        b"x-anonymous-consumer", b"x-userinfo",  # Kong
        b"x-endpoint-api-userinfo", b"x-apigateway-api-userinfo",  # Google's gateways
    }
)  # fmt: skip
_SAYS_WHO_BEGINNING = (
    b"x-forwarded-client-cert", b"x-forwarded-tls-client-cert",  # Envoy; Traefik
    b"ssl-client-", b"x-ssl-client-",  # ingress-nginx; nginx, HAProxy and Apache as they are commonly set up
    b"x-auth-request-", b"x-authenticated-", b"x-webauth-",  # oauth2-proxy; Keycloak's gatekeepers; Grafana's
    b"x-remote-user", b"x-remote-uid", b"x-remote-group", b"x-remote-extra-", b"impersonate-",  # Kubernetes
    b"x-remote-email", b"x-remote-name",
    b"x-goog-authenticated-user-", b"x-goog-iap-",  # Google's IAP
    b"x-amzn-oidc-", b"x-amzn-mtls-",  # AWS load balancers
    b"x-ms-client-principal", b"x-ms-token-",  # Azure App Service
    b"cf-access-",  # Cloudflare
    b"x-consumer-", b"x-credential-",  # Kong
    b"tailscale-user-", b"x-authentik-", b"x-pomerium-", b"x-vouch-",
)  # fmt: skip
"""What the names begin with of those that come in families."""

_INFERENCE: dict[bytes, Reader] = {
    **_READ,
    b"content-type": _content_type_passing,
    b"origin": _origin_passing,
    **dict.fromkeys(HOP_BY_HOP | _TOLD_BY_TORCHSERVE | _SAYS_WHO, _drop),
}
_ELSEWHERE: dict[bytes, Reader] = {
    **_READ,
    b"content-type": _content_type,
    b"origin": _origin,
    **dict.fromkeys([b"accept", b"accept-encoding", b"user-agent"], _pass_without_token),
}
_NOT_IN_ANSWERS = HOP_BY_HOP | {b"x-request-id"}


@lru_cache(maxsize=1024)
def _inference_reader(name: bytes) -> Reader | None:
    lower = name.lower()
    reader = _INFERENCE.get(lower)
    return _drop if reader is None and _verified(lower).startswith(_SAYS_WHO_BEGINNING) else reader


@lru_cache(maxsize=1024)
def _elsewhere_reader(name: bytes) -> Reader | None:
    reader = _ELSEWHERE.get(name.lower())
    return _drop if reader is None and _verified(name) else reader


# --- what a head must be ------------------------------------------------------------------------------------------


def _verified(name: bytes) -> bytes:
    if _TOKEN.fullmatch(name) is None:
        raise _refused("a header's name is not a token")
    return name


def _verify_values(headers: list[Header]) -> None:
    values = b"".join([value for _, value in headers])
    if len(values.translate(None, _CONTROLS)) != len(values):
        raise _refused("a header's value has a control character")


def _verify_framing(head: RequestHead, version: str) -> None:
    if head.chunked and (head.length is not None or version != "1.1"):
        raise _refused("Transfer-Encoding stands beside Content-Length, or in HTTP/1.0 (RFC 9112 section 6.1)")
    if head.host is None and version == "1.1":
        raise _refused("Host is missing (RFC 9112 section 3.2)")


def _is_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _MOST_DIGITS


def _named(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip().lower() for option in value.split(b","))


def _answer_length(head: AnswerHead, value: bytes) -> int:
    if head.length is not None or not _is_length(value):
        raise _unreadable("its Content-Length is in doubt")
    return int(value)


def _answer_chunked(head: AnswerHead, value: bytes) -> bool:
    if head.chunked or value.lower() != b"chunked":
        raise _unreadable("its Transfer-Encoding is in doubt")
    return True


def _refused(reason: str) -> BadRequest:
    return BadRequest("The request's header fields are not acceptable.", reason=reason, rule="wire.headers")


def _unreadable(reason: str) -> UpstreamFailed:
    return UpstreamFailed("TorchServe's answer cannot be read.", reason=reason, rule="wire.answer")
