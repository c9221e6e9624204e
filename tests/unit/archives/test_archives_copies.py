"""Private copies: what the archive holds and what may be written to, for as long as its guard lives."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile

import pytest

from torchserve_guard import archives
from torchserve_guard.archives.copies import Copies, Files
from torchserve_guard.archives.digests import Crew
from torchserve_guard.archives.trees import Drift
from torchserve_guard.errors import GuardError


@pytest.fixture
def store(tmp_path):
    return archives.Store(tmp_path / "store")


@pytest.fixture
def staged(model_store, store):
    return store.stage(model_store / "small.mar", archives.describe(model_store / "small.mar"))


def contents(tree):
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def copies(tmp_path):
    return list((tmp_path / "store" / "copies").iterdir())


def test_a_copy_holds_what_the_tree_holds_and_is_ours_to_write(staged, store):
    copied = store.copy(staged)
    assert contents(copied.tree) == contents(staged.tree)
    assert copied.files in {Files.COPY, Files.REFLINK}
    assert {stat.S_IMODE(path.stat().st_mode) for path in copied.tree.rglob("*") if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (copied.tree, copied.tree.parent)} == {0o700}
    (copied.tree / "new.txt").write_text("new")
    (copied.tree / "handler.py").write_text("changed")


def test_what_is_written_to_a_copy_reaches_neither_the_tree_nor_another_copy(staged, store, model_store):
    first, second = store.copy(staged), store.copy(staged)
    (first.tree / "handler.py").write_text("changed")
    assert contents(second.tree) == contents(staged.tree)
    assert not {file.stat().st_ino for file in first.tree.rglob("*")} & {
        file.stat().st_ino for file in staged.tree.rglob("*")
    }
    # The tree is still the one that was staged: a warm start takes it as it is.
    again = store.stage(model_store / "small.mar", archives.describe(model_store / "small.mar"))
    assert again.tree.stat().st_ino == staged.tree.stat().st_ino


def test_a_tree_that_was_changed_gives_no_copy(staged, store, tmp_path):
    path = staged.tree / "weights.pt"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Drift, match=r"weights\.pt"):
        store.copy(staged)
    assert copies(tmp_path) == []


def test_a_link_in_the_tree_is_not_followed(staged, store, tmp_path):
    (tmp_path / "secret").write_text("secret")
    staged.tree.chmod(0o700)
    (staged.tree / "handler.py").unlink()
    (staged.tree / "handler.py").symlink_to(tmp_path / "secret")
    with pytest.raises(GuardError, match="symbolic link"):
        store.copy(staged)
    assert copies(tmp_path) == []


def test_a_copy_is_removed_when_it_is_discarded_and_a_staged_tree_is_not(staged, store, tmp_path):
    first, second = store.copy(staged), store.copy(staged)
    store.discard(staged)
    store.discard(first)
    store.discard(first)
    assert copies(tmp_path) == [second.tree.parent]
    assert staged.tree.exists()
    store.discard_all()
    assert copies(tmp_path) == []
    assert staged.tree.exists()


def test_a_copy_that_its_model_replaced_by_a_link_is_removed_and_what_the_link_leads_to_stays(staged, store, tmp_path):
    precious = tmp_path / "precious"
    (precious / "folder").mkdir(parents=True)
    (precious / "folder" / "file").write_text("kept")
    first, second, third = (store.copy(staged) for _ in range(3))
    shutil.rmtree(first.tree)
    first.tree.symlink_to(precious)
    shutil.rmtree(second.tree.parent)
    second.tree.parent.symlink_to(precious)
    shutil.rmtree(third.tree.parent)
    store.discard_all()
    assert copies(tmp_path) == []
    assert (precious / "folder" / "file").read_text() == "kept"


def test_another_guard_of_the_store_leaves_a_copy_that_is_in_use(staged, store, tmp_path):
    copied = store.copy(staged)
    archives.Store(tmp_path / "store")
    assert contents(copied.tree) == contents(staged.tree)


def test_what_a_killed_guard_left_behind_goes_with_the_next_start(model_store, tmp_path):
    program = f"""if True:
        import os
        from pathlib import Path
        from torchserve_guard import archives
        source = Path({str(model_store / "small.mar")!r})
        store = archives.Store(Path({str(tmp_path / "store")!r}))
        copied = store.copy(store.stage(source, archives.describe(source)))
        (copied.tree / "junk").mkdir()
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    (left,) = copies(tmp_path)
    assert (left / "tree" / "junk").is_dir()
    archives.Store(tmp_path / "store")
    assert copies(tmp_path) == []


def cloning(source: int, target: int) -> None:
    """What a file system that can does, seen from outside: the target has the bytes of the source."""
    os.sendfile(target, source, 0, os.fstat(source).st_size)


def lying(source: int, target: int) -> None:
    os.truncate(target, os.fstat(source).st_size)


def failing(code: int):
    def clone(_source: int, _target: int) -> None:
        raise OSError(code, os.strerror(code))

    return clone


@pytest.mark.parametrize(("clone", "files"), [(cloning, Files.REFLINK), (failing(errno.EOPNOTSUPP), Files.COPY)])
def test_blocks_are_shared_where_the_file_system_can_and_copied_where_not(staged, tmp_path, clone, files):
    with Crew() as crew:
        tree, how = Copies(tmp_path / "c", clone).make(staged.tree, staged.members, crew)
    assert how is files
    assert contents(tree) == contents(staged.tree)


@pytest.mark.parametrize(("clone", "error"), [(lying, Drift), (failing(errno.ENOSPC), OSError)])
def test_what_a_file_system_made_of_it_is_compared_and_an_error_is_none_passed_over(staged, tmp_path, clone, error):
    with Crew() as crew, pytest.raises(error):
        Copies(tmp_path / "c", clone).make(staged.tree, staged.members, crew)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_copy_needs_room_on_the_disk(staged, tmp_path):
    huge = tuple(member.model_copy(update={"size": 1 << 60}) for member in staged.members)
    with Crew() as crew, pytest.raises(GuardError, match="make room"):
        Copies(tmp_path / "c").make(staged.tree, huge, crew)
    assert list((tmp_path / "c").iterdir()) == []


def test_every_form_has_a_copy_empty_directories_and_the_marker_of_a_lone_one_with_it(store, tmp_path, mar_tree):
    source = tmp_path / "tree.mar"
    with zipfile.ZipFile(source, "w") as file:
        for path in sorted(mar_tree.rglob("*")):
            file.write(path, path.relative_to(mar_tree).as_posix())
    shutil.rmtree(mar_tree)
    staged = store.stage(source, archives.describe(source))
    copied = store.copy(staged)
    assert (copied.tree / "empty").is_dir()
    assert {path.relative_to(copied.tree) for path in copied.tree.rglob("*")} == {
        path.relative_to(staged.tree) for path in staged.tree.rglob("*")
    }


@pytest.mark.parametrize("work", ["copy", "held", "stage_all"])
def test_what_nobody_waits_for_any_more_is_given_up_and_leaves_nothing(store, staged, model_store, tmp_path, work):
    source = model_store / "small.mar"
    subject = archives.describe(source)
    stop = threading.Event()
    stop.set()
    asked = {
        "copy": lambda: store.copy(staged, stop=stop),
        "held": lambda: store.held(subject, stop=stop),
        "stage_all": lambda: store.stage_all([(source, subject)], stop=stop),
    }
    with pytest.raises(GuardError, match="nobody waits for it"):
        asked[work]()
    assert copies(tmp_path) == []
    assert list((tmp_path / "store" / "staging").iterdir()) == []
    assert list((tmp_path / "store" / "aside").iterdir()) == []
