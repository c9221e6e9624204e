"""The class archive: made on the side, used when it fits, and never a reason not to start."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from torchserve_guard.frontend import (
    Frontend,
    Launch,
    RunDirectory,
    archive_of,
    build_environment,
    find_java,
    find_torchserve,
    installed,
    make_archive,
    path_candidates,
    trusted,
    usable,
)

pytestmark = pytest.mark.e2e

READY_WITHIN = 90.0


@pytest.fixture
def launch() -> Iterator[Launch]:
    with tempfile.TemporaryDirectory(prefix="tsg", dir="/tmp") as directory:
        run, java, torchserve = RunDirectory(Path(directory)), find_java(os.environ), find_torchserve(installed())
        places = {"temporary": run.temporary, "log_location": run.root, "metrics_location": run.root}
        path = trusted(path_candidates(Path(sys.executable), java.path))
        yield Launch(
            java=java.path,
            home=torchserve.home,
            jars=torchserve.jars,
            interpreter=Path(sys.executable),
            run=run,
            model_store=run.workflows,
            environment=build_environment({}, path=path, **places),
        )


async def processor_time(launch: Launch) -> float:
    """Seconds of processor time until TorchServe, without models, answers."""
    sink = os.open(os.devnull, os.O_WRONLY)
    async with Frontend(launch, stdout=sink, stderr=sink, grace=0) as frontend:
        await frontend.ready((), READY_WITHIN)
        times = psutil.Process(frontend.pid).cpu_times()
    os.close(sink)
    return times.user + times.system


async def test_an_archive_spares_work_and_one_that_is_damaged_or_does_not_fit_prevents_nothing(launch, tmp_path):
    archive = archive_of(tmp_path, find_java(os.environ), launch.jars)
    assert usable(archive) is None
    if not await make_archive(launch, archive):
        pytest.skip("this Java has no base archive to build upon")
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, archive.with_suffix(".sha256").name}
    without = await processor_time(launch)
    within = await processor_time(replace(launch, class_archive=usable(archive)))
    assert within < 0.85 * without
    whole = archive.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes(4096) + whole[middle + 4096 :], b"", b"x" * 5000):
        archive.write_bytes(damaged)
        assert usable(archive) is None
    archive.write_bytes(whole)
    other = replace(launch, extra_arguments=("-XX:+UseParallelGC",), class_archive=usable(archive))
    assert await asyncio.wait_for(processor_time(other), READY_WITHIN) > 0


def test_an_archive_that_others_can_write_is_not_used(tmp_path):
    archive = tmp_path / "classes.jsa"
    archive.touch()
    archive.with_suffix(".sha256").write_text(hashlib.sha256(b"").hexdigest())
    archive.chmod(0o666)
    assert usable(archive) is None
    archive.chmod(0o600)
    assert usable(archive) == archive
    (tmp_path / "link.jsa").symlink_to(archive)
    assert usable(tmp_path / "link.jsa") is None
