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
    (place,) = history.places(tmp_path / "state", tmp_path / "m.json")
    return place


def started(state: Path, manifest: Path, version: Version) -> None:
    history.remember(history.places(state, manifest), version)


def passes(state: Path, manifest: Path, version: Version) -> bool:
    try:
        history.verify_not_older(history.last(history.places(state, manifest)), version, "m.json", signed=True)
    except VerificationError:
        return False
    return True


def test_what_is_remembered_is_what_is_told(place):
    assert history.last([place]) == ()
    for version in (Version(3, A), Version(4, B), Version(0, A)):
        history.remember([place], version)
        assert history.last([place]) == (version,)
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o077 == 0


@given(st.lists(versions, max_size=2), versions, st.booleans())
def test_lower_never_passes_and_higher_always_does(last, found, signed):
    newest = max((one.number for one in last), default=0)
    others = {one.sha256 for one in last if one.number == found.number > 0} - {found.sha256}
    try:
        history.verify_not_older(last, found, "m.json", signed=signed)
    except VerificationError:
        assert found.number < newest or (signed and others)
    else:
        assert found.number >= newest
        assert not (signed and others)


def test_the_first_manifest_passes_whatever_it_is():
    history.verify_not_older((), Version(0, A), "m.json", signed=True)


def test_each_manifest_has_a_memory_of_its_own(tmp_path):
    told = [tmp_path / name for name in ("c/m", "c/n", "d/m", "cm", "c")]
    assert len({history.places(tmp_path, path) for path in told}) == len(told)


@pytest.mark.parametrize(
    "spelling", ["store/m", "store/../store/m", "./store//m", "v4/../store/m", "link/m", "up/store/m"]
)
def test_another_spelling_of_its_path_is_no_other_manifest(spelling, tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    (tmp_path / "v4").mkdir()
    (tmp_path / "link").symlink_to("store")
    (tmp_path / "up").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    started(tmp_path / "state", tmp_path / "store" / "m", Version(5, A))
    for manifest in (Path(spelling), Path(f"{tmp_path}/{spelling}")):
        assert not passes(tmp_path / "state", manifest, Version(4, B))
        assert not passes(tmp_path / "state", manifest, Version(5, B))
        assert passes(tmp_path / "state", manifest, Version(5, A))
        assert passes(tmp_path / "state", manifest, Version(6, B))


def test_a_link_that_is_turned_back_does_not_hide_what_was_started(tmp_path):
    state, link = tmp_path / "state", tmp_path / "current"
    link.symlink_to("/releases/2")
    started(state, link / "m", Version(2, A))
    link.unlink()
    link.symlink_to("/releases/1")
    assert not passes(state, link / "m", Version(1, B))
    # On purpose, and then forward again: each release is known by the highest that it was started as.
    started(state, link / "m", Version(1, B))
    assert passes(state, link / "m", Version(1, B))
    link.unlink()
    link.symlink_to("/releases/2")
    assert passes(state, link / "m", Version(2, A))


def test_a_folder_of_memories_that_is_a_link_is_refused_and_not_written_through(tmp_path):
    state, manifest = tmp_path / "state", tmp_path / "m"
    started(state, manifest, Version(5, A))
    (state / "manifests").rename(tmp_path / "kept")
    (tmp_path / "empty").mkdir(mode=0o700)
    (state / "manifests").symlink_to(tmp_path / "empty")
    with pytest.raises(ConfigError, match="links are not followed"):
        history.last(history.places(state, manifest))
    with pytest.raises(ConfigError, match="links are not followed"):
        started(state, manifest, Version(1, A))
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_folder_of_memories_that_others_may_fill_is_refused(tmp_path):
    state, manifest = tmp_path / "state", tmp_path / "m"
    started(state, manifest, Version(5, A))
    (state / "manifests").chmod(0o770)
    with pytest.raises(ConfigError, match="chmod 700"):
        history.last(history.places(state, manifest))


def test_a_memory_that_is_a_link_lets_nothing_through(place, tmp_path):
    history.remember([place], Version(1, A))
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VerificationError, match="--allow-rollback"):
        history.last([place])


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
    place.parent.mkdir(mode=0o700, parents=True)
    place.write_bytes(data)
    with pytest.raises(VerificationError, match="--allow-rollback"):
        history.last([place])


def test_a_pipe_in_the_place_of_the_memory_is_not_waited_for(place):
    place.parent.mkdir(mode=0o700, parents=True)
    os.mkfifo(place)
    with pytest.raises(VerificationError, match="not a regular file"):
        history.last([place])


def test_a_memory_that_cannot_be_written_is_a_complaint(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be remembered"):
        started(tmp_path / "state", tmp_path / "m", Version(1, A))


REMEMBER = """
import itertools, sys
from pathlib import Path
from torchserve_guard.archives.history import Version, remember
print("ready", flush=True)
for number in itertools.count(2):
    remember([Path(sys.argv[1])], Version(number, f"{number:064x}"))
"""


def test_a_killed_writer_leaves_one_whole_version(place):
    history.remember([place], Version(1, f"{1:064x}"))
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", REMEMBER, str(place)], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            process.stdout.close()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
            process.kill()
        (found,) = history.last([place])
        assert found.sha256 == f"{found.number:064x}"
