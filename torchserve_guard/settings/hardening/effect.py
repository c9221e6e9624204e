"""Effect: keys that do less than they seem to."""

from __future__ import annotations

from collections.abc import Iterator

from torchserve_guard.access import Mode
from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told
from torchserve_guard.settings.settings import Profile

NO_EFFECT = (
    ("workflow_store", "workflows are refused by this version"),
    ("use_native_io", "TorchServe's workers listen on unix sockets under the guard"),
)


def _model_api_without_mode(told: Told) -> Iterator[Hit]:
    # In the profile compat the mode follows it, unless the mode is given.
    counts = told.settings.profile is Profile.COMPAT and "model-control-mode" not in told.given
    if told.settings.mode is Mode.NONE and "enable_model_api" in told.given and not counts:
        yield Hit(
            "`enable_model_api` has no effect: model-control-mode is none, so nothing is changed at run time",
            "enable_model_api",
        )


def _ignored(told: Told) -> Iterator[Hit]:
    for key, why in NO_EFFECT:
        if key in told.given:
            yield Hit(f"`{key}` has no effect: {why}", key)


def _hides_nothing(told: Told) -> Iterator[Hit]:
    if told.text("blacklist_env_vars"):
        yield Hit(
            "`blacklist_env_vars` hides variables from `os.environ` only; model code finds them in /proc of its parent",
            "blacklist_env_vars",
        )


RULES = (
    Rule(
        "TSG004",
        Severity.LOW,
        "whoever wrote it may expect that models can be registered, or that `false` is what protects them",
        "set `model-control-mode=explicit` if models are to be managed at run time, or remove `enable_model_api`",
        ("H01", "H40", "H41"),
        _model_api_without_mode,
    ),
    Rule(
        "TSG005",
        Severity.LOW,
        "a line that looks like a protection and is none should not stay",
        "remove it",
        ("H01", "H29"),
        _ignored,
    ),
    Rule(
        "TSG059",
        Severity.LOW,
        "a line that looks like a protection and is none should not stay",
        "remove it: models get only the variables of the guard's list and of `guard.pass_environment`",
        ("L02",),
        _hides_nothing,
    ),
)
