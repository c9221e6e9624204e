"""What of a message's head is believed, and what of it passes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchserve_guard.errors import BadRequest, UpstreamFailed
from torchserve_guard.wire import Listener, is_json, parse_answer_head, parse_request_head

HOST = (b"Host", b"localhost:8080")
TYPICAL = [
    HOST,
    (b"User-Agent", b"python-requests/2.31.0"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Accept", b"*/*"),
    (b"Connection", b"keep-alive"),
    (b"Content-Length", b"1024"),
    (b"Content-Type", b"application/json"),
    (b"Authorization", b"Bearer secret"),
    (b"X-Request-Id", b"4a1f0a62-83b3-4d0c-b0c2-7a10d5b1e6a2"),
    (b"ts_request_sequence_id", b"7"),
]


def names(head):
    return [name for name, _ in head.passing]


def test_a_prediction_keeps_its_end_to_end_headers_and_loses_the_guards_own():
    head = parse_request_head(Listener.INFERENCE, TYPICAL)
    assert names(head) == [b"User-Agent", b"Accept-Encoding", b"Accept", b"Content-Type", b"ts_request_sequence_id"]
    assert (head.host, head.length, head.chunked) == (b"localhost:8080", 1024, False)
    assert head.authorization == b"Bearer secret"
    assert head.request_id == b"4a1f0a62-83b3-4d0c-b0c2-7a10d5b1e6a2"


@pytest.mark.parametrize("listener", [Listener.MANAGEMENT, Listener.METRICS])
def test_elsewhere_only_an_allow_list_passes_and_no_content_type_since_no_body_does(listener):
    odd = [*TYPICAL, (b"X-HTTP-Method-Override", b"DELETE"), (b"Referer", b"/token"), (b"Origin", b"http://evil")]
    head = parse_request_head(listener, odd)
    assert names(head) == [b"User-Agent", b"Accept-Encoding", b"Accept"]
    assert head.content_type == b"application/json"
    assert head.origin == b"http://evil"


def test_no_value_that_stock_would_take_for_a_key_rotation_passes_to_management():
    head = parse_request_head(Listener.MANAGEMENT, [HOST, (b"User-Agent", b"x/token"), (b"Accept", b"a/tokens")])
    assert head.passing == []


@pytest.mark.parametrize(
    "name",
    [
        b"Keep-Alive",
        b"Proxy-Authenticate",
        b"Proxy-Authorization",
        b"Proxy-Connection",
        b"TE",
        b"Trailer",
        b"UPGRADE",
        b"Connection",
        b"Host",
        b"Content-Length",
        b"Authorization",
        b"X-Request-Id",
        b"explain",
        b"Describe",
        b"URL_path",
        b"X-Forwarded-User",
        b"x-forwarded-client-cert",
        b"X-Auth-Request-Email",
        b"X-SSL-Client-S-DN",
        b"Client-Cert",
        b"Client-Cert-Chain",
        b"Ssl-Client-Verify",
        b"Ssl-Client-Subject-Dn",
        b"X-SSL-Client-CN",
        b"Remote-User",
        b"Remote-Groups",
        b"Remote-Email",
        b"Remote-Name",
        b"Kubeflow-Userid",
        b"X-Goog-Authenticated-User-Email",
        b"X-Goog-IAP-JWT-Assertion",
        b"X-Amzn-Oidc-Identity",
        b"X-Amzn-Mtls-Clientcert-Subject",
        b"X-MS-Client-Principal",
        b"X-MS-Client-Principal-Name",
        b"Cf-Access-Jwt-Assertion",
        b"Cf-Access-Authenticated-User-Email",
        b"X-Remote-User",
        b"X-Remote-Extra-Scopes",
        b"Impersonate-User",
        b"Impersonate-Extra-Scopes",
        b"X-Consumer-Username",
        b"X-Credential-Identifier",
        b"X-Forwarded-Client-Cert",
        b"X-Forwarded-Tls-Client-Cert-Info",
        b"X-Auth-Request-User",
        b"X-Authenticated-Userid",
        b"X-WEBAUTH-USER",
    ],
)
def test_headers_of_one_hop_of_who_asks_and_what_only_torchserve_tells_a_handler_do_not_pass(name):
    headers = [HOST] if name != b"Host" else []
    assert parse_request_head(Listener.INFERENCE, [*headers, (name, b"1")]).passing == []


@pytest.mark.parametrize(
    "name",
    [
        b"Cookie",  # the application's own
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Amzn-Trace-Id",
        b"X-Amzn-SageMaker-Custom-Attributes",
        b"Cf-Connecting-IP",
        b"X-MS-Client-Request-Id",
        b"Remote-Control",
        b"X-Client-Version",
        b"Client-Certainty",
    ],
)
def test_what_only_looks_like_a_header_that_says_who_asks_passes(name):
    assert names(parse_request_head(Listener.INFERENCE, [HOST, (name, b"1")])) == [name]


@pytest.mark.parametrize("name", [b"Cf-Access-\xe4", b"X-Remote- User", b"Impersonate-(x)"])
def test_a_name_that_is_no_token_is_refused_whatever_it_begins_with(name):
    with pytest.raises(BadRequest):
        parse_request_head(Listener.INFERENCE, [HOST, (name, b"1")])


def test_what_connection_names_does_not_pass_wherever_it_stands():
    headers = [
        (b"X-Secret", b"1"),
        HOST,
        (b"Connection", b"close, x-secret ,X-Other"),
        (b"x-other", b"2"),
        (b"x-kept", b"3"),
    ]
    assert parse_request_head(Listener.INFERENCE, headers).passing == [(b"x-kept", b"3")]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Host", b"b")],
        [(b"HOST", b"a")],
        [(b"Content-Length", b"1"), (b"content-length", b"1")],
        [(b"Authorization", b"Bearer a"), (b"authorization", b"Bearer b")],
        [(b"Content-Type", b"text/plain"), (b"content-type", b"application/json")],
        [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"0")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Expect", b"100-continue"), (b"Expect", b"100-continue")],
    ],
)
def test_what_must_be_there_once_is_refused_when_it_is_there_twice(headers):
    with pytest.raises(BadRequest):
        parse_request_head(Listener.INFERENCE, [HOST, *headers])


@pytest.mark.parametrize(
    "value", [b"+5", b"-5", b"5 ", b" 5", b"", b"0x5", b"5a", b"1_0", b"5,5", b"9" * 16, b"\xb2", b"1.0"]
)
def test_a_content_length_that_is_not_a_plain_number_is_refused(value):
    with pytest.raises(BadRequest):
        parse_request_head(Listener.INFERENCE, [HOST, (b"Content-Length", value)])


@pytest.mark.parametrize(
    "value",
    [
        b"identity, chunked",
        b"chunked, identity",
        b",chunked",
        b"gzip, chunked",
        b"xchunked",
        b"chunked;q=1",
        b'"chunked"',
        b"identity",
        b"",
        b"chunked ",
        b"\x0bchunked",
    ],
)
def test_a_transfer_encoding_that_is_not_exactly_chunked_is_refused(value):
    with pytest.raises(BadRequest):
        parse_request_head(Listener.INFERENCE, [HOST, (b"Transfer-Encoding", value)])


def test_chunked_is_understood_in_http_1_1_only():
    assert parse_request_head(Listener.INFERENCE, [HOST, (b"Transfer-Encoding", b"Chunked")]).chunked
    with pytest.raises(BadRequest):
        parse_request_head(Listener.INFERENCE, [HOST, (b"Transfer-Encoding", b"chunked")], "1.0")


def test_host_may_be_missing_in_http_1_0_only():
    assert parse_request_head(Listener.INFERENCE, [], "1.0").host is None
    with pytest.raises(BadRequest):
        parse_request_head(Listener.INFERENCE, [])


def test_a_client_that_waits_for_100_is_known_and_no_other_expectation_is_taken():
    head = parse_request_head(Listener.INFERENCE, [HOST, (b"Expect", b"100-Continue")])
    assert head.continues
    assert head.passing == []
    with pytest.raises(BadRequest):
        parse_request_head(Listener.INFERENCE, [HOST, (b"Expect", b"something")])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\0", b"\xe4", b"a\tb", b"Content-Length ", b"(x)"])
@pytest.mark.parametrize("listener", Listener)
def test_a_name_that_is_no_token_is_refused(listener, name):
    with pytest.raises(BadRequest):
        parse_request_head(listener, [HOST, (name, b"1")])


@pytest.mark.parametrize("control", [*range(9), *range(10, 32), 127])
@pytest.mark.parametrize("listener", Listener)
def test_a_value_with_a_control_character_is_refused_also_where_the_header_is_dropped(listener, control):
    with pytest.raises(BadRequest):
        parse_request_head(listener, [HOST, (b"x-any", b"a" + bytes([control]) + b"b")])


def test_a_tab_and_bytes_beyond_ascii_are_part_of_a_value():
    headers = [(b"x-any", b"a\tb"), (b"x-more", "ä".encode())]
    assert parse_request_head(Listener.INFERENCE, [HOST, *headers]).passing == headers


@pytest.mark.parametrize("value", [b"", b"a b", b"a/token", b"a" * 129, b"\xe4", b'a"b', b"{}"])
def test_a_request_id_that_is_not_well_formed_is_as_none(value):
    assert parse_request_head(Listener.INFERENCE, [HOST, (b"X-Request-Id", value)]).request_id is None


def test_two_request_ids_are_as_none():
    headers = [HOST, (b"X-Request-Id", b"a"), (b"x-request-id", b"b")]
    assert parse_request_head(Listener.INFERENCE, headers).request_id is None


@pytest.mark.parametrize("values", [[b"a", b"b", b"c"], [b"a", b"a"], [b"not/one", b"b"], [b"a", b""]])
def test_request_ids_are_as_none_when_there_are_several(values):
    headers = [HOST, *((b"X-Request-Id", value) for value in values)]
    assert parse_request_head(Listener.INFERENCE, headers).request_id is None


def test_an_answer_keeps_its_end_to_end_headers_and_its_length_is_known():
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"1"), (b"Connection", b"keep-alive, X-Hop")]
    headers += [(b"X-Hop", b"1"), (b"content-length", b"12"), (b"Pragma", b"no-cache"), (b"Keep-Alive", b"5")]
    head = parse_answer_head(headers)
    assert head.passing == [(b"content-type", b"application/json"), (b"Pragma", b"no-cache")]
    assert (head.length, head.chunked) == (12, False)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Length", b"1"), (b"Content-Length", b"2")],
        [(b"Content-Length", b"+1")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")],
    ],
)
def test_an_answer_whose_framing_is_in_doubt_is_not_passed_on(headers):
    with pytest.raises(UpstreamFailed):
        parse_answer_head(headers)


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON", b"application/json; charset=utf-8"])
def test_json_is_known_by_its_mime_type_alone(kind):
    assert is_json(kind)


@pytest.mark.parametrize("kind", [None, b"", b"text/json", b"application/jsonx", b"text/plain; application/json"])
def test_other_types_are_not_json(kind):
    assert not is_json(kind)


@settings(deadline=None)
@given(
    st.sampled_from(Listener),
    st.lists(
        st.tuples(
            st.sampled_from(
                [name for name, _ in TYPICAL] + [b"Transfer-Encoding", b"Expect", b"TE", b"x-any", b"Upgrade"]
            ),
            st.sampled_from([b"1", b"chunked", b"close, x-any", b"100-continue", b"a/token", b"x"]),
        ),
        max_size=6,
    ),
)
def test_nothing_that_frames_a_message_or_names_its_sender_ever_passes(listener, headers):
    try:
        head = parse_request_head(listener, headers)
    except BadRequest:
        return
    never = {b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade", b"te", b"host"}
    never |= {b"authorization", b"x-request-id"}
    assert never.isdisjoint(name.lower() for name, _ in head.passing)
    assert not (head.chunked and head.length is not None)
    if listener is Listener.MANAGEMENT:
        assert all(b"/token" not in value for _, value in head.passing)
