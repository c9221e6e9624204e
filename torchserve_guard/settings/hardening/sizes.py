"""Sizes: limits so wide that one client can use the machine up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Wide:
    """One row: a value of `key` is told of from `low` on, more loudly from `medium` on, with `why`."""

    key: str
    low: int
    medium: int
    why: str


SIZES = (
    Wide("max_request_size", 512 * MIB, GIB, "bytes for one request, which TorchServe holds in memory as a whole"),
    Wide(
        "guard.max_request_size", 512 * MIB, GIB, "bytes for one request, which TorchServe holds in memory as a whole"
    ),
    Wide("max_response_size", 512 * MIB, GIB, "bytes for one answer, which TorchServe holds in memory as a whole"),
    Wide("job_queue_size", 10_000, 1_000_000, "requests may wait for each model, each in memory with its body"),
    Wide("guard.model_queue", 10_000, 1_000_000, "requests may wait for each model, each with a part of its body"),
    Wide("guard.max_connections", 100_000, 1_000_000, "connections at once to each listener"),
    Wide("default_workers_per_model", 65, 257, "processes for each model"),
    Wide("number_of_netty_threads", 1025, 10_000, "threads of the frontend"),
    Wide("netty_client_threads", 1025, 10_000, "threads towards the workers"),
)
TIMES = (
    Wide("default_response_timeout", 3601, 86_401, "seconds in which one request keeps a worker for itself"),
    Wide("guard.head_timeout", 301, 3601, "seconds in which a client may take its time with the head of a request"),
    Wide("guard.stall_timeout", 301, 3601, "seconds in which a body may stop coming, or an answer be taken"),
    Wide("guard.queue_timeout", 301, 3601, "seconds in which a request may wait for its turn"),
    Wide("guard.idle_timeout", 3601, 86_401, "seconds in which a connection may stay open and say nothing"),
)
IN_MODELS = (
    Wide("minWorkers", 65, 257, "processes"),
    Wide("maxWorkers", 65, 257, "processes"),
    Wide("batchSize", 10_000, 1_000_000, "requests in one batch"),
    Wide("responseTimeout", 3601, 86_401, "seconds in which one request keeps a worker for itself"),
)


def _too_wide(told: Told, rows: tuple[Wide, ...]) -> Iterator[Hit]:
    for row in rows:
        text = told.text(row.key)
        hit = _judged(row, int(text), row.key) if text is not None else None
        if hit is not None:
            yield hit


def _judged(row: Wide, value: int, key: str, whose: str = "") -> Hit | None:
    if value < row.low:
        return None
    severity = Severity.MEDIUM if value >= row.medium else Severity.LOW
    return Hit(f"`{row.key}={value}`{whose}: {value:,} {row.why}", key, severity)


def _sizes(told: Told) -> Iterator[Hit]:
    yield from _too_wide(told, SIZES)
    for name, version in _models(told):
        for row in IN_MODELS:
            value = version.get(row.key)
            hit = _judged(row, value, "models", f" of `{name}`") if isinstance(value, int) else None
            if hit is not None:
                yield hit


def _models(told: Told) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield what `models` says of each version of each model."""
    for name, versions in json.loads(told.text("models") or "{}").items():
        for number, version in versions.items() if isinstance(versions, dict) else ():
            if isinstance(version, dict):
                yield f"{name} {number}", version


def _times(told: Told) -> Iterator[Hit]:
    yield from _too_wide(told, TIMES)


def _images(told: Told) -> Iterator[Hit]:
    if (told.text("limit_max_image_pixels") or "true").lower() == "false":
        yield Hit(
            "`limit_max_image_pixels=false` lets an image of any size be unpacked in memory", "limit_max_image_pixels"
        )


RULES = (
    Rule(
        "TSG052",
        Severity.LOW,
        "a limit that is never met is none: one client can fill the memory, and every model stops",
        "name the largest value that a client of yours needs",
        ("H28", "H42", "H57"),
        _sizes,
        also=(Severity.MEDIUM,),
    ),
    Rule(
        "TSG053",
        Severity.MEDIUM,
        "an image of a few kilobytes can hold gigabytes of pixels, and one request ends the worker",
        "remove the line, and let clients send smaller images",
        ("H28",),
        _images,
    ),
    Rule(
        "TSG054",
        Severity.LOW,
        "who sends slowly, or asks what never ends, keeps connections and workers from everybody else",
        "name the longest time that a client of yours needs",
        ("H57",),
        _times,
        also=(Severity.MEDIUM,),
    ),
)
