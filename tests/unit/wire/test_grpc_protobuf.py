"""The reader of protobuf, held against google's own on TorchServe's own messages."""

import messages
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.errors import BadRequest
from torchserve_guard.wire.grpc.calls import CALLS
from torchserve_guard.wire.grpc.protobuf import MOST_FIELDS, Kind, parse, render

READ = [call for call in CALLS if any(field.kind is not Kind.PASSED for field in call.fields)]
VALUES = {
    Kind.TEXT: st.text(max_size=40),
    Kind.INTEGER: st.integers(-(2**31), 2**31 - 1),
    Kind.BOOLEAN: st.booleans(),
}


@st.composite
def filled(draw):
    """A method, and values for some of the fields of its message."""
    call = draw(st.sampled_from(READ))
    fields = [field for field in call.fields if field.kind is not Kind.PASSED]
    chosen = draw(st.lists(st.sampled_from(fields), unique=True))
    return call, {field.name: draw(VALUES[field.kind]) for field in chosen}


def theirs(call, message: bytes) -> dict[str, object]:
    """What google's reader finds in the fields that ours reads."""
    parsed = messages.of(call.path)[0].FromString(message)
    values = {field.name: getattr(parsed, field.name) for field in call.fields if field.kind is not Kind.PASSED}
    return {name: value for name, value in values.items() if value}


def verify_theirs(call, message: bytes, found: dict[str, object]) -> None:
    """Hold that google's reader finds the same, if it finds a message at all."""
    try:
        known = theirs(call, message)
    except DecodeError:
        # Only what lies inside of a field that passes unread can still be no message; TorchServe takes none of it.
        assert any(field.kind is Kind.PASSED for field in call.fields)
        return
    assert found == known


@given(filled())
def test_what_googles_writer_writes_is_read_as_it_was_meant_and_written_as_it_writes_it(case):
    call, values = case
    written = messages.request(call.path, **values)
    assert parse(written, call.tags) == {name: value for name, value in values.items() if value}
    ours = render((field, values[field.name]) for field in call.fields if field.name in values)
    assert ours == written


@given(st.sampled_from(READ), st.binary(max_size=60))
def test_whatever_is_accepted_is_read_by_google_in_the_same_way(call, message):
    try:
        found = parse(message, call.tags)
    except BadRequest:
        return
    verify_theirs(call, message, found)


@given(filled(), st.data())
def test_one_changed_byte_never_makes_the_two_readers_differ(case, data):
    call, values = case
    message = bytearray(messages.request(call.path, **values))
    if message:
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse(bytes(message), call.tags)
    except BadRequest:
        return
    verify_theirs(call, bytes(message), found)


SET_DEFAULT = next(call for call in CALLS if call.method == "SetDefault")
SCALE = next(call for call in CALLS if call.method == "ScaleWorker")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x0a\x01a\x0a\x01b", "more than once"),
        (b"\x0a\x00\x0a\x01b", "more than once"),
        (b"\x0a\x01a\x1a\x01x", "not known"),
        (b"\x08\x01", "not known"),
        (b"\x0a\x05abc", "cut off"),
        (b"\x0a", "cut off"),
        (b"\x8a\x00\x01a", "longer than it is"),
        (b"\x0a\x81\x00a", "longer than it is"),
        (b"\x0a" + b"\xff" * 10, "does not end"),
        (b"\x0a\x01\xff", "UTF-8"),
        (b"\x0a\x03\xed\xa0\x80", "UTF-8"),
        (b"\x0b\x0c", "not known"),
        (b"\x02\x01a", "not known"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(message, reason):
    with pytest.raises(BadRequest) as caught:
        parse(message, SET_DEFAULT.tags)
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    "message",
    [
        b"\x20\x81\x80\x80\x80\x10",  # min_worker: 2**32 + 1, which Java reads as 1
        b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x30\x02",  # synchronous: 2
    ],
)
def test_a_number_that_java_would_cut_is_refused(message):
    with pytest.raises(BadRequest):
        parse(message, SCALE.tags)


def test_a_message_of_nothing_but_fields_does_not_keep_the_door_busy():
    call = next(call for call in CALLS if call.method == "Predictions")
    assert parse(b"\x1a\x00" * MOST_FIELDS, call.tags) == {}
    with pytest.raises(BadRequest):
        parse(b"\x1a\x00" * (MOST_FIELDS + 1), call.tags)
