"""The store's room: what nobody uses for some starts goes, what anybody uses stays."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys

import pytest

from torchserve_guard import archives
from torchserve_guard.errors import GuardError

USER = """
import sys, time
from pathlib import Path
from torchserve_guard import archives
root, source = map(Path, sys.argv[1:])
store = archives.Store(root)
staged = store.stage(source, archives.describe(source))
print(staged.tree, flush=True)
time.sleep(60)
"""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def source(model_store):
    return model_store / "small.mar"


@pytest.fixture
def home(root, source):
    """A tree that somebody staged who is gone."""
    return staged_by_somebody(root, source)


def staged_by_somebody(root, source):
    store = archives.Store(root)
    home = store.stage(source, archives.describe(source)).tree.parent
    del store
    gc.collect()
    return home


def start(root, listed=(), idle=3):
    """Start with these archives listed, and end again."""
    store = archives.Store(root)
    removed = store.collect(listed, idle)
    del store
    gc.collect()
    return removed


def test_what_nobody_asked_for_goes_after_some_starts(root, home):
    assert [start(root) for _ in range(3)] == [[], [], []]
    assert home.exists()
    assert start(root) == [home.name]
    assert list((root / "subjects").iterdir()) == list((root / "staging").iterdir()) == []


def test_what_the_manifest_lists_stays(root, home, source):
    for _ in range(6):
        assert start(root, [archives.describe(source)]) == []
    assert home.exists()


def test_one_use_begins_the_count_anew(root, home, source):
    for _ in range(3):
        start(root)
    start(root, [archives.describe(source)])
    assert [start(root) for _ in range(3)] == [[], [], []]
    assert start(root) == [home.name]


def test_a_tree_that_was_idle_is_as_good_as_any(root, home, source):
    start(root)
    inode = home.stat().st_ino
    assert archives.Store(root).stage(source, archives.describe(source)).tree.parent.stat().st_ino == inode


def test_what_this_guard_staged_itself_stays(root, source):
    store = archives.Store(root)
    staged = store.stage(source, archives.describe(source))
    assert [store.collect((), 0) for _ in range(3)] == [[], [], []]
    assert staged.tree.exists()


def test_what_another_guard_uses_stays_until_that_guard_has_ended_however(root, source):
    with subprocess.Popen([sys.executable, "-c", USER, str(root), str(source)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline().strip()
            assert [start(root, idle=0) for _ in range(3)] == [[], [], []]
        finally:
            other.send_signal(signal.SIGKILL)
            other.wait()
    assert len(start(root, idle=0)) == 1
    assert len(list((root / "leases").iterdir())) == 1, "the last start's own"


def test_one_start_removes_no_more_than_a_few(root, home):
    for number in range(20):
        shutil.copytree(home, root / "subjects" / f"mar-{number:064}")
    counts = [len(start(root, idle=0)) for _ in range(4)]
    assert counts == [8, 8, 5, 0]


@pytest.mark.parametrize("told", [b"", b"x", b"-5", b"\xb2", b"9" * 5000])
def test_a_count_that_is_none_removes_nothing_before_its_time(told, root, home):
    (home / "idle").write_bytes(told)
    removed = start(root, idle=3)
    assert removed == ([home.name] if told.startswith(b"9") else [])


def test_a_lease_is_no_way_out_of_the_store(root, home, tmp_path):
    """Whoever could write here could do worse; still nothing outside is opened or removed."""
    (tmp_path / "precious").write_text("x")
    (root / "leases" / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(GuardError, match="cannot be tidied"):
        start(root)
    assert (tmp_path / "precious").read_text() == "x"
    assert home.exists()


def test_leases_do_not_pile_up(root, source):
    for _ in range(5):
        staged_by_somebody(root, source)
    store = archives.Store(root)
    store.collect(())
    assert len(list((root / "leases").iterdir())) == 1
    assert os.stat(root / "leases").st_mode & 0o077 == 0
