"""The misplaced: keys of the guard's where they have no effect, and somebody believes that they have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.settings import properties
from torchserve_guard.settings.keys import KEYS, NOT_YET, Fate
from torchserve_guard.settings.reading import SPELLINGS, shown
from torchserve_guard.settings.stock import Disk, snapshots

GUARDS = tuple(
    name for name in (*KEYS, *NOT_YET) if name not in SPELLINGS and (name not in KEYS or KEYS[name].fate is Fate.GUARD)
)


def check(
    config: Path, told: tuple[properties.Property, ...], environment: Mapping[str, str], disk: Disk
) -> Iterator[Finding]:
    """Yield the findings of the file, of the environment, and of the snapshot that stock would start from."""
    for one in told:
        meant = _meant(one.key) if one.key not in KEYS and one.key not in NOT_YET else None
        if meant is not None:
            message = f"`{shown('', one.key)}` is no key of the guard's, and looks like `{meant}`: it has no effect"
            yield _moved(Severity.HIGH, message, f"write `{meant}`", Location(str(config), one.line), one.key)
    for name in sorted(environment):
        meant = None if name.startswith("TSGUARD_") else _meant(name.removeprefix("TS_"))
        if meant is not None:
            message = f"the environment variable {name} looks like `{meant}`: it has no effect"
            yield _moved(Severity.MEDIUM, message, f"write `{meant}` into {config.name}", Location(str(config)), name)
    here = {one.key for one in told}
    for where, one in _snapshot(environment, disk):
        if one.key in GUARDS and one.key not in here:
            message = f"`{one.key}` stands in a snapshot, which the guard does not read"
            place = Location(where, one.line)
            yield _moved(Severity.LOW, message, f"write it into {config.name}", place, one.key)


def _moved(severity: Severity, message: str, remedy: str, where: Location, key: str) -> Finding:
    return Finding("TSG028", severity, message, remedy, where, key=key)


def _meant(text: str) -> str | None:
    """Return the key of the guard's that a name was meant to be: the same letters, after all, or nearly."""
    plain = _letters(text)
    if not plain.startswith(("guard", "tsguard", "modelcontrol")):
        return None
    known = {_letters(name): name for name in GUARDS}
    nearest = difflib.get_close_matches(plain.removeprefix("ts"), known, 1, 0.8)
    return known[nearest[0]] if nearest else None


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _snapshot(environment: Mapping[str, str], disk: Disk) -> Iterator[tuple[str, properties.Property]]:
    folder = f"{environment.get('LOG_LOCATION', 'logs')}/config"
    try:
        name = snapshots.newest(disk.files(folder))
        found = properties.elements(disk.read(f"{folder}/{name}"), name) if name is not None else ()
    except (ConfigError, ValueError):
        return  # TorchServe's own affair: the guard reads no snapshot
    for one in found:
        yield f"{folder}/{name}", one
