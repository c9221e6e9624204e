"""The questions to the workers' interpreter, and its answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Code:
    """The code of one staged archive: the modules that a worker imports for it (None: none)."""

    tree: Path
    manifest: str
    handler: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Missing:
    """A module that is imported and not installed, and the member and line that import it."""

    module: str
    member: str
    line: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A member that does not parse."""

    member: str
    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Walked:
    """What comes to light when the imports of some code are followed."""

    missing: tuple[Missing, ...]
    broken: tuple[Broken, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the interpreter has: torch's version (None without torch), what the workers lack, and what each model."""

    torch: str | None
    worker: Walked
    models: tuple[Walked, ...]


def render(codes: tuple[Code, ...]) -> list[dict[str, str | None]]:
    """Return the questions as the probe takes them."""
    return [
        {"tree": str(one.tree), "manifest": one.manifest, "handler": one.handler, "model": one.model} for one in codes
    ]


def parse(answer: Any, count: int) -> Answers:
    """Return the answers to so many questions. Raises `ValueError`, `TypeError` or `KeyError`."""
    models = tuple(_walked(one) for one in answer["models"])
    if len(models) != count:
        raise ValueError("as many answers as questions are needed")
    return Answers(answer["torch"], _walked(answer["worker"]), models)


def _walked(told: Any) -> Walked:
    return Walked(tuple(Missing(*one) for one in told["missing"]), tuple(Broken(*one) for one in told["broken"]))
