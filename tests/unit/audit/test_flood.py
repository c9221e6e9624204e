"""The flood: what many refusals cost the record, and that none goes uncounted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.audit.flood import FROM_ALL, FROM_ALL_EACH_S, FROM_ONE, Flood


def test_one_that_asks_for_much_has_a_line_for_each_at_first_and_then_now_and_then():
    flood = Flood(0.0)
    assert sum(flood.admits("inference", "r", "a", 404, 0.0) for _ in range(1000)) == FROM_ONE
    assert sum(flood.admits("inference", "r", "a", 404, 30.0) for _ in range(1000)) == 30
    assert flood.admits("inference", "r", "b", 404, 30.0)


def test_many_together_are_bounded_too():
    flood = Flood(0.0)
    assert sum(flood.admits("inference", "r", f"{n}", 404, 0.0) for n in range(100_000)) == FROM_ALL
    assert len(flood._each) <= 1024
    assert sum(flood.admits("inference", "r", f"{n}", 404, 10.0) for n in range(1000)) == 10 * FROM_ALL_EACH_S


def test_nonsense_hides_nobodys_attempt_at_a_right():
    flood = Flood(0.0)
    for number in range(100_000):
        flood.admits("inference", "wire.route", f"{number}", 404, 0.0)
    assert all(flood.admits("inference", "deny", "mallory", status, 0.0) for status in (401, 403, 405))


@pytest.mark.parametrize("other", ["inference", "metrics"])
def test_a_flood_where_everybody_may_ask_hides_nobodys_attempt_to_manage(other):
    flood = Flood(0.0)
    for number in range(10_000):
        flood.admits(other, "no-key", f"{number}", 401, 0.0)
        flood.admits(other, "no-key", "mallory", 401, 0.0)
    assert all(flood.admits("management", "no-key", "mallory", 401, 0.0) for _ in range(5))
    assert flood.summary(0.0, last=True)["listeners"].keys() == {other}


def test_a_flood_of_methods_that_are_none_is_nonsense_though_its_answer_is_405():
    flood = Flood(0.0)
    for number in range(10_000):
        flood.admits("management", "wire.method", f"{number}", 405, 0.0)
    assert flood.admits("management", "mode-none", "mallory", 405, 0.0)


def test_the_rest_is_summed_up_with_rules_and_the_busiest_sources():
    flood = Flood(0.0)
    assert flood.summary(100.0) is None
    for _ in range(150):
        flood.admits("inference", "r", "a", 404, 100.0)
    for _ in range(120):
        flood.admits("inference", "s", "b", 400, 100.0)
    assert flood.summary(105.0) == {
        "count": 70,
        "listeners": {"inference": 70},
        "rules": {"r": 50, "s": 20},
        "peers": {"a": 50, "b": 20},
    }
    flood.admits("inference", "r", "a", 404, 105.0)
    for _ in range(10):
        flood.admits("inference", "r", "a", 404, 105.0)
    assert flood.summary(106.0) is None
    assert flood.summary(106.0, last=True) is not None


asked = st.lists(st.tuples(st.sampled_from("rs"), st.sampled_from("ab"), st.sampled_from([403, 404]), st.floats(0, 50)))


@given(asked, st.integers(1, 300))
def test_each_refusal_has_a_line_or_is_counted_whatever_the_clock_does(refusals, times):
    flood, lines = Flood(0.0), 0
    for rule, source, status, now in refusals:
        lines += sum(flood.admits("inference", rule, source, status, now) for _ in range(times))
    summary = flood.summary(0.0, last=True)
    assert lines + (summary["count"] if summary else 0) == len(refusals) * times
