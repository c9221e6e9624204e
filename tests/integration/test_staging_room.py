"""A small disk: what does not fit is refused before it is written, and the reserve stays free."""

import io
import os
import subprocess
import tarfile
import threading
from typing import Self

import pytest
from corpus.archives import GOOD

from torchserve_guard import archives
from torchserve_guard.archives.room import LEFT
from torchserve_guard.errors import GuardError

MIB = 1 << 20


@pytest.fixture
def small(tmp_path):
    """A disk of 64 MiB and 40 MiB more."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = f"size={(LEFT + 40 * MIB) // 1024}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    # An error that a test caught keeps its store, and with it a descriptor, until it is forgotten.
    subprocess.run(["umount", "--lazy", folder], check=True)


def tarball(path, members: int):
    """Write an archive of so many members, of 10 MiB each."""
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as tar:
        weights = [(f"{number}.bin", os.urandom(10 * MIB)) for number in range(members)]
        for name, data in (*((entry.name, entry.data) for entry in GOOD), *weights):
            header = tarfile.TarInfo(f"m/{name}")
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


class Low:
    """The least that a disk has left while it is watched."""

    def __init__(self, folder) -> None:
        self.least = self._now = 1 << 62
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _look(self) -> None:
        disk = os.statvfs(self._folder)
        self.least = min(self.least, disk.f_bavail * disk.f_frsize)

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self._look()


def test_a_tarball_that_does_not_fit_is_refused_before_a_byte_of_it_is_written(small, tmp_path):
    source = tarball(tmp_path / "big.tar.gz", 6)
    subject = archives.describe(source)
    store = archives.Store(small / "store")
    with Low(small) as low, pytest.raises(GuardError, match=rf"{source}: the disk of {small}/store has \d+ bytes left"):
        store.stage(source, subject)
    assert low.least > LEFT + 39 * MIB


def test_the_sizes_of_members_that_nobody_listed_count_as_they_come(small, tmp_path):
    source = tarball(tmp_path / "big.tar.gz", 6)
    subject = archives.describe(source).model_copy(update={"members": (), "chunks": None})
    with Low(small) as low, pytest.raises(GuardError, match="make room"):
        archives.Store(small / "store").stage(source, subject)
    assert low.least > LEFT - MIB
    assert os.statvfs(small).f_bavail * os.statvfs(small).f_frsize > LEFT + 39 * MIB


def test_two_that_fit_each_but_not_together_are_not_both_begun(small, tmp_path):
    sources = [tarball(tmp_path / f"{name}.tar.gz", 3) for name in "ab"]
    subjects = [(source, archives.describe(source)) for source in sources]
    store = archives.Store(small / "store")
    with Low(small) as low, pytest.raises(GuardError, match="make room"):
        store.stage_all(subjects)
    assert low.least > LEFT
    assert store.stage(*subjects[0]).name == "a.tar.gz"
