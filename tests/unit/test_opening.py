"""Which process serves what, and how many there are."""

from __future__ import annotations

import pytest

from torchserve_guard.opening import apart, processes
from torchserve_guard.proxy import ListenerSpec
from torchserve_guard.wire import Listener

ONE, TWO, THREE = (f"http://127.0.0.1:{port}" for port in (8080, 8081, 8082))


@pytest.mark.parametrize(
    ("workers", "processors", "expected"),
    [(1, 64, 1), (6, 1, 6), (None, 1, 1), (None, 7, 1), (None, 16, 4), (None, 256, 8)],
)
def test_auto_is_one_process_for_each_four_processors(workers, processors, expected):
    assert processes(workers, processors) == expected


def listeners(inference: str, management: str, metrics: str, *also: str) -> dict[Listener, ListenerSpec]:
    return {
        Listener.INFERENCE: ListenerSpec(inference, "unix:/i", b"I", (inference,)),
        Listener.MANAGEMENT: ListenerSpec(management, "unix:/m", b"M", (management,)),
        Listener.METRICS: ListenerSpec(metrics, "unix:/s", b"", (metrics, *also)),
    }


def served(specs) -> dict[str, set[str]]:
    return {listener.value: {spec.address, *spec.also} for listener, spec in specs.items()}


def test_porters_serve_inference_and_the_guard_itself_the_rest():
    ours, theirs = apart(listeners(ONE, TWO, THREE))
    assert served(theirs) == {"inference": {ONE}}
    assert served(ours) == {"management": {TWO}, "metrics": {THREE}}
    assert theirs[Listener.INFERENCE].token_line == b"I"


def test_where_one_port_serves_all_porters_serve_all():
    ours, theirs = apart(listeners(ONE, ONE, ONE))
    assert served(theirs) == {"inference": {ONE}, "management": {ONE}, "metrics": {ONE}}
    assert ours == {}


def test_metrics_on_two_ports_are_served_by_both():
    ours, theirs = apart(listeners(ONE, ONE, THREE, ONE))
    assert served(theirs) == {"inference": {ONE}, "management": {ONE}, "metrics": {ONE}}
    assert served(ours) == {"metrics": {THREE}}
