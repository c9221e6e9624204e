"""The seeds of the fuzzers, and what they once found, hold under the same laws without a fuzzer."""

from __future__ import annotations

import pytest
from fuzz import laws, seeds


def test_each_law_has_seeds():
    assert laws.LAWS.keys() == seeds.SEEDS.keys()


@pytest.mark.parametrize("law", laws.LAWS)
def test_every_seed_is_accepted_as_others_see_it_or_refused(law):
    for data in seeds.of(law):
        laws.LAWS[law](data)
