"""How TorchServe hands requests to its workers: by a pool, and no model is held up by another's worker."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import servers

pytestmark = pytest.mark.e2e

HELD = ("doubled", "mirror")  # Java's common pool has two threads on three processors
SETTINGS = {"load_models": "noop.mar,doubled.mar,mirror.mar", "vmargs": "-XX:ActiveProcessorCount=3"}
LARGE = b"1" * (4 << 20)  # more than a unix socket holds
SOON, LATE = 5.0, 60.0


def workers(server: servers.Server, model: str) -> list[psutil.Process]:
    described = server.manage("GET", f"/models/{model}").json
    return [psutil.Process(worker["pid"]) for worker in described[0]["workers"]]


@contextlib.contextmanager
def stuck(server: servers.Server, models: tuple[str, ...]) -> Iterator[None]:
    """The workers of these models read nothing, while each has a large request coming."""
    stopped = [worker for model in models for worker in workers(server, model)]
    with concurrent.futures.ThreadPoolExecutor(len(models)) as clients:
        for worker in stopped:
            worker.suspend()
        try:
            asked = [clients.submit(server.ask, "POST", f"/predictions/{model}", LARGE) for model in models]
            time.sleep(2)
            assert not any(one.done() for one in asked)
            yield
        finally:
            for worker in stopped:
                worker.send_signal(signal.SIGCONT)


def test_workers_that_read_nothing_hold_up_every_model_of_a_stock_server(listed: Path, place: Path):
    """What the guard's setting is for: two stuck workers, and a third model does not answer."""
    server = servers.Stock(place / "stock", listed, SETTINGS)
    with servers.serving(server, ("noop", *HELD)):
        assert server.ask("GET", "/predictions/noop").status == 200
        with stuck(server, HELD), pytest.raises(TimeoutError):
            server.ask("GET", "/predictions/noop", timeout=SOON)
        assert server.ask("GET", "/predictions/noop", timeout=LATE).status == 200


def test_workers_that_read_nothing_hold_up_only_their_own_model(guard, listed: Path):
    server = guard(listed, SETTINGS)
    with servers.serving(server):
        with stuck(server, HELD):
            assert [server.ask("GET", "/predictions/noop", timeout=SOON).status for _ in range(8)] == [200] * 8
        assert server.ask("POST", "/predictions/mirror", b"1", timeout=LATE).status == 200


def test_requests_are_written_by_a_pool_and_not_by_a_thread_for_each(guarded: servers.Guarded):
    """On two processors or fewer Java has no common pool by default."""
    for _ in range(20):
        assert guarded.ask("GET", "/predictions/noop").status == 200
    children = psutil.Process(guarded.process.pid).children(recursive=True)
    (java,) = (process for process in children if process.name().startswith("java"))
    names = [(Path("/proc") / str(java.pid) / "task" / str(one.id) / "comm").read_text() for one in java.threads()]
    assert any(name.startswith("ForkJoinPool") for name in names)
