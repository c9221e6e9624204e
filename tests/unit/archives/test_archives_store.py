"""The store: what has a name in it is whole and unchanged, or it is not used."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from corpus.archives import Entry, archive, good, manifest

from torchserve_guard import archives
from torchserve_guard.errors import ConfigError, GuardError, VerificationError


@pytest.fixture
def store(tmp_path):
    return archives.Store(tmp_path / "state" / "store")


@pytest.fixture
def source(model_store, tmp_path):
    return Path(shutil.copy(model_store / "small.mar", tmp_path / "small.mar"))


@pytest.fixture
def subject(source):
    return archives.describe(source)


def contents(tree):
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def leftovers(root):
    return sorted(path.name for path in (root / "staging").iterdir())


@pytest.mark.parametrize("name", ["small.mar", "stored.mar", "loose"])
def test_a_staged_tree_is_what_the_archive_holds_and_read_only(name, model_store, store):
    source = model_store / name
    staged = store.stage(source, archives.describe(source))
    if source.is_dir():
        expected = contents(source)
    else:
        with zipfile.ZipFile(source) as file:
            expected = {info.filename: file.read(info) for info in file.infolist()}
    assert contents(staged.tree) == expected
    assert set(staged.paths) == set(expected)
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in staged.tree.rglob("*") if path.is_file()}
    assert modes == {0o400}
    assert {stat.S_IMODE(path.stat().st_mode) for path in [staged.tree, *staged.tree.rglob("*")] if path.is_dir()} == {
        0o500
    }
    assert archives.model_of(staged) == (source.stem, "1.0")


def test_the_progress_tells_every_byte_of_the_source_cold_and_warm(source, subject, store):
    for _ in range(2):
        seen = []
        store.stage(source, subject, progress=seen.append)
        assert sum(seen) == source.stat().st_size


def test_an_archive_that_is_not_the_promised_one_gets_no_name(source, subject, store, tmp_path):
    data = bytearray(source.read_bytes())
    data[100] ^= 1
    source.write_bytes(data)
    with pytest.raises(VerificationError) as refused:
        store.stage(source, subject)
    assert str(source) in str(refused.value)
    assert subject.sha256 in str(refused.value)
    assert hashlib.sha256(data).hexdigest() in str(refused.value)
    assert list((tmp_path / "state/store/subjects").iterdir()) == []
    assert leftovers(tmp_path / "state/store") == []


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda _: b"", lambda _: good()])
def test_another_size_is_reported_with_both_digests_too(change, source, subject, store):
    source.write_bytes(change(source.read_bytes()))
    with pytest.raises(VerificationError, match=f"{subject.sha256}.*{hashlib.sha256(source.read_bytes()).hexdigest()}"):
        store.stage(source, subject)


def test_members_that_are_not_those_of_the_manifest_are_named(source, subject, store):
    other = subject.members[0].model_copy(update={"sha256": "0" * 64})
    lying = subject.model_copy(update={"members": (other, *subject.members[1:-1])})
    with pytest.raises(VerificationError) as refused:
        store.stage(source, lying)
    assert f"`{other.path}` is {subject.members[0].sha256}" in str(refused.value)
    assert f"`{subject.members[-1].path}` is not listed" in str(refused.value)


def test_a_promise_without_members_is_kept_by_the_digest_alone(source, subject, store):
    bare = subject.model_copy(update={"members": (), "size": None})
    cold, warm = store.stage(source, bare), store.stage(source, bare)
    assert cold == warm
    assert cold.size == source.stat().st_size


def test_a_tree_that_somebody_may_be_serving_from_is_not_replaced_by_an_equal_one(source, subject, store):
    promise = subject.model_copy(update={"members": (), "size": None})
    first = store.stage(source, promise).tree
    number, changed = first.stat().st_ino, first.stat().st_ctime_ns
    assert store.stage(source, promise).tree == first
    assert (first.stat().st_ino, first.stat().st_ctime_ns) == (number, changed)


def test_a_tree_that_was_changed_is_replaced_where_the_archive_alone_is_promised(source, subject, store):
    promise = subject.model_copy(update={"members": (), "size": None})
    first = store.stage(source, promise)
    expected = contents(first.tree)
    change_a_byte(first.tree)
    assert contents(store.stage(source, promise).tree) == expected


def test_a_warm_stage_still_hashes_the_archive(source, subject, store):
    staged = store.stage(source, subject)
    with source.open("r+b") as file:
        file.seek(50)
        file.write(b"\0\1\2")
    with pytest.raises(VerificationError, match=subject.sha256):
        store.stage(source, subject)
    assert staged.tree.exists()


def writable(path):
    path.chmod(0o700 if path.is_dir() else 0o600)


def change_a_byte(tree):
    writable(tree / "handler.py")
    data = (tree / "handler.py").read_bytes()
    (tree / "handler.py").write_bytes(data[:-1] + b"#")
    (tree / "handler.py").chmod(0o400)


def add_a_file(tree):
    writable(tree)
    (tree / "sitecustomize.py").write_bytes(b"")
    (tree / "sitecustomize.py").chmod(0o400)
    tree.chmod(0o500)


def add_a_directory(tree):
    writable(tree)
    (tree / "__pycache__").mkdir()
    tree.chmod(0o500)


def remove_a_file(tree):
    writable(tree)
    (tree / "handler.py").unlink()
    tree.chmod(0o500)


def swap_a_link(tree):
    remove_a_file(tree)
    writable(tree)
    (tree / "handler.py").symlink_to("/dev/null")
    tree.chmod(0o500)


def make_writable(tree):
    writable(tree / "handler.py")


def link_elsewhere(tree):
    os.link(tree / "handler.py", tree.parent / "other-name")


def replace_the_tree(tree):
    writable(tree)
    tree.rename(tree.with_name("old"))
    tree.symlink_to("/tmp")


def lose_the_record(tree):
    (tree.parent / "record.json").unlink()


def empty_the_record(tree):
    (tree.parent / "record.json").write_bytes(b"")


def lie_in_the_record(tree):
    change_a_byte(tree)
    record = tree.parent / "record.json"
    old = [line for line in record.read_bytes().split(b'"') if len(line) == 64]
    new = hashlib.sha256((tree / "handler.py").read_bytes()).hexdigest().encode()
    record.write_bytes(record.read_bytes().replace(old[1], new))


DRIFTS = [
    change_a_byte,
    add_a_file,
    add_a_directory,
    remove_a_file,
    swap_a_link,
    make_writable,
    link_elsewhere,
    replace_the_tree,
    lose_the_record,
    empty_the_record,
    lie_in_the_record,
]


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_tree_that_drifted_is_set_aside_and_staged_anew(drift, source, subject, store, tmp_path):
    staged = store.stage(source, subject)
    before = contents(staged.tree)
    drift(staged.tree)
    again = store.stage(source, subject)
    assert again == staged
    assert contents(again.tree) == before
    assert [path.name for path in (tmp_path / "state/store/aside").iterdir()] == [staged.tree.parent.name]
    untouched = again.tree.stat().st_ino
    assert store.stage(source, subject).tree.stat().st_ino == untouched


def test_an_untouched_tree_is_not_unpacked_again(source, subject, store):
    first = store.stage(source, subject).tree.stat().st_ino
    assert (
        archives.Store(Path(store.stage(source, subject).tree).parents[2]).stage(source, subject).tree.stat().st_ino
        == first
    )


def test_a_lone_directory_gets_a_marker_beside_it(tmp_path, store):
    path = tmp_path / "lone.mar"
    path.write_bytes(archive(Entry("MAR-INF/MANIFEST.json", manifest(handler="image_classifier"))))
    described = archives.describe(path)
    staged = store.stage(path, described)
    assert sorted(entry.name for entry in staged.tree.iterdir()) == [".tsguard", "MAR-INF"]
    assert staged.paths == ("MAR-INF/MANIFEST.json",)
    assert store.stage(path, described).tree.stat().st_ino == staged.tree.stat().st_ino


def test_empty_directories_are_there_as_java_would_make_them(tmp_path, store):
    path = tmp_path / "empty.mar"
    path.write_bytes(
        archive(
            Entry("handler.py"),
            Entry("logs/", mode=stat.S_IFDIR | 0o755),
            Entry("d/", mode=0),
            Entry("d/x"),
            Entry("MAR-INF/MANIFEST.json", manifest()),
        )
    )
    described = archives.describe(path)
    staged = store.stage(path, described)
    assert (staged.tree / "logs").is_dir()
    assert [member.path for member in described.members if member.path.endswith("/")] == ["logs/"]
    assert store.stage(path, described) == staged


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
def test_a_store_open_to_others_is_refused(mode, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(mode)
    with pytest.raises(ConfigError, match="open to others"):
        archives.Store(tmp_path / "s")


def test_a_store_that_is_a_link_or_a_file_is_refused(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_bytes(b"")
    for name in ("link", "file"):
        with pytest.raises(ConfigError, match="not a directory"):
            archives.Store(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_store_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "s").mkdir(mode=0o700)
    os.chown(tmp_path / "s", 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to uid 65534"):
        archives.Store(tmp_path / "s")


def test_what_nobody_is_making_any_more_is_swept(tmp_path, source, subject):
    root = tmp_path / "s"
    archives.Store(root)
    abandoned = root / "staging" / "abandoned"
    (abandoned / "tree" / "d").mkdir(parents=True)
    (abandoned / "tree" / "d" / "f").write_bytes(b"half")
    (abandoned / "tree" / "link").symlink_to(source)
    (abandoned / "tree" / "d").chmod(0o500)
    (root / "staging" / "stray").write_bytes(b"")
    archives.Store(root)
    assert leftovers(root) == []
    assert source.exists()


def test_a_clear_store_is_gone(store, source, subject, tmp_path):
    store.stage(source, subject)
    store.clear()
    assert not (tmp_path / "state" / "store").exists()


def test_no_room_is_said_before_the_disk_is_full(tmp_path, monkeypatch, source, subject, store):
    full = os.statvfs_result((4096, 4096, 100, 1, 1, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda _: full)
    with pytest.raises(GuardError, match="has 4096 bytes left"):
        store.stage(source, subject)


def test_the_exposed_store_shows_each_tree_under_its_own_name(model_store, store, tmp_path):
    into = tmp_path / "run" / "models"
    for name in ("small.mar", "loose"):
        staged = store.stage(model_store / name, archives.describe(model_store / name))
        link = archives.expose(staged, into)
        assert link == into / name
        assert archives.expose(staged, into) == link
        assert contents(link.resolve()) == contents(staged.tree)
    assert sorted(path.name for path in into.iterdir()) == ["loose", "small.mar"]
    assert stat.S_IMODE(into.stat().st_mode) == 0o700


def test_nothing_that_is_not_a_link_is_replaced(model_store, store, tmp_path):
    (tmp_path / "small.mar").mkdir()
    staged = store.stage(model_store / "small.mar", archives.describe(model_store / "small.mar"))
    with pytest.raises(GuardError, match="is not a link of ours"):
        archives.expose(staged, tmp_path)


def test_a_source_that_is_swapped_for_a_link_is_refused(source, subject, store, tmp_path):
    source.rename(tmp_path / "elsewhere.mar")
    source.symlink_to(tmp_path / "elsewhere.mar")
    with pytest.raises(VerificationError, match="symbolic link"):
        store.stage(source, subject)


def test_no_descriptor_is_left_open(source, subject, store, tmp_path):
    gc.collect()  # stores of other tests keep their leases until they are forgotten
    before = len(os.listdir("/proc/self/fd"))
    store.stage(source, subject)
    store.stage(source, subject)
    source.write_bytes(source.read_bytes()[:-40] + bytes(40))
    for _ in range(3):
        with pytest.raises(VerificationError):
            store.stage(source, subject.model_copy(update={"sha256": "0" * 64}))
    assert len(os.listdir("/proc/self/fd")) == before
