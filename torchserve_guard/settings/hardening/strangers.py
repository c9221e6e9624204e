"""Strangers: who is let in without a key, and what they may do."""

from __future__ import annotations

from collections.abc import Iterator

from torchserve_guard.access import Mode
from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told


def _nothing_in_place_of_keys(told: Told) -> Iterator[Hit]:
    """Tell of reading without a key; using the models is TSG002, changing them TSG001 and TSG012."""
    settings = told.settings
    off, key = "token authorization is off", "disable_token_authorization"
    management = [one for one in (settings.management, settings.grpc_management) if one is not None]
    reachable = [one for one in management if not one.local]
    if settings.keys_required:
        return
    if reachable:
        yield Hit(f"anyone who reaches `{reachable[0]}` may list and describe the models: {off}", key)
    elif any(one.path is None for one in (settings.inference, settings.grpc_inference, *management) if one is not None):
        message = f"every user and program of this host may use, list and describe the models: {off}"
        yield Hit(message, key, Severity.LOW)


def _changes_without_a_key(told: Told) -> Iterator[Hit]:
    settings = told.settings
    if settings.keyless_management and settings.mode is Mode.EXPLICIT:
        yield Hit(
            f"whoever reaches `{settings.management}` may change what is served, without a key: profile compat with "
            "token authorization off",
            "disable_token_authorization",
        )


def _any_web_page(told: Told) -> Iterator[Hit]:
    origins = {one.strip() for one in (told.text("cors_allowed_origin") or "").split(",")}
    which = origins & {"*", "null"}
    if which:
        without = "" if told.settings.keys_required else ", and no key is asked for"
        yield Hit(
            f"`cors_allowed_origin={min(which)}` lets pages of any origin read every answer, management's too{without}",
            "cors_allowed_origin",
            None if without else Severity.LOW,
        )


RULES = (
    Rule(
        "TSG011",
        Severity.MEDIUM,
        "with token authorization off, reaching a listener is all that is needed to read what it knows",
        "remove `disable_token_authorization`, or use `unix:/path` addresses, where the folder decides who comes in",
        ("H59", "H72"),
        _nothing_in_place_of_keys,
        also=(Severity.LOW,),
    ),
    Rule(
        "TSG012",
        Severity.HIGH,
        "a program of any user of the host, or a web page in its browser, can swap a model",
        "remove `disable_token_authorization`, or use `guard.profile=strict`",
        ("H40", "H41", "H59"),
        _changes_without_a_key,
    ),
    Rule(
        "TSG013",
        Severity.MEDIUM,
        "a page that somebody visits can use the models, and read the answers, with that person's reach",
        "name the one origin that is meant, or remove `cors_allowed_origin`",
        ("H59",),
        _any_web_page,
        also=(Severity.LOW,),
    ),
)
