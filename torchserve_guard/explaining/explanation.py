"""The explanation: what is said of each key, and of the whole. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from torchserve_guard.findings import Finding
from torchserve_guard.settings.keys import Fate
from torchserve_guard.settings.stock import Chain


@dataclass(frozen=True, slots=True)
class Guarded:
    """What the guard uses: the value, where it comes from, and what the TorchServe behind it is told, if anything."""

    value: str | None
    where: str
    told: str | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """One key: stock's chain, the guard's value, why they differ, and what the guard complains about."""

    key: str
    fate: Fate | None
    stock: Chain
    guarded: Guarded
    differs: bool
    why: str
    complaints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole: the files that stock and the guard read, what each would stop at, what was found, and the keys."""

    config: str | None
    source: str | None
    refusals: tuple[str, ...]
    complaints: tuple[str, ...]
    findings: tuple[Finding, ...]
    keys: tuple[Explained, ...]
