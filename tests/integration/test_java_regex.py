"""What we take for a regular expression is one to Java, and matches the same texts there.

The real java.util.regex.Pattern judges all expressions in one process: tests/java/Expressions.java, whose class file
lies beside it (`javac --release 11 -g:none Expressions.java` makes it).
"""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import servers

from torchserve_guard.settings import regex

JAVA = Path(servers.__file__).parent / "java"
DRAWN = 30_000
SEED = 20_260_102
IGNORE_CASE = 2  # Pattern.CASE_INSENSITIVE
BROKEN = -1

PIECES = (
    *(
        "a",
        "b",
        "A",
        "Z",
        "0",
        "9",
        "_",
        "-",
        ":",
        "/",
        " ",
        "\n",
        "\u00e9",
        "\u212a",
        ",",
        "~",
        "&",
        "'",
        '"',
        "@",
        "%",
    ),
    *(".", "^", "$", "|", "(", ")", "(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?<n>", "(?i)", "(?i:", "(?s)", "()"),
    *("*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,}", "{0,2}", "{2,1}", "{1,2}?", "{1}+", "{", "}"),
    *("{,2}", "{a}", "{ 1}", "[", "]", "[^", "[a-z]", "[^a-c]", "[a-]", "[-a]", "[]a]", "[^]a]", "[a&&b]", "[a&]"),
    *("[a[b]]", "[z-a]", "[a-\\d]", "[\\w-]", "[\\w-.]", "[\\s-z]", "[+--]", "[--/]", "[||]", "[~~]", "[#--]", "[.$^]"),
    *("\\d", "\\D", "\\w", "\\W", "\\s", "\\S", "\\h", "\\v", "\\R", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G", "\\X"),
    *("\\.", "\\-", "\\/", "\\\\", "\\\n", "\\n", "\\t", "\\e", "\\a", "\\x41", "\\u0042", "\\x4", "\\0101", "\\cA"),
    *(
        "\\p{Alpha}",
        "\\P{Lower}",
        "\\p{L}",
        "\\p{Foo}",
        "\\Qa.b\\E",
        "\\Q[",
        "\\E",
        "\\y",
        "\\1",
        "\\k<n>",
        "\\N",
        "\\",
    ),
)
CHARACTERS = "abAZ09_-:/ \n\r\t\u00e9\u212ak,~&@%.$^[]()*+?{}\\|'\"\u2028\u0085#"
SPELT = (
    "file://.*|http(s)?://.*",
    "https://s3.amazonaws.com/.*",
    "https://s3\\.amazonaws\\.com/.*",
    "(?!)",
    "",
    ".*USERNAME.*|.*PASSWORD.*",
    ".*AWS.*|(?i)x",
    "https?://[a-z0-9.-]+(:[0-9]{1,5})?/.*\\.mar",
    "(?<year>[0-9]{4})-(?<month>[0-9]{2})",
)


def java(cases: Sequence[tuple[str, int, Sequence[str]]]) -> list[int]:
    """What Java makes of each expression: which texts it matches, bit by bit, or BROKEN."""

    def text(value: str) -> bytes:
        return struct.pack(">i", len(value)) + value.encode("utf-16-be")

    told = b"".join(
        struct.pack(">i", flags) + text(expression) + struct.pack(">i", len(texts)) + b"".join(map(text, texts))
        for expression, flags, texts in cases
    )
    command = [f"{servers.java_home()}/bin/java", "-XX:+UseSerialGC", "-cp", str(JAVA), "Expressions"]
    answer = subprocess.run(command, input=told + struct.pack(">i", -1), capture_output=True, check=True, timeout=240)
    return [value for (value,) in struct.iter_unpack(">i", answer.stdout)]


def ours(expression: str, flags: int, texts: Sequence[str]) -> int:
    """What we make of it."""
    try:
        pattern = regex.compiled(expression, ignore_case=flags == IGNORE_CASE)
    except ValueError:
        return BROKEN
    return sum(1 << number for number, text in enumerate(texts) if pattern.fullmatch(text))


def drawn(source: random.Random) -> tuple[str, int, tuple[str, ...]]:
    """An expression drawn at random, and texts that it might match."""
    expression = "".join(source.choices(PIECES, k=source.randrange(1, 7)))
    texts = ["", expression[:8], *("".join(source.choices(CHARACTERS, k=source.randrange(1, 5))) for _ in range(22))]
    if (
        "\\b" in expression.lower()
    ):  # of what is not ASCII, Java's boundary of a word depends on its version (JDK-8264160)
        texts = [text for text in texts if text.isascii()]
    return expression, source.choice((0, IGNORE_CASE)), tuple(texts)


@pytest.mark.timeout(300)
def test_what_compiles_here_compiles_in_java_and_matches_the_same():
    source = random.Random(SEED)  # noqa: S311 - drawn again and again, the same
    cases = [drawn(source) for _ in range(DRAWN)]
    taken = [(case, mine) for case in cases if (mine := ours(*case)) != BROKEN]
    theirs = java([case for case, _ in taken])
    assert len(theirs) == len(taken) > DRAWN / 5
    differing = [(case, mine, other) for (case, mine), other in zip(taken, theirs, strict=True) if mine != other]
    assert differing[:5] == []


def test_the_expressions_of_everyday_are_taken():
    texts = ("http://a/b.mar", "file:///x", "FILE://x", "AWS_KEY", "x", "", "2020-01")
    cases = [(expression, flags, texts) for expression in SPELT for flags in (0, IGNORE_CASE)]
    cases = [case for case in cases if case[0] != ".*AWS.*|(?i)x"]
    assert [ours(*case) for case in cases] == java(cases)
    assert BROKEN not in java(cases)


@pytest.mark.parametrize(
    "expression", ["(", "[", "a{", "*", "{abc}", "a**", "(?<1>x)", "[z-a]", "\\", "a{2,1}", "\\x4"]
)
def test_what_is_broken_in_java_is_broken_here(expression):
    assert java([(expression, 0, ())]) == [BROKEN]
    with pytest.raises(ValueError, match=r"is|has"):
        regex.compiled(expression)


@pytest.mark.parametrize(
    "expression", ["\\ud83d\\ude00", "\\p{L}", "(?m)a", "a(?i)b", "(a)\\1", "[a&&b]", "[^\\D]", "(?<=a{1,2})b"]
)
def test_what_java_knows_and_cannot_be_checked_here_is_refused(expression):
    assert java([(expression, 0, ())]) != [BROKEN]
    with pytest.raises(ValueError, match=r"check|surrogate"):
        regex.compiled(expression)


def test_each_expression_of_allowed_urls_stands_between_commas():
    first, second = regex.each("http://a/.*,FILE:///b")
    assert first.fullmatch("HTTP://A/x")
    assert second.fullmatch("file:///b")
    assert regex.each("") == ()
    with pytest.raises(ValueError, match=r"`http://a\{1` *, which|`http://a\{1`"):
        regex.each("http://a{1,2}/.*")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("expression", ["(" * 5_000 + ")" * 5_000, "a{99999}" * 100, "[" * 10_000, "x" * 20_000])
def test_what_is_too_much_is_refused_or_read_at_once(expression):
    with suppress(ValueError):  # either outcome is right, a hang or a crash is not
        regex.compiled(expression)
