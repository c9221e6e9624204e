"""The matching: from a listener and decoded segments to the rows of the table that have this path.

The table is turned once, at import, into shapes that are found by first segment and number of segments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torchserve_guard.wire.routes import ROUTES, Listener, Route

_VARIABLE = re.compile(r"\{(?P<name>[a-z]+)\}(?P<suffix>.*)")
_ANY = ""  # the key of shapes whose first segment is a variable; no segment is empty
_MOST_SEGMENTS = 8  # more count as this many

# InferenceRequestHandler switches on these first segments before it looks for a trailing `predict`; with any other
# the trailing `predict` wins: `/v1/models/predict` asks version `models` of a model `v1`.
_TAKEN = frozenset({"ping", "predictions", "explanations", "models", "invocations"})


@dataclass(frozen=True, slots=True)
class Shape:
    """One path template, and the rows that have it, by method. Positions count segments from 0."""

    literals: tuple[tuple[int, str], ...]
    named_at: int | None
    suffix: str
    versioned_at: int | None
    rest_at: int | None
    rows: Mapping[str, Route]

    def fits(self, segments: Sequence[str]) -> bool:
        """Whether the segments, already of the right number, are an instance of the template."""
        if self.suffix and self.named_at is not None and not segments[self.named_at].endswith(self.suffix):
            return False
        return all(segments[at] == text for at, text in self.literals)


def match(listener: Listener, segments: tuple[str, ...]) -> Shape | None:
    """Return the shape of this path on this listener, or None when the listener has no such path."""
    shapes = _SHAPES[listener]
    head = segments[0] if segments else _ANY
    count = min(len(segments), _MOST_SEGMENTS)
    if head not in _TAKEN:
        for shape in shapes.get((_ANY, count), ()):
            if shape.fits(segments):
                return shape
    for shape in shapes.get((head, count), ()):
        if shape.fits(segments):
            return shape
    return None


def pieces(path: str) -> tuple[str, ...]:
    """Return the segments of a path template."""
    return tuple(piece for piece in path.split("/") if piece)


def variable(piece: str) -> tuple[str, str] | None:
    """Return the name of the variable that a segment of a template is, and the text behind it, or None."""
    found = _VARIABLE.fullmatch(piece)
    return None if found is None else (found["name"], found["suffix"])


def _shape(path: str, rows: Mapping[str, Route]) -> Shape:
    literals: list[tuple[int, str]] = []
    at: dict[str, int] = {}
    suffix = ""
    for position, piece in enumerate(pieces(path)):
        found = variable(piece)
        if piece == "{rest...}":
            at["rest"] = position
        elif found is None:
            literals.append((position, piece))
        else:
            at[found[0]] = position
            suffix = found[1] or suffix
    return Shape(tuple(literals), at.get("model", at.get("workflow")), suffix, at.get("version"), at.get("rest"), rows)


def _keys(path: str) -> Iterable[tuple[str, int]]:
    segments = pieces(path)
    head = segments[0] if segments and variable(segments[0]) is None else _ANY
    last = _MOST_SEGMENTS if segments and segments[-1] == "{rest...}" else len(segments)
    return ((head, count) for count in range(len(segments), last + 1))


def _compiled(listener: Listener) -> dict[tuple[str, int], tuple[Shape, ...]]:
    paths: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        if listener in route.listeners:
            paths.setdefault(route.path, {}).update(dict.fromkeys(route.methods, route))
    # A literal is a closer fit than a variable: `/models/{model}/all` comes before `/models/{model}/{version}`.
    compiled: dict[tuple[str, int], tuple[Shape, ...]] = {}
    for path in sorted(paths, key=lambda path: path.count("{")):
        shape = _shape(path, paths[path])
        for key in _keys(path):
            compiled[key] = (*compiled.get(key, ()), shape)
    return compiled


_SHAPES = {listener: _compiled(listener) for listener in Listener}
