"""The trace: what W3C Trace Context allows goes on as it came, and nothing else does."""

import pytest

from torchserve_guard.proxy.head import RequestReader
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.wire import Listener
from torchserve_guard.wire.trace import LONGEST_STATE, MOST_MEMBERS, parse_state, trace_id_of

TRACE, SPAN = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
PARENT = b"00-%b-%b-01" % (TRACE, SPAN)


@pytest.mark.parametrize(
    "parent", [PARENT, b"cc" + PARENT[2:], b"cc" + PARENT[2:] + b"-later", b"cc" + PARENT[2:] + b"-"]
)
def test_a_valid_parent_names_its_trace(parent):
    assert trace_id_of(parent) == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        PARENT.upper(),
        b"ff" + PARENT[2:],
        b"0" + PARENT[1:].lstrip(b"0"),
        PARENT + b"-00",
        PARENT + b"0",
        PARENT + b"\n",
        b" " + PARENT,
        PARENT[:-1],
        PARENT.replace(b"-", b"_"),
        b"cc" + PARENT[2:] + b"later",
        b"cc" + PARENT[2:] + b"-" + b"x" * 300,
        PARENT.replace(TRACE, b"0" * 32),
        PARENT.replace(SPAN, b"0" * 16),
        PARENT.replace(TRACE, b"g" * 32),
    ],
)
def test_any_other_names_none(parent):
    assert trace_id_of(parent) is None


def test_a_state_in_several_lines_is_one():
    assert parse_state([b"rojo=00f067aa0ba902b7 ,\tcongo=t61rcWkgMzE", b"", b"fw529a3039@dt=FfAA,"]) == (
        b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE,fw529a3039@dt=FfAA"
    )


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b""],
        [b","],
        [b"a"],
        [b"A=1"],
        [b"a=1,a=2"],
        [b"a=1=2"],
        [b"a="],
        [b"a=1", b"bad"],
        [b"a=\x7f"],
        [b"1=1"],
        [b"a@=1"],
        [b"a=" + b"x" * 257],
        [b"k" * 257 + b"=1"],
        [b",".join(b"k%d=1" % n for n in range(MOST_MEMBERS + 1))],
        [b"a=" + b"x" * LONGEST_STATE],
    ],
)
def test_a_state_that_is_none_is_dropped_as_a_whole(lines):
    assert parse_state(lines) is None


def test_as_many_members_as_are_allowed_pass():
    text = b",".join(b"k%d=1" % n for n in range(MOST_MEMBERS))
    assert parse_state([text]) == text


def read(listener: Listener, *lines: bytes):
    return RequestReader(listener, Limits()).read(b"\r\n".join([b"GET /ping HTTP/1.1", b"Host: x", *lines]))


def test_what_is_valid_passes_as_it_came_and_what_is_not_does_not():
    head = read(Listener.INFERENCE, b"TraceParent: " + PARENT, b"tracestate: a=1", b"TRACESTATE: b=2")
    assert head.trace == TRACE
    assert head.passed == [b"traceparent: " + PARENT + b"\r\n", b"tracestate: a=1,b=2\r\n"]
    for parents in ([], [PARENT.upper()], [PARENT, PARENT]):
        head = read(Listener.INFERENCE, *[b"traceparent: " + one for one in parents], b"tracestate: a=1")
        assert (head.trace, head.passed) == (None, [])


def test_nothing_that_stock_would_take_for_a_key_rotation_passes_to_management():
    head = read(Listener.MANAGEMENT, b"traceparent: " + PARENT, b"tracestate: a/token=1,b=/token")
    assert (head.trace, head.passed) == (TRACE, [b"traceparent: " + PARENT + b"\r\n"])
    later = b"cc" + PARENT[2:] + b"-/token"
    assert read(Listener.INFERENCE, b"traceparent: " + later).trace == TRACE
    head = read(Listener.MANAGEMENT, b"traceparent: " + later)
    assert (head.trace, head.passed) == (None, [])
