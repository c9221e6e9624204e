"""Patience: what costs a client nothing is counted, what it must say is not, and a second forgives a second's worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.http2 import Broken, Code
from torchserve_guard.http2.patience import Patience


def until_broken(say, most=100_000):
    """How often it may be said."""
    for times in range(most):
        try:
            say()
        except Broken as error:
            return times if error.code is Code.CALM else error
    return None


def test_what_carries_nothing_may_be_said_ten_thousand_times_and_a_thousand_a_second():
    patience = Patience(endless=False)
    assert until_broken(patience.talk) == 10_000
    for _ in range(3):
        patience.calm()
    assert until_broken(patience.talk) == 2999


def test_a_window_that_is_opened_for_nothing_carries_nothing():
    patience = Patience(endless=False)
    assert until_broken(patience.opened) == 10_000
    patience.calm()
    assert until_broken(patience.opened) == 999


@given(st.lists(st.integers(0, 16_384), max_size=50))
def test_a_window_may_be_opened_four_times_for_each_frame_and_once_for_each_kibibyte_of_it(sizes):
    patience = Patience(endless=False)
    for size in sizes:
        patience.sent(size)
    assert until_broken(patience.opened) == 10_000 + sum(4 + size // 1024 for size in sizes)


def test_what_was_sent_long_ago_allows_no_flood_of_windows():
    patience = Patience(endless=False)
    for _ in range(100_000):
        patience.sent(16_384)
    assert until_broken(patience.opened) == 20_000


def test_streams_that_are_given_up_are_a_thousand_and_thirty_three_a_second():
    patience = Patience(endless=False)
    for _ in range(1000):
        patience.given_up()
    patience.verify()
    for _ in range(34):
        patience.given_up()
    with pytest.raises(Broken) as caught:
        patience.verify()
    assert caught.value.code is Code.CALM
    patience.calm()
    with pytest.raises(Broken):
        patience.verify()
    patience.calm()
    patience.verify()


def test_torchserve_is_forgiven_everything():
    patience = Patience(endless=True)
    for _ in range(2000):
        patience.given_up()
    patience.verify()
    assert until_broken(patience.talk, 30_000) is None
    assert until_broken(patience.opened, 30_000) is None
