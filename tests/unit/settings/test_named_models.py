"""A key that names models names all, none or these, and says so in one way."""

import pytest

from torchserve_guard.settings import named_models
from torchserve_guard.wire import parameters


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("*", None),
        (" * ", None),
        ("none", frozenset()),
        ("counting", {"counting"}),
        ("a,b", {"a", "b"}),
        (" a , b.c-d ", {"a", "b.c-d"}),
        ("a,a", {"a"}),
        ("a+b@c", {"a+b@c"}),
        ("NONE", {"NONE"}),
    ],
)
def test_all_none_or_these(text, names):
    assert named_models.parse(text) == names


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ",", "a,", ",a", "a,,b", "a b", "a,*", "*,*", "none,a", "a,none", "**", "a*", "../a", "a/b", "a..b"),
        *("a%2fb", ".a", "ä", "a\tb", "a\nb", "a\0", "a;b", "`a`", "a" * 129, "-a"),
    ],
)
def test_what_has_no_one_meaning_is_refused_and_says_what_to_write(text):
    with pytest.raises(ValueError, match="or write `\\*` for all or `none`"):
        named_models.parse(text)


def test_what_a_call_may_name_can_be_named_and_nothing_else():
    assert named_models.MODEL_NAME == parameters.NAME_RULE
