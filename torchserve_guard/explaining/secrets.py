"""The secrets: passwords, and what comes from variables whose names sound like them, are never shown. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from torchserve_guard.explaining.explanation import Explained, Explanation
from torchserve_guard.origin import redacted
from torchserve_guard.settings.reading import Reading
from torchserve_guard.settings.stock import Chain, Origin, Step

HIDDEN = "..."
SECRET_KEY = re.compile(r"pass(word|wd)?$|secret|token$|credential", re.IGNORECASE)
SECRET_VARIABLE = re.compile(r"pass|secret|token|key|credential|pwd|auth", re.IGNORECASE)
REFERENCE = re.compile(r"\$\$([^$]+)\$\$")
USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
OPTION = re.compile(r"(-D[^\s=]*(?:pass|secret|token|credential)[^\s=]*=)\S+", re.IGNORECASE)
EXPRESSIONS = "allowed_urls"  # in which a `?` begins no query
SHORTEST_SECRET = 4
Hide = Callable[[str | None], str | None]
NO_SECRETS = frozenset(
    {"TS_DISABLE_TOKEN_AUTHORIZATION", "TS_TOKEN_EXPIRATION_TIME_MIN", "TS_KEYSTORE", "TS_KEYSTORE_TYPE"}
    | {"TS_PRIVATE_KEY_FILE"}
    | {f"TS_HEADER_KEY_SEQUENCE_{one}" for one in ("ID", "START", "END")}
)


def without_secrets(whole: Explanation, environment: Mapping[str, str], reading: Reading | None) -> Explanation:
    """Return the same with nothing secret in it; `reading` knows the references that the values came from."""
    hide = _Hiding(whole, environment, reading)
    return replace(
        whole,
        refusals=tuple(map(hide.text, whole.refusals)),
        complaints=tuple(map(hide.text, whole.complaints)),
        findings=tuple(replace(one, message=hide.text(one.message)) for one in whole.findings),
        keys=tuple(map(hide.key, whole.keys)),
    )


class _Hiding:
    """What must not be shown: passwords, and what comes from variables whose names sound like secrets."""

    def __init__(self, whole: Explanation, environment: Mapping[str, str], reading: Reading | None) -> None:
        steps = [step for row in whole.keys for step in row.stock.steps]
        self.raw = {name: given.raw or "" for name, given in (reading.given if reading is not None else {}).items()}
        texts = [*(step.value or "" for step in steps), *self.raw.values()]
        named = {name for text in texts for name in REFERENCE.findall(text)}
        named |= {step.where for step in steps if step.origin is Origin.ENVIRONMENT}
        self.variables = {name for name in named if SECRET_VARIABLE.search(name)} - NO_SECRETS
        values = {environment.get(name, "") for name in self.variables}
        self.values = sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)

    def key(self, row: Explained) -> Explained:
        """Return the row with nothing secret in it."""
        texts = [*(step.value or "" for step in row.stock.steps), self.raw.get(row.key, "")]
        referred = {name for text in texts for name in REFERENCE.findall(text)}
        secret = bool(SECRET_KEY.search(row.key))
        plain = self._expression if row.key == EXPRESSIONS else self.value
        hide = self._everything if secret or not self.variables.isdisjoint(referred) else plain
        steps = tuple(self._step(step, hide, plain, secret=secret) for step in row.stock.steps)
        guarded = replace(row.guarded, value=hide(row.guarded.value), told=hide(row.guarded.told))
        complaints = tuple(map(self.text, row.complaints))
        return replace(row, stock=Chain(row.key, steps), guarded=guarded, complaints=complaints)

    def _step(self, step: Step, hide: Hide, plain: Hide, *, secret: bool) -> Step:
        """Return the step; a default is no secret, and a reference says no more than the variable's name."""
        known = step.origin is Origin.DEFAULT or (not secret and REFERENCE.search(step.value or ""))
        return replace(step, value=plain(step.value) if known else hide(step.value), note=self.text(step.note))

    def _everything(self, value: str | None) -> str | None:
        return None if value is None else HIDDEN

    def value(self, value: str | None) -> str | None:
        return None if value is None else self.text(value)

    def text(self, text: str) -> str:
        return redacted(self._without_users(text))

    def _expression(self, value: str | None) -> str | None:
        return None if value is None else self._without_users(value)

    def _without_users(self, text: str) -> str:
        for secret in self.values:
            text = text.replace(secret, HIDDEN)
        return OPTION.sub(rf"\1{HIDDEN}", USERINFO.sub(HIDDEN, text))
