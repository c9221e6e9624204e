"""`tsguard prepare`: the class archive is made by the real TorchServe, and a start maps it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil
import pytest
import servers

from torchserve_guard import preparation
from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend import class_archive, find_java, find_torchserve, installed, trusted

pytestmark = pytest.mark.e2e


def prepared(place: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    return preparation.prepare(os.environ, place, said.append), said


@pytest.fixture(scope="module")
def made():
    """An archive that was made here, in a folder that did not exist."""
    with servers.folder("tsg-p-") as folder:
        path, said = prepared(folder / "share")
        assert said
        yield path


def test_an_archive_is_made_once_and_is_nobody_elses_to_write(made):
    before = made.stat()
    assert before.st_size > 1 << 20
    assert (before.st_mode & 0o777, list(made.parent.iterdir())) == (0o444, [made])
    assert prepared(made.parent) == (made, [])
    assert made.stat() == before


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(place):
    (place / "share").write_bytes(b"a file")
    with pytest.raises(FrontendError, match=r"cannot be written: .*run this as the owner of the installation"):
        prepared(place / "share")
    assert list(place.iterdir()) == [place / "share"]


def test_a_start_maps_the_archive_of_the_installation(guarded: servers.Guarded):
    if not trusted((class_archive.folder().parent,)):
        pytest.skip("other users may write where this checkout lies")
    done = guarded.run("prepare")
    assert (done.returncode, "prepared" in done.stderr) == (0, True)
    java = next(one for one in psutil.Process(guarded.process.pid).children(recursive=True) if "java" in one.name())
    archive = done.stderr.split()[-3]
    assert archive.endswith(".jsa")
    assert archive in {mapped.path for mapped in java.memory_maps()}


@pytest.mark.parametrize("left", [0, 1 << 20, -1])
def test_an_archive_that_is_torn_is_not_used(made, place, left):
    """Java would die of one (SIGBUS), not pass over it."""
    java, jars = find_java(os.environ), find_torchserve(installed()).jars
    copy = Path(shutil.copy(made, place))
    assert class_archive.using(java, jars, place) == (f"-XX:SharedArchiveFile={copy}",)
    copy.chmod(0o644)
    copy.write_bytes(made.read_bytes()[:left])
    assert class_archive.using(java, jars, place) == ()
