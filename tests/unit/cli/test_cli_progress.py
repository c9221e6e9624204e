"""The progress: a bar with rate and time left on a terminal; nothing in a pipe, and nothing for work that is short."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import count

import pytest
from corpus.archives import GOOD, Entry, archive

from torchserve_guard import archives
from torchserve_guard.archives.progress import expect
from torchserve_guard.cli.progress import Progress

MEBIBYTE = 1 << 20


@pytest.fixture
def terminal(monkeypatch) -> Iterator[tuple[io.TextIOWrapper, Callable[[], str]]]:
    """A terminal of 100 columns, and what was written on it so far."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    master, slave = os.openpty()
    os.set_blocking(master, False)

    def written() -> str:
        pieces = []
        with suppress(BlockingIOError):
            while True:
                pieces.append(os.read(master, 1 << 16))
        return b"".join(pieces).decode()

    with closing(os.fdopen(slave, "w")) as stream:
        yield stream, written
    os.close(master)


def clock(step: float) -> Callable[[], float]:
    """A clock by which each look takes so long."""
    return (step * number for number in count()).__next__


def work(progress: Progress, pieces: int) -> None:
    expect(progress, 10 * MEBIBYTE, "verifying")
    for _ in range(pieces):
        progress(MEBIBYTE)


def test_a_terminal_is_shown_what_is_done_the_rate_and_the_time_left_and_is_left_clean(terminal):
    stream, written = terminal
    with Progress(stream, clock(0.2)) as progress:
        work(progress, 8)
        text = written()
    last = text.rpartition("verifying")[2]
    assert "80%" in last
    assert re.search(r"8\.4/10\.5 MB", last)
    assert re.search(r"\d [kM]B/s", last)
    assert re.search(r"0\d:0\d", last)
    assert "\x1b[3" in text, "with colours"
    assert "\x1b[2K" in written(), "the line is wiped"


def test_no_color_is_respected(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream, written = terminal
    with Progress(stream, clock(0.2)) as progress:
        work(progress, 8)
    text = written()
    assert "verifying" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text)


@pytest.mark.parametrize("step", [0.0, 0.01])
def test_work_that_is_short_shows_nothing(terminal, step):
    stream, written = terminal
    with Progress(stream, clock(step)) as progress:
        work(progress, 8)
    assert written() == ""


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_pipe_gets_nothing_whatever_the_environment_says(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    stream = io.StringIO()
    with Progress(stream, clock(1.0)) as progress:
        work(progress, 8)
    assert stream.getvalue() == ""


def test_more_than_was_foretold_is_no_more_than_all(terminal):
    stream, written = terminal
    with Progress(stream, clock(0.2)) as progress:
        work(progress, 20)
        assert "100%" in written()


def test_what_is_not_foretold_is_counted_all_the_same(terminal):
    stream, written = terminal
    with Progress(stream, clock(0.2)) as progress:
        for _ in range(8):
            progress(MEBIBYTE)
        assert "8.4" in written()


def test_listing_verifying_and_staging_say_beforehand_how_much_will_come(terminal, tmp_path):
    stream, written = terminal
    models = tmp_path / "models"
    models.mkdir()
    for name in ("m.mar", "n.mar"):
        (models / name).write_bytes(archive(*GOOD, Entry("weights.bin", os.urandom(3 * MEBIBYTE))))
    now = datetime(2030, 1, 1, tzinfo=UTC)
    with Progress(stream, clock(1.0)) as progress:
        listed = archives.create_manifest(models, None, version=1, created=now, progress=progress)
        assert "100%" in written()
        progress.finish()
        archives.verify_store(listed, models, progress=progress)
        assert "100%" in written()
        progress.finish()
        store = archives.Store(tmp_path / "store")
        store.stage_all([(models / one.name, one) for one in listed.subjects], progress=progress)
        assert "100%" in written()


def test_help_does_not_import_what_draws():
    program = "import sys; from torchserve_guard.cli.commands import app; app(); print('rich.progress' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
