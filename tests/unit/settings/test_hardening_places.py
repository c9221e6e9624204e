"""Who else may change or read what lies at a path, whatever way leads there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchserve_guard.settings.hardening.places import EVERYONE, chooser, reader, writer

NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may enter; pytest's own are shut."""
    folder = Path(tempfile.mkdtemp(prefix="tsg-pl-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def folder(path: Path, mode: int = 0o755) -> Path:
    path.mkdir(parents=True)
    path.chmod(mode)
    return path


def file(path: Path, mode: int = 0o644) -> Path:
    path.touch()
    path.chmod(mode)
    return path


def test_what_is_ours_alone_has_no_other_writer(place):
    assert writer(file(place / "file")) is None
    assert writer(folder(place / "folder")) is None


def test_a_file_that_everybody_may_write_and_one_in_such_a_folder(place):
    assert writer(file(place / "file", 0o666)) == (place / "file", EVERYONE)
    inside = file(folder(place / "open", 0o777) / "file")
    assert writer(inside) == (place / "open", EVERYONE)


def test_a_folder_far_above_counts(place):
    deep = folder(folder(place / "open", 0o777) / "a/b/c")
    assert writer(deep / "not there") == (place / "open", EVERYONE)


def test_a_sticky_folder_is_let_pass_for_what_is_there_and_not_for_what_is_to_come(place):
    sticky = folder(place / "sticky", 0o1777)
    there = file(sticky / "file")
    assert writer(there) is None
    assert chooser(there) is None
    assert chooser(sticky) == (sticky, EVERYONE)
    assert chooser(sticky / "not there" / "deeper") == (sticky, EVERYONE)


@pytest.mark.parametrize("target", ["../kept", "hop", "../kept/../kept"])
def test_a_link_that_others_can_replace_leads_nowhere_good(place, target):
    file(place / "kept")
    opened = folder(place / "open", 0o777)
    (opened / "hop").symlink_to("../kept")
    (opened / "link").symlink_to(target)
    assert writer(opened / "link") == (opened, EVERYONE)


def test_a_link_of_ours_to_what_others_can_write(place):
    opened = folder(place / "open", 0o777)
    (place / "link").symlink_to(opened)
    assert writer(place / "link" / "file") == (opened, EVERYONE)
    assert chooser(place / "link") == (opened, EVERYONE)


def test_a_chain_of_links_with_one_weak_joint(place):
    file(place / "kept")
    opened = folder(place / "open", 0o777)
    (opened / "middle").symlink_to(place / "kept")
    (place / "first").symlink_to(opened / "middle")
    assert writer(place / "first") == (opened, EVERYONE)


@only_root
def test_a_link_of_somebody_elses_in_a_sticky_folder(place):
    sticky, kept = folder(place / "sticky", 0o1777), file(place / "kept")
    (sticky / "link").symlink_to(kept)
    assert writer(sticky / "link") is None
    os.lchown(sticky / "link", NOBODY, NOBODY)
    assert writer(sticky / "link") == (sticky / "link", f"user {NOBODY}")


@only_root
def test_another_owner_and_another_group(place):
    theirs = file(place / "theirs")
    os.chown(theirs, NOBODY, 0)
    assert writer(theirs) == (theirs, f"user {NOBODY}")
    shared = file(place / "shared", 0o664)
    assert writer(shared) is None
    os.chown(shared, 0, NOBODY)
    shared.chmod(0o664)
    assert writer(shared) == (shared, f"group {NOBODY}")
    assert reader(shared) == EVERYONE
    shared.chmod(0o640)
    assert reader(shared) == f"group {NOBODY}"


def test_a_reader_needs_the_folders_above_too(place):
    readable = file(folder(place / "shut") / "file", 0o644)
    assert reader(readable) == EVERYONE
    (place / "shut").chmod(0o700)
    assert reader(readable) is None
    assert reader(place / "not there") is None
    assert reader(file(place / "ours", 0o640)) is None


def test_paths_that_cannot_be_looked_at_have_no_answer_and_no_end(place):
    (place / "loop").symlink_to("loop")
    (place / "growing").symlink_to("growing/more")
    for odd in (place / "loop", place / "growing", place / ("a" * 5000), Path("\udcff")):
        assert reader(odd) is None
        writer(odd)
        chooser(odd)
