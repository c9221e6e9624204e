"""What a guard that serves says: in order, and nobody waits for whoever reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchserve_guard.cli import saying
from torchserve_guard.cli.saying import Saying

TSGUARD = Path(sys.executable).parent / "tsguard"


@pytest.fixture
def pipe() -> Iterator[tuple[int, object]]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="ascii") as stream:
        yield reading, stream
    os.close(reading)


def test_lines_come_in_order_and_all_before_the_end(pipe):
    reading, stream = pipe
    with Saying(stream) as say:
        for number in range(500):
            say(f"line {number}")
    assert os.read(reading, 65536).decode().splitlines() == [f"line {number}" for number in range(500)]


def test_what_cannot_be_encoded_is_escaped(pipe):
    reading, stream = pipe
    with Saying(stream) as say:
        say("é\udc80")
    assert os.read(reading, 100) == b"\\xe9\\udc80\n"


def test_a_reader_who_is_gone_is_done_without():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, Saying(stream) as say:
        for _ in range(10):
            say("line")


def test_a_reader_who_does_not_read_holds_nobody_up_and_fills_no_memory(pipe):
    _, stream = pipe
    began = time.monotonic()
    with Saying(stream) as say:
        for _ in range(3 * saying.MOST):
            say("x" * 1000)
        assert time.monotonic() - began < saying.FLUSH
        assert say._lines.qsize() <= saying.MOST
    assert saying.FLUSH <= time.monotonic() - began < 10 * saying.FLUSH


def test_what_was_dropped_ends_nothing_for_a_reader_who_comes_back(pipe):
    reading, stream = pipe
    with Saying(stream) as say:
        for _ in range(3 * saying.MOST):
            say("x" * 1000)
        seen = b""
        while seen.count(b"\n") < saying.MOST:
            seen += os.read(reading, 1 << 20)
        say("and this")
        while not seen.endswith(b"and this\n"):
            seen += os.read(reading, 1 << 20)


def test_the_exit_code_is_the_contracts_though_nobody_hears_why():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([TSGUARD, "start", "--config", "not-there"], stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 2


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_were_closed_change_no_exit_code(closed):
    command = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", TSGUARD, "check", "--config", "not-there"]
    assert subprocess.run(command, check=False).returncode == 2
