"""The run directory: short enough, ours alone, and empty of what another left."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend.headstart import tell
from torchserve_guard.frontend.rundirectory import (
    LONGEST_SOCKET,
    RunDirectory,
    clear,
    close_gate,
    create,
    open_gate,
    trusted,
    verify_names,
    write_private,
)


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    with tempfile.TemporaryDirectory(prefix="tsg", dir="/tmp") as directory:
        yield RunDirectory(Path(directory) / "run")


@pytest.fixture
def made(run: RunDirectory) -> Iterator[RunDirectory]:
    lock = create(run)
    yield run
    os.close(lock)


def test_the_longest_name_that_fits_is_taken_and_one_byte_more_is_not():
    # The longest of all is the workers': ROOT/tmp/.ts.sock.65535
    spare = LONGEST_SOCKET - len("//tmp/.ts.sock.65535")
    verify_names(RunDirectory(Path("/" + "x" * spare)))
    with pytest.raises(FrontendError, match=r"\d+ bytes too long.*107"):
        verify_names(RunDirectory(Path("/" + "x" * (spare + 1))))


def test_bytes_are_counted_and_not_letters():
    with pytest.raises(FrontendError, match="too long"):
        verify_names(RunDirectory(Path("/" + "é" * 50)))


@pytest.mark.parametrize("path", ["relative", "/new\nline", "/escape\x1b[2J"])
def test_a_path_that_is_not_absolute_or_not_printable_is_refused(path):
    with pytest.raises(FrontendError, match="absolute path of printable"):
        verify_names(RunDirectory(Path(path)))


def test_every_part_is_ours_alone_whatever_the_umask(run):
    before = os.umask(0)
    try:
        os.close(create(run))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (run.root, *run.parts)} == {0o700}


def test_a_directory_that_others_may_enter_is_refused(run):
    run.root.mkdir(mode=0o755)
    with pytest.raises(FrontendError, match="not a directory that is ours alone"):
        create(run)


def test_a_link_in_the_place_of_the_directory_is_refused(run, tmp_path):
    run.root.symlink_to(tmp_path)
    with pytest.raises(FrontendError, match="ours alone"):
        create(run)


def test_a_link_in_the_place_of_a_part_is_refused_and_its_target_kept(run, tmp_path):
    (tmp_path / "kept").touch()
    run.root.mkdir(mode=0o700)
    run.temporary.symlink_to(tmp_path)
    with pytest.raises(FrontendError, match="ours alone"):
        create(run)
    assert (tmp_path / "kept").exists()


def test_what_another_run_left_is_removed_without_following_its_links(run, tmp_path):
    (tmp_path / "model.py").touch()
    run.temporary.mkdir(mode=0o700, parents=True)
    run.root.chmod(0o700)
    (run.temporary / "models").mkdir()
    (run.temporary / "models" / "noop.mar").symlink_to(tmp_path)
    (run.root / "of-the-guard").touch()
    os.close(create(run))
    assert list(run.temporary.iterdir()) == []
    assert (tmp_path / "model.py").exists()
    assert (run.root / "of-the-guard").exists()


def test_one_lock_at_a_time(made):
    with pytest.raises(BlockingIOError):
        create(made)


def test_a_refused_second_start_leaves_the_first_ones_files(made):
    (made.temporary / "in-use").touch()
    with pytest.raises(BlockingIOError):
        create(made)
    assert (made.temporary / "in-use").exists()


def test_a_private_file_is_private_and_no_link_is_followed(made, tmp_path):
    write_private(made.configuration, "a=b\n")
    assert made.configuration.stat().st_mode & 0o777 == 0o600
    made.configuration.unlink()
    made.configuration.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FrontendError):
        write_private(made.configuration, "a=b\n")
    assert not (tmp_path / "elsewhere").exists()


def test_clearing_takes_the_sockets_and_the_configuration_along(made):
    for path in (made.sockets.inference, made.configuration):
        path.touch()
    clear(made)
    assert list(made.root.iterdir()) == []


def test_directories_that_others_can_write_into_are_not_trusted(tmp_path):
    mine, open_to_all, below = tmp_path / "mine", tmp_path / "open", tmp_path / "open" / "below"
    for directory in (mine, open_to_all, below):
        directory.mkdir(mode=0o755)
    open_to_all.chmod(0o777)
    assert trusted([mine, Path("/usr/bin"), open_to_all, below, Path("/tmp"), tmp_path / "missing", mine]) == (
        mine,
        Path("/usr/bin"),
    )


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000], ids=str)
def test_who_waits_at_the_gate_reads_all_of_it_and_who_comes_later_too(made, size):
    text = "x" * size
    close_gate(made)
    assert open_gate(made, text) is None
    assert stat.S_ISFIFO(made.configuration.stat().st_mode)
    read: list[str] = []
    waiter = threading.Thread(target=lambda: read.append(made.configuration.read_text()))
    waiter.start()
    while (waiting := open_gate(made, text)) is None:
        pass
    tell(waiting, text)
    waiter.join(10)
    assert read == [text]
    assert made.configuration.read_text() == text
    assert stat.S_IMODE(made.configuration.stat().st_mode) == 0o600


def test_who_leaves_the_gate_is_told_nothing(made):
    close_gate(made)
    waiter = os.open(made.configuration, os.O_RDONLY | os.O_NONBLOCK)
    waiting = open_gate(made, "x" * 1_000_000)
    os.close(waiter)
    assert waiting is not None
    tell(waiting, "x" * 1_000_000)


def test_a_gate_that_is_another_file_is_not_opened(made):
    made.configuration.symlink_to("/dev/null")
    with pytest.raises(FrontendError):
        open_gate(made, "")
    with pytest.raises(FrontendError):
        close_gate(made)
