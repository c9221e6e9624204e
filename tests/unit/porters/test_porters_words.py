"""What the guard and its porters say to each other comes out as it went in, and nothing else comes in."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard import errors
from torchserve_guard.access import CERTIFIED, Mode, Principal
from torchserve_guard.audit import Entry
from torchserve_guard.identity import Certificate, Hashed
from torchserve_guard.policy import Access
from torchserve_guard.policy.closure import Closure
from torchserve_guard.porters import orders, reports
from torchserve_guard.porters.orders import Logbook, Material, Post
from torchserve_guard.porters.reports import Wanted
from torchserve_guard.porters.shares import OwnShare, Shares
from torchserve_guard.proxy import Limits, ListenerSpec, Stats
from torchserve_guard.proxy.enforcement import Asked
from torchserve_guard.wire import Listener

KEYS = (
    Hashed(b"\x00\xff" * 16, None, Principal("api-key", frozenset({"api"}))),
    Hashed(b"\x01" * 32, 12.5, Principal("inference-key", frozenset({"inference"}))),
)
TLS = Material(b"-----BEGIN\xff", b"key", None, weak=False)
CLOSED = (("noop", "1.0", Closure("changed", lasting=True)),)
CERTIFICATE = Certificate(Principal("CN=alice", frozenset({CERTIFIED})), ("dns:a",), 1.0, 2.0)


def carried(document):
    return json.loads(json.dumps(document))


def post(**more) -> Post:
    spec = ListenerSpec("http://127.0.0.1:8080", "unix:/ts.sock", b"Authorization: Bearer x", ("unix:/also",))
    return Post(
        {Listener.INFERENCE: spec},
        {"http://127.0.0.1:8080": (7, 8)},
        Limits(body=None, model_concurrency=3),
        Access(Mode.EXPLICIT, keys_required=True),
        KEYS,
        TLS,
        **more,
    )


@pytest.mark.parametrize(
    "told",
    [
        post(),
        post(closures=CLOSED, access_log=Logbook("/a.log", "json", 1, 2), models={"noop": {"1.0": "ab"}}, place=3),
    ],
)
def test_a_porter_begins_with_what_the_guard_posted(told):
    assert orders.post_of(carried(orders.begin(told))) == told


def test_orders_come_out_as_they_went_in():
    assert orders.keys_of(carried(orders.keys(KEYS))) == KEYS
    assert orders.material_of(carried(orders.certificates(TLS))) == TLS
    assert orders.closures_of(carried(orders.closures(CLOSED))) == CLOSED


def test_no_key_and_no_token_is_shown_where_a_post_is():
    shown = repr(post())
    assert "Bearer" not in shown
    assert "key=" not in shown.replace("tls=Material", "")


@given(
    st.builds(
        Asked,
        listener=st.sampled_from(Listener),
        peer=st.text(),
        method=st.text(),
        target=st.binary(),
        request_id=st.binary(),
        authorization=st.none() | st.binary(),
        certificate=st.sampled_from((None, CERTIFICATE)),
        host=st.none() | st.binary(),
        from_page=st.booleans(),
        door=st.just(""),
    ),
    st.none() | st.binary(),
)
def test_a_management_request_comes_out_as_it_went_in(asked, body):
    want = Wanted(1, asked, body)
    assert reports.wanted_of(carried(reports.wanted(want))) == want


def test_reports_come_out_as_they_went_in():
    stats = Stats(*range(len(Stats.__slots__)))
    assert reports.stats_of(carried(reports.took(1, stats))) == stats
    assert reports.stats_of(carried(reports.took(1, None))) is None
    entry = Entry(5.0, "refusal", {"reason": "x", "status": 401, "rule": None})
    assert reports.entry_of(carried(reports.entry(entry)), 5.0) == entry
    summed_up = Entry(5.0, "refusals-summarized", {"count": 3, "rules": {"a": 3}})
    assert reports.entry_of(carried(reports.entry(summed_up)), 5.0) == summed_up
    assert reports.outcome_of(carried(reports.outcome(4, None))) == (4, None)
    assert reports.line_of(carried(reports.granted(4, b"PUT /models/\xff"))) == b"PUT /models/\xff"


@pytest.mark.parametrize(
    "kind", [errors.BadRequest, errors.Unauthenticated, errors.Forbidden, errors.MethodNotAllowed, errors.Unavailable]
)
def test_a_refusal_comes_out_as_it_went_in(kind):
    why = reports.why_of(carried(reports.refused(1, kind("told", reason="logged", rule="r"))))
    assert (type(why), why.message, why.reason, why.rule) == (kind, "told", "logged", "r")


def test_a_porter_cannot_give_a_client_another_role():
    document = carried(
        reports.wanted(Wanted(1, Asked(Listener.INFERENCE, "", "", b"", b"", None, certificate=CERTIFICATE), None))
    )
    document["certificate"]["roles"] = ["api"]
    assert reports.wanted_of(document).asked.certificate.principal.roles == {CERTIFIED}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NAMES = st.sampled_from(("number", "stats", "event", "fields", "ticket", "listener", "peer", "certificate", "status"))


PARSERS = (
    reports.number_of,
    reports.stats_of,
    reports.wanted_of,
    reports.outcome_of,
    lambda document: reports.entry_of(document, 0.0),
)


@given(st.dictionaries(NAMES, JSON))
def test_whatever_a_porter_says_is_parsed_or_refused(document):
    for parse in PARSERS:
        with contextlib.suppress(ValueError):
            parse(document)


def test_who_has_more_connections_than_another_is_ahead_and_nobody_waits_for_who_is_away():
    shares = Shares(3)
    first, second = (OwnShare(_copy(shares), place) for place in range(2))
    assert not first.is_ahead()
    first.tell(1)
    assert first.is_ahead()
    second.tell(1)
    assert not first.is_ahead()
    first.tell(2)
    shares.leave(1)
    assert not first.is_ahead()
    shares.close()


def _copy(shares: Shares) -> int:
    return os.dup(shares.descriptor)


def test_nobody_can_shorten_what_the_others_have_mapped():
    shares = Shares(2)
    with pytest.raises(PermissionError):
        os.ftruncate(shares.descriptor, 0)
    shares.close()
