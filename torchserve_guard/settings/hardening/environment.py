"""Environment: variables that run code, move a configuration, or hand on a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening import places
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told
from torchserve_guard.settings.keys import KEYS

WHOLE = r"(?!)"
# What the guard's own process obeys, and where the folders or files in it are taken apart: ld.so(8), python(1).
OBEYED: Mapping[str, str] = {
    "LD_PRELOAD": "[: ]",
    "LD_AUDIT": ":",
    "LD_LIBRARY_PATH": "[:;]",
    "GCONV_PATH": ":",
    "PYTHONPATH": ":",
    "PYTHONHOME": ":",
    "PYTHONUSERBASE": ":",
    "PYTHONPYCACHEPREFIX": WHOLE,
    "PYTHONSTARTUP": WHOLE,
    "OPENSSL_CONF": WHOLE,
    "OPENSSL_MODULES": WHOLE,
}
# A bare name is looked for in the system's own folders, not in the working directory.
BY_NAME = frozenset({"LD_PRELOAD", "LD_AUDIT"})
# Folders of libraries are an everyday thing (CUDA), so only those that others can write are told of.
EVERYDAY = frozenset({"LD_LIBRARY_PATH"})
# What models get, and take code and weights from (torch.hub, transformers).
CACHES = ("HOME", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME")
ONLY_STOCK = (
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "TS_MODEL_SERVER_HOME",
    "LOG4J_CONFIGURATION_FILE",
    "TS_BENCHMARK",
    "ENABLE_TORCH_PROFILER",
)
# What `enable_envvars_config=true` lets override the file and the flags (ConfigManager.setSystemVars).
OVERRIDES = {key.variable: key.name for key in KEYS.values() if key.variable is not None and not key.always_read}
SECRET = re.compile(
    r"(?:.*_)?(?:SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS|TOKEN|API_?KEY|PRIVATE_KEY|ACCESS_KEY)(?:_[A-Z0-9]+)*",
    re.ASCII,
)


def _runs_code(told: Told) -> Iterator[Hit]:
    yield from _obeyed(told)
    yield from _handed_on(told)
    for name in ONLY_STOCK:
        if told.environment.get(name):
            yield Hit(
                f"the environment variable {name} is set; stock TorchServe obeys it, the guarded one does not get it",
                name,
            )


def _obeyed(told: Told) -> Iterator[Hit]:
    for name in OBEYED:
        value = told.environment.get(name, "")
        through = _choosable(told, name, value)
        if through is not None:
            place, who = through
            yield Hit(f"the guard runs code from {name}, which {who} can change, through {place}", name, Severity.HIGH)
        elif value and name not in EVERYDAY:
            yield Hit(f"the environment variable {name} is set; the guard obeys it, TorchServe does not get it", name)


def _handed_on(told: Told) -> Iterator[Hit]:
    for name in CACHES:
        value = told.environment.get(name, "")
        through = places.chooser(told.around.cwd / value) if value else None
        if through is not None:
            place, who = through
            message = f"models may take code and weights from {name}, which {who} can change, through {place}"
            yield Hit(message, name, Severity.MEDIUM)


def _choosable(told: Told, name: str, value: str) -> tuple[Path, str] | None:
    """Return who else decides what code a variable brings in. An empty part is the working directory."""
    parts = re.split(OBEYED[name], value) if value else []
    named = (part for part in parts if name not in BY_NAME or "/" in part)
    return next((who for part in named if (who := places.chooser(told.around.cwd / part)) is not None), None)


def _overrides(told: Told) -> Iterator[Hit]:
    """Tell of variables that do nothing; where the file lets them override it, TSG030 tells what they do."""
    idle = sorted(told.environment.keys() & OVERRIDES.keys())
    if idle and (told.text("enable_envvars_config") or "").lower() != "true":
        yield Hit(f"{', '.join(idle)} in the environment have no effect without `enable_envvars_config`", idle[0])


def _other_configuration(told: Told) -> Iterator[Hit]:
    named = told.environment.get("TS_CONFIG_FILE")
    if named and not _same_file(told.around.cwd / named, told.settings.config):
        yield Hit(
            f"TS_CONFIG_FILE names {named}, and the guard reads {told.settings.config}; stock TorchServe obeys the "
            "variable, even where --ts-config is given",
            "TS_CONFIG_FILE",
        )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _secrets_handed_on(told: Told) -> Iterator[Hit]:
    for name in told.settings.pass_environment:
        if SECRET.fullmatch(name):
            yield Hit(f"`guard.pass_environment` hands {name} to the code of every model", "guard.pass_environment")


def _secrets_around(told: Told) -> Iterator[Hit]:
    names = sorted(
        name
        for name, value in told.environment.items()
        if value and SECRET.fullmatch(name) and name not in told.settings.pass_environment and name not in OVERRIDES
    )
    if names:
        yield Hit(
            f"the guard's environment holds {', '.join(names)}, which the code of a model, of the same user, can read",
            names[0],
        )


RULES = (
    Rule(
        "TSG006",
        Severity.LOW,
        "such a variable runs code, or moves what is run; it matters who sets it, and who can write where it points",
        "unset it for the guard, or let it point to where only root or the guard's user may write",
        ("H06",),
        _runs_code,
        also=(Severity.HIGH, Severity.MEDIUM),
    ),
    Rule(
        "TSG049",
        Severity.LOW,
        "who set such a variable believes that it decides something, and some day it may",
        "write the values into the configuration, and unset the variables",
        ("H05", "H72"),
        _overrides,
    ),
    Rule(
        "TSG050",
        Severity.LOW,
        "what is checked here is not what a stock TorchServe in this environment would serve",
        "unset TS_CONFIG_FILE, or name the same file with --config",
        ("H06",),
        _other_configuration,
    ),
    Rule(
        "TSG057",
        Severity.MEDIUM,
        "every handler of every model, and what it imports, can read it and send it away",
        "give models what they need in files of their own, or a key that opens nothing else",
        ("L02", "H25"),
        _secrets_handed_on,
    ),
    Rule(
        "TSG058",
        Severity.LOW,
        "TorchServe does not get them, but the guard runs as the same user, and its environment can be read",
        "start the guard without them, for instance with `env -u`",
        ("L02",),
        _secrets_around,
    ),
)
