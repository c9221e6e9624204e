"""Sources: where a stock TorchServe would fetch models from, `allowed_urls` read as Java reads it.

Each expression is tried on addresses of an attacker. Java asks for a match of the whole address, whatever its case
(ArchiveUtils.validateURL), and takes the key apart at its commas. The guard goes by the same expressions, and by the
manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from torchserve_guard.findings import Severity
from torchserve_guard.settings import regex
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told
from torchserve_guard.settings.hardening.secrets import IN_URL
from torchserve_guard.settings.keys import KEYS

DEFAULT = KEYS["allowed_urls"].default
# INVARIANT: trying an expression ends soon, since a repetition multiplies the ways by the length of an address, some 64
# fold, and an option or an alternative by two. A repetition of a group, or by number, is not tried at all.
MOST_EXPRESSIONS = 100
MOST_WAYS = 26
WEIGHTS = {"*": 6, "+": 6, "?": 1, "|": 1}
LONGEST = 512
TOO_INTRICATE = re.compile(r"\)[*+{]|[^\\]\{|\\[1-9k]")
HOST = re.compile(r"://(?P<host>[^/]+)(?P<path>[^|]*)")
LITERAL = re.compile(r"(?:\\[.\-]|[A-Za-z0-9.\-]|:(?=[0-9]))+")
USER = re.compile(r"://[^/@|()\[\]]*@")  # whoever asks for another host can name a user as well
SET = re.compile(r"\[[^\]]*\]")
ELSEWHERE = "evil.example"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An address that should not be let through: `{host}` is the one that is meant, `{like}` one that looks like it."""

    address: str
    what: str


ANYWHERE = (
    Attempt(f"https://{ELSEWHERE}/m.mar", "any host"),
    Attempt(f"http://{ELSEWHERE}/m.mar", "any host, in clear text"),
)
FILES = (
    Attempt("file:///etc/m.mar", "any file of this machine"),
    Attempt("file:/etc/m.mar", "any file of this machine"),
)
PITFALLS = (
    Attempt("https://{host}@" + ELSEWHERE + "/m.mar", "another host behind an `@`"),
    Attempt("http://{host}@" + ELSEWHERE + "/m.mar", "another host behind an `@`"),
    Attempt("https://{host}." + ELSEWHERE + "/m.mar", "another host whose name begins like it"),
    Attempt("http://{host}." + ELSEWHERE + "/m.mar", "another host whose name begins like it"),
    Attempt("https://" + ELSEWHERE + "/{host}/m.mar", "another host with this name in its path"),
    Attempt("http://" + ELSEWHERE + "/{host}/m.mar", "another host with this name in its path"),
    Attempt("https://" + ELSEWHERE + "#{host}/m.mar", "another host with this name behind a `#`"),
    Attempt("http://" + ELSEWHERE + "?{host}/m.mar", "another host with this name behind a `?`"),
    Attempt("https://evil{host}/m.mar", "another host whose name ends like it"),
    Attempt("http://evil{host}/m.mar", "another host whose name ends like it"),
    Attempt("https://{like}/m.mar", "another host, since a `.` without `\\` is any character"),
    Attempt("http://{like}/m.mar", "another host, since a `.` without `\\` is any character"),
    Attempt("http://{host}/m.mar", "this host in clear text"),
)
TAILS = ("m.mar", "models/m.mar", "a/b/c/m.mar")


def addresses(expression: str) -> Iterator[Attempt]:
    """Yield the addresses to try an expression on, made from the hosts and the paths that it names."""
    yield from (*ANYWHERE, *FILES)
    for named in HOST.finditer(SET.sub("()", expression)):
        path = "/".join(_longest_literal(part) or "a" for part in named["path"].strip("/").split("/")[:-1])
        yield from _pitfalls(_longest_literal(named["host"]), (*TAILS, f"{path}/m.mar"))


def _pitfalls(literal: str, ends: tuple[str, ...]) -> Iterator[Attempt]:
    # What begins with a dot is a whole domain, and any host in it is meant.
    domain = literal.startswith(".")
    host = f"a{literal}" if domain else literal
    for attempt in PITFALLS if literal else ():
        harmless = "evil{host}" in attempt.address if domain else "{like}" in attempt.address and "." not in host
        spelt = attempt.address.replace("{host}", host).replace("{like}", host.replace(".", "x"))
        yield from (Attempt(spelt.removesuffix("m.mar") + end, attempt.what) for end in ends if not harmless)


def _longest_literal(expression: str) -> str:
    """Return the longest run of characters in an expression that stand for themselves (or, a dot, for any)."""
    runs = (match[0].replace("\\", "").rstrip(".") for match in LITERAL.finditer(expression))
    return max(runs, key=len, default="")


def let_through(expression: str) -> tuple[str, ...] | None:
    """Return what an expression lets through that was hardly meant, each once; None when it cannot be tried."""
    ways = sum(expression.count(sign) * weight for sign, weight in WEIGHTS.items())
    if len(expression) > LONGEST or ways > MOST_WAYS or TOO_INTRICATE.search(expression):
        return None
    expression = USER.sub("://", expression)
    pattern = regex.compiled(expression, ignore_case=True)
    matched = tuple(dict.fromkeys(one.what for one in addresses(expression) if pattern.fullmatch(one.address)))
    # Whoever is let in from anywhere needs no tricks.
    anywhere = tuple(one for one in matched if one.startswith("any"))
    return anywhere if any(one.startswith("any host") for one in anywhere) else matched


def _matches_more(told: Told) -> Iterator[Hit]:
    # An empty text is the one that lets nothing through (ConfigManager.getAllowedUrls).
    for expression in islice(filter(None, (told.text("allowed_urls") or "").split(",")), MOST_EXPRESSIONS):
        found = let_through(expression)
        if found is None:
            yield Hit(f"`allowed_urls`: `{_quoted(expression)}` is too intricate to be sure of", "allowed_urls")
        elif found:
            message = f"`allowed_urls`: `{_quoted(expression)}` also lets through {', '.join(found)}"
            yield Hit(message, "allowed_urls")


def _quoted(expression: str) -> str:
    """Return an expression as a message may quote it: short, and without what stands for a password or a signature."""
    return IN_URL.sub("...", expression)[:120]


def _from_anywhere(told: Told) -> Iterator[Hit]:
    if (told.text("enable_model_api") or "").lower() == "true" and "allowed_urls" not in told.given:
        yield Hit(
            f"`enable_model_api=true` without `allowed_urls`: stock TorchServe registers from anywhere (`{DEFAULT}`)",
            "enable_model_api",
        )


RULES = (
    Rule(
        "TSG040",
        Severity.LOW,
        "the guard can be sent to hosts that nobody meant, though it takes nothing from them that is not listed; where "
        "this file still serves a stock TorchServe, somebody else's model can be loaded there",
        r"write one expression for one host, such as `https://models\.example\.com/.*`, or remove the key: nothing is "
        "fetched then",
        ("H23", "H32", "S09"),
        _matches_more,
    ),
    Rule(
        "TSG041",
        Severity.LOW,
        "where this file still serves a stock TorchServe, whoever has its key loads any code (CVE-2023-43654)",
        "list the archives in the manifest, and name in `allowed_urls` where else than in the model store they may lie",
        ("H23",),
        _from_anywhere,
    ),
)
