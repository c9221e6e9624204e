"""An older manifest is not taken for news: the last version started is remembered, and nothing lower passes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.archives import history
from torchserve_guard.archives.history import Version
from torchserve_guard.errors import ConfigError, VerificationError

A, B = "a" * 64, "b" * 64
versions = st.builds(Version, st.integers(0, 5), st.sampled_from([A, B]))


@pytest.fixture
def place(tmp_path) -> Path:
    return history.place(tmp_path / "state", Path("/etc/c.properties"), Path("/models/m.json"))


def test_what_is_remembered_is_what_is_told(place):
    assert history.last(place) is None
    for version in (Version(3, A), Version(4, B), Version(0, A)):
        history.remember(place, version)
        assert history.last(place) == version
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o077 == 0


@given(versions, versions, st.booleans())
def test_lower_never_passes_and_higher_always_does(last, found, signed):
    try:
        history.verify_not_older(last, found, "m.json", signed=signed)
    except VerificationError:
        assert found.number < last.number or (signed and found.number == last.number and found.sha256 != last.sha256)
    else:
        assert found.number >= last.number
        assert not signed or found.number > last.number or found.number == 0 or found == last


def test_the_first_manifest_passes_whatever_it_is():
    history.verify_not_older(None, Version(0, A), "m.json", signed=True)


def test_each_configuration_and_manifest_has_a_memory_of_its_own(tmp_path):
    told = [("c", "m"), ("c", "n"), ("d", "m"), ("cm", ""), ("", "cm")]
    assert len({history.place(tmp_path, Path("/" + c), Path("/" + m)) for c, m in told}) == len(told)


def test_a_link_that_is_turned_does_not_change_the_place(tmp_path):
    link = tmp_path / "current"
    link.symlink_to("/releases/2")
    before = history.place(tmp_path, link / "c", link / "m")
    link.unlink()
    link.symlink_to("/releases/1")
    assert history.place(tmp_path, link / "c", link / "m") == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"schema": "tsguard-started/1", "version": 1}',
        b'{"schema": "tsguard-started/1", "version": -1, "sha256": "' + A.encode() + b'"}',
        b'{"schema": "tsguard-started/1", "version": 1.0, "sha256": "' + A.encode() + b'"}',
        b'{"schema": "tsguard-started/1", "version": 9, "version": 1, "sha256": "' + A.encode() + b'"}',
        b" " * 5000,
    ],
)
def test_a_memory_that_cannot_be_read_lets_nothing_through(data, place):
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    with pytest.raises(VerificationError, match="--allow-rollback"):
        history.last(place)


def test_a_pipe_in_the_place_of_the_memory_is_not_waited_for(place):
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    with pytest.raises(VerificationError, match="not a regular file"):
        history.last(place)


def test_a_memory_that_cannot_be_written_is_a_complaint(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be remembered"):
        history.remember(tmp_path / "state" / "manifests" / "x.json", Version(1, A))


REMEMBER = """
import itertools, sys
from pathlib import Path
from torchserve_guard.archives.history import Version, remember
print("ready", flush=True)
for number in itertools.count(2):
    remember(Path(sys.argv[1]), Version(number, f"{number:064x}"))
"""


def test_a_killed_writer_leaves_one_whole_version(place):
    history.remember(place, Version(1, f"{1:064x}"))
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", REMEMBER, str(place)], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            process.stdout.close()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
            process.kill()
        found = history.last(place)
        assert found.sha256 == f"{found.number:064x}"
