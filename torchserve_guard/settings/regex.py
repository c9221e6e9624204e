"""Regular expressions as TorchServe has them: java.util.regex.Pattern, translated into Python's `re`.

Pure. What one of the two reads otherwise than the other is translated, or refused where it cannot be; so what
compiles here compiles there, and matches the same (but a word's boundary beside what is not ASCII, where Java's own
versions differ). Raises `ValueError` that completes "`value` ...".
"""

from __future__ import annotations

import re
import warnings

# Java's escapes by the letter behind the backslash (java.util.regex.Pattern), ASCII as there without UNICODE flags.
OUTSIDE = {
    "A": r"\A",
    "B": r"(?!\b)",
    "b": r"\b",
    "R": r"(?:\r\n|[\n\x0b\f\r\x85\u2028\u2029])",
    "Z": r"(?=(?:\r\n|[\n\r\x85\u2028\u2029])?\Z)",
    "z": r"\Z",
}
BARE = {".": r"[^\n\r\x85\u2028\u2029]", "$": OUTSIDE["Z"], "^": r"\A", ")": ")", "|": "|"}
SINGLE = {"a": r"\x07", "e": r"\x1b", "f": r"\f", "n": r"\n", "r": r"\r", "t": r"\t"}
CLASSES = {
    "d": "0-9",
    "h": r" \t\xa0\u1680\u180e\u2000-\u200a\u202f\u205f\u3000",
    "s": r" \t\n\x0b\f\r",
    "v": r"\n\x0b\f\r\x85\u2028\u2029",
    "w": "a-zA-Z_0-9",
}
POSIX = {
    "Lower": "a-z",
    "Upper": "A-Z",
    "ASCII": r"\x00-\x7f",
    "Alpha": "a-zA-Z",
    "Digit": "0-9",
    "Alnum": "a-zA-Z0-9",
    "Punct": r"!-/:-@\[-`{-~",
    "Graph": "!-~",
    "Print": " -~",
    "Blank": r" \t",
    "Cntrl": r"\x00-\x1f\x7f",
    "XDigit": "0-9a-fA-F",
    "Space": r" \t\n\x0b\f\r",
}
HEX = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")
NAMED = re.compile(r"\\([pP])\{([A-Za-z]+)\}")
QUANTIFIER = re.compile(r"\{[0-9]{1,5}(?:,(?:[0-9]{1,5})?)?\}[?+]?|[*+?][?+]?")
GROUP = re.compile(r"\(\?(?::|=|!|>|<=|<!|<([a-zA-Z][a-zA-Z0-9]*)>|(-?i:))|\((?!\?)")
NOT = re.compile(r"\^")
SET_END = re.compile(r"\]")
DASH = re.compile(r"-(?=[^\]\[])")
SURROGATES = (0xD800, 0xDFFF)
LEADING_FLAG = re.compile(r"\(\?i\)")
LONGEST = 10_000


def compiled(text: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """Return the expression; use `fullmatch`, as TorchServe uses `matches`."""
    if len(text) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} characters")
    translated = _Translation(text).whole()
    # Java folds ASCII only, without UNICODE_CASE.
    flags = re.ASCII | (re.IGNORECASE if ignore_case else re.NOFLAG)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return re.compile(translated, flags)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise ValueError(f"is not a regular expression that can be checked ({error}); mend or simplify it") from error


def each(text: str) -> tuple[re.Pattern[str], ...]:
    """Return the expressions of `allowed_urls`, which TorchServe splits at every comma (getAllowedUrls)."""
    return tuple(_one(part) for part in text.split(",")) if text else ()


def _one(part: str) -> re.Pattern[str]:
    try:
        return compiled(part, ignore_case=True)
    except ValueError as error:
        raise ValueError(f"holds `{part}`, which {error}; a comma separates expressions, wherever it stands") from None


class _Translation:
    """One expression on its way, from the left to the right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> str:
        """Return all of it as Python reads it."""
        parts: list[str] = []
        flags = self._taken(LEADING_FLAG)
        while self.at < len(self.text):
            parts.append(self._next())
        return (flags[0] if flags else "") + "".join(parts)

    def _next(self) -> str:
        one = self.text[self.at]
        reader = {"\\": self._outside, "[": self._set, "(": self._group, "{": self._quantifier}.get(one)
        reader = self._quantifier if one in "*+?" else reader
        if reader is not None:
            return reader()
        self.at += 1
        return BARE[one] if one in BARE else re.escape(one)

    def _quantifier(self) -> str:
        match = self._taken(QUANTIFIER)
        if match is None:
            raise ValueError("has a `{` that Java takes for a broken repetition; write `\\{` for the character")
        return match[0]

    def _group(self) -> str:
        match = self._taken(GROUP)
        if match is None:
            raise ValueError(f"has a group `{self.text[self.at : self.at + 4]}` that cannot be checked; simplify it")
        return f"(?P<{match[1]}>" if match[1] else match[0]

    def _outside(self) -> str:
        """Return what an escape outside a set stands for."""
        letter = self.text[self.at + 1 : self.at + 2]
        if letter == "Q":
            return self._quoted()
        if letter in OUTSIDE:
            self.at += 2
            return OUTSIDE[letter]
        members, _ = self._escape()
        return members

    def _escape(self, *, inside: bool = False) -> tuple[str, bool]:
        """Return what an escape stands for, and whether it is one character and not a class of them."""
        if match := self._taken(HEX):
            return _character(int(match[1] or match[2], 16)), True
        if match := self._taken(NAMED):
            return _class(POSIX.get(match[2]), negated=match[1] == "P", inside=inside), False
        letter = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        if letter in SINGLE:
            return SINGLE[letter], True
        if letter.lower() in CLASSES:
            return _class(CLASSES[letter.lower()], negated=letter.isupper(), inside=inside), False
        if not letter or (letter.isascii() and letter.isalnum()):
            raise ValueError(f"has an escape `\\{letter}` that is broken, or cannot be checked; write it otherwise")
        return re.escape(letter), True

    def _quoted(self) -> str:
        start = self.at + 2
        end = self.text.find("\\E", start)
        end = len(self.text) if end < 0 else end
        self.at = end + 2
        return re.escape(self.text[start:end])

    def _set(self) -> str:
        self.at += 1
        head = "[^" if self._taken(NOT) else "["
        parts: list[str] = []
        while not self._taken(SET_END):
            parts.append(self._range())
        if not parts:
            # Java takes the `]` for a member, and did not always.
            raise ValueError("has a set that begins with `]`; write `\\]` for the character")
        return f"{head}{''.join(parts)}]"

    def _range(self) -> str:
        low, single = self._member()
        if not (single and self._taken(DASH)):
            return low
        high, single = self._member()
        if not single:
            raise ValueError("has a range that ends in a class of characters; write its members")
        return f"{low}-{high}"

    def _member(self) -> tuple[str, bool]:
        one = self.text[self.at : self.at + 1]
        if not one or one == "[" or self.text.startswith("&&", self.at):
            raise ValueError("has a `[` that is not closed, or a set in a set, which cannot be checked")
        if one == "\\":
            return self._escape(inside=True)
        self.at += 1
        return re.escape(one), True

    def _taken(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()
        return match


def _character(number: int) -> str:
    if SURROGATES[0] <= number <= SURROGATES[1]:
        raise ValueError("has half of a surrogate pair; write the character itself")
    return re.escape(chr(number))


def _class(members: str | None, *, negated: bool, inside: bool) -> str:
    if members is None or (negated and inside):
        raise ValueError("has a class of characters that cannot be checked; write its members")
    return members if inside else f"[{'^' if negated else ''}{members}]"
