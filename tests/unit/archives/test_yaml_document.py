"""A YAML document has one meaning for every reader, and costs no more than it is worth."""

from __future__ import annotations

import contextlib
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.archives import yaml_document
from torchserve_guard.archives.document import Malformed

LAUGHS = "a0: &a0 [1, 2]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(24))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("---\n", "is no mapping"),
        ("- a\n", "is no mapping"),
        ("a: [", "is not YAML"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("useVenv: !!bool true", "tag"),
        ("%TAG ! tag:yaml.org,2002:\n---\nuseVenv: !bool true", "tag"),
        ("a: !!python/object/apply:os.system [id]", "tag"),
        ("a: !mine 1", "tag"),
        ("useVenv: false\nuseVenv: true", r"`useVenv` twice \(line 2\)"),
        ("useVenv: false\n'useVenv': true", "twice"),
        ('useVenv: false\n"\\x75seVenv": true', "twice"),
        ("handler: {a: 1, a: 2}", "twice"),
        ("x: &a useVenv\nuseVenv: false\n*a : true", "twice"),
        ("b: &b {useVenv: true}\n<<: *b", "merge key"),
        ("b:\n  <<: {a: 1}", "merge key"),
        (LAUGHS, "values with its aliases written out"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a 1\nb: [" + "*a," * 51 + "]", "more than 50 aliases"),
        ("a: " + "[" * 33 + "]" * 33, "nested more than 32 deep"),
        ("".join(" " * n + "a:\n" for n in range(100)), "nested more than 32 deep"),
        ("a: [" + "1," * 30_000 + "]", "more than 10000 values"),
        ("a: " + "x" * (256 << 10), "larger than the limit"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("a: 1" + ":1" * 5000, "a number of"),
        ("a: 2001-99-99", "cannot read"),
        ("a: 0b_", "cannot read"),
        ("1: 2", "`1`, which is no word but a int"),
        ("on: 1", "`True`, which is no word but a bool"),
        ("? \n: 1", "`None`, which is no word"),
        ("? [a]\n: 1", "no word"),
        ("\ufeffuseVenv: true", "ufeff"),
        ("# harmless\u2028useVenv: true", "u2028"),
        ("# harmless\x85useVenv: true", "x85"),
        ("# harmless\ruseVenv: true", r"\\r"),
    ],
)
def test_what_readers_may_take_in_two_ways_or_cannot_afford_is_refused(text, why):
    started = time.monotonic()
    with pytest.raises(Malformed, match=why):
        yaml_document.parse(text.encode())
    assert time.monotonic() - started < 10


def test_what_is_not_utf_8_is_refused():
    for data in (b"a: \xff", "a: 1".encode("utf-16"), "a: 1".encode("utf-32")):
        with pytest.raises(Malformed, match="UTF-8"):
            yaml_document.parse(data)


def test_an_ordinary_document_is_what_the_workers_reader_makes_of_it():
    text = "minWorkers: 1\r\nhandler:\r\n  model: &m {a: [1, 2.5, null, yes], b: 2020-01-01}\r\n  same: *m\r\n"
    found = yaml_document.parse(text.encode())
    assert found.value == yaml.safe_load(text)
    assert found.lines == {"minWorkers": 1, "handler": 2}


words = st.text("abcXYZ09 :-'\"é\t", max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(words, values, max_size=5))
def test_whatever_pyyaml_writes_is_read_as_it_was(value):
    assert yaml_document.parse(yaml.safe_dump(value, allow_unicode=True).encode()).value == value


@given(st.text("a1:[]{},&*!<>|-?%#'\"\\ \n\t", max_size=60) | st.text(max_size=60))
def test_any_text_is_a_document_of_pyyaml_or_refused_and_nothing_else_happens(text):
    try:
        found = yaml_document.parse(text.encode("utf-8", "surrogatepass"))
    except Malformed:
        return
    assert found.value == yaml.safe_load(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_refused(data):
    with contextlib.suppress(Malformed):
        assert isinstance(yaml_document.parse(data).value, dict)
