"""Sightings: an archive that nobody touched is not read again, and any touch makes it be read."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from corpus.archives import HANDLER, Entry, archive, manifest

from torchserve_guard import archives
from torchserve_guard.archives import sighting
from torchserve_guard.archives.sighting import Look, Proof
from torchserve_guard.archives.sources import open_file
from torchserve_guard.errors import VerificationError

EVIL = HANDLER[:-1] + b"#"
SECOND = 10**9


def packed(code):
    weights = hashlib.shake_256(b"w").digest(200_000)
    entries = (
        Entry("handler.py", code, method=0),
        Entry("weights.pt", weights),
        Entry("MAR-INF/MANIFEST.json", manifest()),
    )
    return archive(*entries)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "models" / "m.mar"
    path.parent.mkdir()
    written(path, packed(HANDLER))
    return path


@pytest.fixture
def subject(source):
    return archives.describe(source)


def written(path, data):
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def later():
    """A clock ten seconds ahead: what was written a moment ago has settled."""
    return time.time_ns() + 10 * SECOND


def opened(tmp_path, *, clock=later, kind="ext4", believing=True):
    return archives.Store(tmp_path / "state", believing=believing, clock=clock, file_system=lambda _: kind)


@pytest.fixture
def store(tmp_path):
    return opened(tmp_path)


def record_of(staged):
    return staged.tree.parent / "seen.json"


def test_an_archive_that_nobody_touched_is_read_once_and_known_at_the_next_start(source, subject, store, tmp_path):
    cold = store.stage(source, subject)
    seen = []
    warm = opened(tmp_path).stage(source, subject, progress=seen.append)
    assert (cold.source, warm.source) == (Proof.HASHED, Proof.BELIEVED)
    assert warm == cold
    assert sum(seen) == source.stat().st_size


def test_an_archive_that_is_known_is_not_read_and_its_tree_is(source, subject, store, monkeypatch):
    tree = store.stage(source, subject).tree
    read = set()
    real = os.preadv

    def noting(descriptor, buffers, offset):
        read.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", noting)
    assert store.stage(source, subject).source is Proof.BELIEVED
    assert read == {str(path) for path in tree.rglob("*") if path.is_file()}


def change_a_byte(path):
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(HANDLER) + len(HANDLER) - 1)
        file.write(b"#")


def change_and_set_the_times_back(path):
    before = path.stat()
    change_a_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_with_the_same_times(path):
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    change_a_byte(other)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def change_through_a_hard_link(path):
    os.link(path, path.with_name("other"))
    change_a_byte(path.with_name("other"))
    path.with_name("other").unlink()


def change_through_a_mapping(path):
    place = path.read_bytes().index(HANDLER) + len(HANDLER) - 1
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[place] = ord("#")


def change_and_cut(path):
    change_a_byte(path)
    path.write_bytes(path.read_bytes()[:-1])


def write_anew_into_the_same_file(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(HANDLER, EVIL))


def exchange_with_another(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    change_a_byte(other)
    path.rename(path.with_name("first"))
    other.rename(path)


ATTACKS = [
    change_a_byte,
    change_and_set_the_times_back,
    replace_with_the_same_times,
    change_through_a_hard_link,
    change_through_a_mapping,
    change_and_cut,
    write_anew_into_the_same_file,
    exchange_with_another,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_was_changed_is_refused_at_the_next_start(attack, source, subject, store):
    store.stage(source, subject)
    assert store.stage(source, subject).source is Proof.BELIEVED
    attack(source)
    with pytest.raises(VerificationError, match="is not what the manifest lists"):
        store.stage(source, subject)


@pytest.mark.parametrize(
    "touch",
    [
        os.utime,
        lambda path: path.chmod(0o600),
        lambda path: path.rename(path.with_name("away")).rename(path),
        lambda path: os.link(path, path.with_name("other")),
        lambda path: written(path, path.read_bytes()),
    ],
)
def test_an_archive_that_was_only_touched_is_read_once_more(touch, source, subject, store):
    store.stage(source, subject)
    touch(source)
    proofs = [store.stage(source, subject).source for _ in range(2)]
    assert proofs == [Proof.HASHED, Proof.BELIEVED]


def test_a_page_that_was_mapped_before_and_is_written_later_makes_the_archive_be_read(source, subject, tmp_path):
    """A store into a page that is dirty already moves no time of change; so it must not be dirty when it is read."""
    with source.open("rb") as file:
        if sighting.file_system(file.fileno()) not in sighting.FILE_SYSTEMS:
            pytest.skip("the file system of the temporary folder is none that is believed")
    store = archives.Store(tmp_path / "state", clock=later)
    place = source.read_bytes().index(HANDLER) + len(HANDLER) - 1
    with source.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[place] = mapping[place]
        before = source.stat()
        store.stage(source, subject)
        time.sleep(0.05)
        mapping[place] = ord("#")
        assert source.stat().st_mtime_ns != before.st_mtime_ns
        with pytest.raises(VerificationError, match="is not what the manifest lists"):
            store.stage(source, subject)


@pytest.mark.parametrize(
    ("clock", "kind"),
    [
        (time.time_ns, "ext4"),  # written a moment ago
        (lambda: 0, "ext4"),  # the clock was set back
        (later, "tmpfs"),
        (later, "nfs4"),
        (later, "fuse.ext4"),
        (later, "overlay"),
        (later, None),
    ],
)
def test_what_could_change_without_a_trace_is_read_at_each_start(clock, kind, source, subject, tmp_path):
    store = opened(tmp_path, clock=clock, kind=kind)
    for _ in range(3):
        staged = store.stage(source, subject)
        assert staged.source is Proof.HASHED
        assert not record_of(staged).exists()


@pytest.mark.parametrize("stamp", [0, 2**33])
def test_an_archive_does_not_become_old_by_what_it_says_of_itself(stamp, source, subject, tmp_path):
    os.utime(source, (stamp, stamp))
    store = opened(tmp_path, clock=time.time_ns)
    assert not record_of(store.stage(source, subject)).exists()


def test_what_is_known_is_not_believed_where_another_file_system_shows_it(source, subject, store, tmp_path):
    store.stage(source, subject)
    assert opened(tmp_path, kind="fuse").stage(source, subject).source is Proof.HASHED


def test_an_archive_that_is_touched_while_it_is_read_is_read_again(source, subject, store):
    staged = store.stage(source, subject, progress=lambda _count: os.utime(source))
    assert not record_of(staged).exists()
    assert store.stage(source, subject).source is Proof.HASHED


def test_an_archive_that_was_refused_is_not_known(source, subject, store):
    staged = store.stage(source, subject)
    change_a_byte(source)
    for _ in range(2):
        with pytest.raises(VerificationError):
            store.stage(source, subject)
    assert len(json.loads(record_of(staged).read_bytes())["seen"]) == 1


def forged(staged, source, **changes):
    """Write the record that somebody would write who may write into the store."""
    status = source.stat()
    row = {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,
    }
    record = {"schema": "tsguard-seen/1", "kind": "mar", "sha256": staged.digest, "seen": [row], **changes}
    record_of(staged).write_text(json.dumps(record))


def test_a_forged_record_changes_nothing_of_what_is_loaded_and_the_full_verification_tells(
    source, subject, store, tmp_path
):
    staged = store.stage(source, subject)
    change_a_byte(source)
    forged(staged, source)
    again = store.stage(source, subject)
    assert again.source is Proof.BELIEVED
    assert (again.tree / "handler.py").read_bytes() == HANDLER
    listed = archives.Manifest(
        schema="tsguard-manifest/1", version=1, created=datetime(2030, 1, 1, tzinfo=UTC), subjects=(subject,)
    )
    for full in (
        lambda: archives.verify_store(listed, source.parent),
        lambda: opened(tmp_path, believing=False).stage(source, subject),
    ):
        with pytest.raises(VerificationError, match="is not what the manifest lists"):
            full()


def test_a_forged_record_beside_a_changed_tree_brings_nothing_into_the_store(source, subject, store):
    staged = store.stage(source, subject)
    change_a_byte(source)
    forged(staged, source)
    handler = staged.tree / "handler.py"
    handler.chmod(0o600)
    handler.write_bytes(EVIL)
    handler.chmod(0o400)
    with pytest.raises(VerificationError, match="is not what the manifest lists"):
        store.stage(source, subject)
    assert not staged.tree.exists()


def test_a_tree_that_was_changed_is_staged_anew_from_an_archive_that_is_known(source, subject, store):
    staged = store.stage(source, subject)
    staged.tree.chmod(0o700)
    (staged.tree / "sitecustomize.py").write_bytes(b"")
    assert store.stage(source, subject).source is Proof.HASHED
    assert not (staged.tree / "sitecustomize.py").exists()


def link_to_another(path):
    path.rename(path.with_name("real"))
    path.symlink_to("real")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"{"),
        lambda path: path.write_bytes(b"[" * 10_000),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"seen": [', b'"seen": [7, ')),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"schema"', b'"scheme"')),
        lambda path: path.write_bytes(path.read_bytes() + b" " * sighting.LARGEST),
        lambda path: (path.unlink(), os.mkfifo(path)),
        lambda path: (path.unlink(), path.mkdir()),
        link_to_another,
        Path.unlink,
    ],
)
def test_a_record_that_is_none_is_no_reason_to_believe_or_to_fail(spoil, source, subject, store):
    staged = store.stage(source, subject)
    spoil(record_of(staged))
    assert store.stage(source, subject).source is Proof.HASHED


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"kind": "tar.gz"}, {"schema": "tsguard-seen/2"}])
def test_a_record_of_something_else_is_not_believed(change, source, subject, store):
    staged = store.stage(source, subject)
    forged(staged, source, **change)
    assert store.stage(source, subject).source is Proof.HASHED


@pytest.mark.parametrize("field", ["device", "inode", "size", "modified", "changed"])
def test_each_field_counts(field, source, subject, store):
    staged = store.stage(source, subject)
    record = json.loads(record_of(staged).read_bytes())
    record["seen"][0][field] += 1
    record_of(staged).write_text(json.dumps(record))
    assert store.stage(source, subject).source is Proof.HASHED


def test_a_known_archive_that_became_a_link_or_is_gone_is_refused(source, subject, store):
    store.stage(source, subject)
    link_to_another(source)
    with pytest.raises(VerificationError, match="symbolic link"):
        store.stage(source, subject)
    source.unlink()
    with pytest.raises(VerificationError, match="does not exist"):
        store.stage(source, subject)


def test_a_promise_without_members_and_a_directory_are_read_at_each_start(source, subject, store, mar_tree):
    bare = subject.model_copy(update={"members": (), "size": None})
    directory = archives.describe(mar_tree)
    for _ in range(2):
        assert store.stage(source, bare).source is Proof.HASHED
        assert store.stage(mar_tree, directory).source is Proof.HASHED


def test_several_model_stores_are_known_each_and_the_last_ones_stay(source, subject, store):
    others = [source.with_name(f"m{number}.mar") for number in range(sighting.MOST)]
    for path in others:
        written(path, source.read_bytes())
    for path in (source, *others):
        staged = store.stage(path, subject)
    assert len(json.loads(record_of(staged).read_bytes())["seen"]) == sighting.MOST
    assert {store.stage(path, subject).source for path in others} == {Proof.BELIEVED}
    assert store.stage(source, subject).source is Proof.HASHED


def test_a_disk_that_takes_its_time_is_not_waited_for(source, monkeypatch):
    asked = []

    def slow(descriptor):
        asked.append(descriptor)
        time.sleep(1)

    monkeypatch.setattr(os, "fdatasync", slow)
    look = Look(later, lambda _: "ext4")
    began = time.monotonic()
    with open_file(source, str(source)) as file:
        look.begin(file)
        look.end(file)
    assert look.sighting is None
    assert len(asked) == 1
    assert time.monotonic() - began < 0.9


def test_the_kind_of_a_file_system_is_what_the_kernel_says_of_the_open_file():
    with Path("/proc/self/status").open("rb") as file:
        assert sighting.file_system(file.fileno()) == "proc"
    assert sighting.file_system(-1) is None
