"""The chain: how one key came by its value, step by step, with the steps that did not count.

Pure: no I/O, no clock, no environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Origin(Enum):
    """Where a step of a chain comes from."""

    DEFAULT = "default"
    FILE = "file"
    SNAPSHOT = "snapshot"
    EXPANSION = "expansion"
    LAUNCHER = "launcher"
    FLAG = "flag"
    ENVIRONMENT = "environment"
    JVM = "jvm"
    DERIVED = "derived"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: where it stands, the value after it, and why; a step that does not count changed nothing."""

    origin: Origin
    where: str
    value: str | None
    counts: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """The steps that led to the value of one key, the first one first."""

    key: str
    steps: tuple[Step, ...]

    @property
    def value(self) -> str | None:
        """The value in the end; None where there is none."""
        return next((step.value for step in reversed(self.steps) if step.counts), None)

    @property
    def told(self) -> bool:
        """Whether anybody said anything about the key, heard or not."""
        return any(step.origin not in {Origin.DEFAULT, Origin.DERIVED} for step in self.steps)
