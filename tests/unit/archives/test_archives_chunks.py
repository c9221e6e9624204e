"""Chunks: one large archive on all cores, and never a way around the digest of the whole."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import threading
from datetime import UTC, datetime

import pytest
from corpus.archives import HANDLER, Entry, archive, manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchserve_guard import archives
from torchserve_guard.archives import digests, inventory, reading
from torchserve_guard.archives.manifest import Chunks, render_subject
from torchserve_guard.archives.sources import open_file
from torchserve_guard.errors import ConfigError, VerificationError

MIB = 1 << 20
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a mebibyte, so that an archive of a few has several."""
    monkeypatch.setattr(reading, "CHUNK", MIB)


def large(seed, code=HANDLER):
    weights = hashlib.shake_256(bytes([seed])).digest(3 * MIB)
    return archive(Entry("handler.py", code), Entry("weights.pt", weights), Entry("MAR-INF/MANIFEST.json", manifest()))


@pytest.fixture
def source(tmp_path, small_chunks):
    path = tmp_path / "store" / "m.mar"
    path.parent.mkdir()
    path.write_bytes(large(1))
    return path


@pytest.fixture
def subject(source):
    return archives.describe(source)


@pytest.fixture
def store(tmp_path):
    """A store that reads archives again at each start: what is believed is in test_archives_sighting."""
    return archives.Store(tmp_path / "state", believing=False)


def chunked(data):
    return Chunks(
        size=MIB, sha256=tuple(hashlib.sha256(data[at : at + MIB]).hexdigest() for at in range(0, len(data), MIB))
    )


def listing(subject):
    return archives.Manifest(schema="tsguard-manifest/1", version=1, created=NOW, subjects=(subject,))


def record_of(staged):
    return json.loads((staged.tree.parent / "record.json").read_bytes())


def test_a_large_archive_is_listed_with_its_chunks(source, subject):
    assert subject.chunks == chunked(source.read_bytes())
    assert len(subject.chunks.sha256) == 4
    assert subject.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()


def test_an_archive_of_one_chunk_has_no_list_of_them(model_store):
    assert archives.describe(model_store / "small.mar").chunks is None
    assert b"chunks" not in render_subject(archives.describe(model_store / "small.mar"))


def test_a_manifest_with_chunks_is_read_as_it_is_written(subject):
    rendered = archives.render_manifest(listing(subject))
    assert archives.parse_manifest(rendered, "m") == listing(subject)
    assert archives.render_manifest(archives.parse_manifest(rendered, "m")) == rendered


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda entry: entry["chunks"]["sha256"].pop(), "do not make"),
        (lambda entry: entry["chunks"]["sha256"].append("0" * 64), "do not make"),
        (lambda entry: entry["chunks"].update(size=2 * MIB), "do not make"),
        (lambda entry: entry.update(size=0, chunks={"size": MIB, "sha256": []}), "at least 1 item"),
        (lambda entry: entry["chunks"].update(size=0), "greater than or equal"),
        (lambda entry: entry["chunks"].update(size=MIB + 1), "multiple of"),
        (lambda entry: entry["chunks"].update(size=1 << 40), "less than or equal"),
        (lambda entry: entry["chunks"].update(size=True), "valid integer"),
        (lambda entry: entry["chunks"].update(more=1), "not permitted"),
        (lambda entry: entry["chunks"]["sha256"].__setitem__(0, "A" * 64), "pattern"),
        (lambda entry: entry.update(kind="directory"), "only an archive"),
    ],
)
def test_chunks_that_cannot_be_those_of_the_archive_are_no_manifest(change, why, subject):
    value = json.loads(archives.render_manifest(listing(subject)))
    change(value["subjects"][0])
    with pytest.raises(ConfigError, match=why):
        archives.parse_manifest(json.dumps(value).encode(), "m")


def test_a_warm_start_reads_chunks_on_several_threads_and_tells_every_byte_once(source, subject, store, monkeypatch):
    cold = store.stage(source, subject)
    assert "chunks" not in record_of(cold)
    assert store.stage(source, subject) == cold
    names, seen, real = [], [], digests.digest_of

    def noting(*args, **kwargs):
        names.append((threading.current_thread().name, args[2:]))
        return real(*args, **kwargs)

    monkeypatch.setattr(digests, "digest_of", noting)
    assert store.stage(source, subject, progress=seen.append) == cold
    spans = sorted(rest[0] for name, rest in names if name.startswith("tsguard-hash"))
    size = source.stat().st_size
    assert spans == [(0, MIB), (MIB, 2 * MIB), (2 * MIB, 3 * MIB), (3 * MIB, size)]
    assert sum(seen) == size


@pytest.mark.parametrize("place", [10, MIB - 1, MIB, 2 * MIB + 5, -1])
def test_a_warm_start_finds_a_changed_byte_in_whatever_chunk(place, source, subject, store):
    store.stage(source, subject)
    data = bytearray(source.read_bytes())
    data[place] ^= 1
    source.write_bytes(data)
    for attempt in (
        lambda: store.stage(source, subject),
        lambda: archives.verify_store(listing(subject), source.parent),
    ):
        with pytest.raises(VerificationError, match=f"{subject.sha256}.*{hashlib.sha256(data).hexdigest()}"):
            attempt()


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data[MIB:] + data[:MIB]]
)
def test_chunks_in_another_order_or_number_are_another_archive(change, source, subject, store):
    store.stage(source, subject)
    source.write_bytes(change(source.read_bytes()))
    with pytest.raises(VerificationError, match="is not what the manifest lists"):
        store.stage(source, subject)
    with pytest.raises(VerificationError, match="is not what the manifest lists"):
        archives.verify_store(listing(subject), source.parent)


def evil_twin(source, subject):
    """What was reviewed, what was not, and a manifest with the digest of the one and the chunks of the other."""
    good, evil = source.read_bytes(), large(1, b"import os  # evil\n")
    swapped = evil + bytes(len(good) - len(evil)) if len(evil) < len(good) else evil[: len(good)]
    return good, swapped, subject.model_copy(update={"chunks": chunked(swapped)})


def test_a_manifest_whose_chunks_are_of_another_archive_does_not_bring_that_one_into_the_store(
    source, subject, store, tmp_path
):
    _good, evil, two_faced = evil_twin(source, subject)
    source.write_bytes(evil)
    with pytest.raises(VerificationError, match="is not what the manifest lists"):
        store.stage(source, two_faced)
    assert list((tmp_path / "state/subjects").iterdir()) == []


def test_its_chunks_stand_for_nothing_before_one_reading_found_both(source, subject, store):
    good, evil, two_faced = evil_twin(source, subject)
    staged = store.stage(source, two_faced)
    assert (staged.tree / "handler.py").read_bytes() == HANDLER
    for content, why in ((evil, "is not what the manifest lists"), (good, "contradicts itself")):
        source.write_bytes(content)
        with pytest.raises(VerificationError, match=why):
            store.stage(source, two_faced)
    assert "chunks" not in record_of(staged)


@pytest.mark.parametrize("former", ["with chunks", "without chunks"])
def test_nor_does_it_pass_where_the_store_holds_the_reviewed_archive_already(former, source, subject, store):
    good, evil, two_faced = evil_twin(source, subject)
    earlier = subject if former == "with chunks" else subject.model_copy(update={"chunks": None})
    store.stage(source, earlier)
    staged = store.stage(source, earlier)
    for content, why in ((evil, "is not what the manifest lists"), (good, "contradicts itself")):
        source.write_bytes(content)
        with pytest.raises(VerificationError, match=why):
            store.stage(source, two_faced)
    assert (staged.tree / "handler.py").read_bytes() == HANDLER
    assert record_of(staged).get("chunks") == json.loads(render_subject(earlier)).get("chunks")


def test_a_record_that_lies_about_chunks_changes_nothing_of_what_is_loaded(source, subject, store):
    staged = store.stage(source, subject)
    store.stage(source, subject)
    _good, evil, two_faced = evil_twin(source, subject)
    (staged.tree.parent / "record.json").write_bytes(render_subject(two_faced))
    source.write_bytes(evil)
    with pytest.raises(VerificationError, match="is not what the manifest lists"):
        store.stage(source, subject)
    again = store.stage(source, two_faced)
    assert (again.tree / "handler.py").read_bytes() == HANDLER


def test_a_manifest_that_contradicts_itself_is_told_by_verify_once_the_whole_is_asked_for(source, subject):
    good, evil, two_faced = evil_twin(source, subject)
    archives.verify_store(listing(subject), source.parent, whole=True)
    for content, why in ((evil, "is not what the manifest lists"), (good, "contradicts itself")):
        source.write_bytes(content)
        with pytest.raises(VerificationError, match=why):
            archives.verify_store(listing(two_faced), source.parent, whole=True)


def test_an_old_record_learns_the_chunks_after_one_reading_of_both(source, subject, store, tmp_path):
    staged = store.stage(source, subject.model_copy(update={"chunks": None}))
    inode = staged.tree.stat().st_ino
    assert "chunks" not in record_of(staged)
    assert store.stage(source, subject).tree.stat().st_ino == inode
    assert record_of(staged) == json.loads(render_subject(subject))
    assert list((tmp_path / "state/staging").iterdir()) == []


def test_a_manifest_without_chunks_still_starts_warm_beside_a_record_with_them(source, subject, store):
    inode = store.stage(source, subject).tree.stat().st_ino
    assert record_of(store.stage(source, subject))["chunks"]
    old = subject.model_copy(update={"chunks": None})
    assert store.stage(source, old).tree.stat().st_ino == inode
    source.write_bytes(source.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError, match="is not what the manifest lists"):
        store.stage(source, old)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=70), max_size=20), st.integers(1, 40))
def test_the_digests_of_chunks_do_not_depend_on_the_pieces_that_bring_them(pieces, size):
    chopper = digests.Chopper(size)
    for piece in pieces:
        chopper.update(piece)
    data = b"".join(pieces)
    expected = tuple(hashlib.sha256(data[at : at + size]).hexdigest() for at in range(0, len(data), size))
    assert chopper.digests() == expected


def test_several_archives_are_staged_at_once_each_as_itself(model_store, tmp_path, store):
    subjects = [archives.describe(model_store / name) for name in ("small.mar", "stored.mar", "loose", "small.mar")]
    seen = []
    staged = store.stage_all([(model_store / one.name, one) for one in subjects], progress=seen.append)
    assert [one.name for one in staged] == ["small.mar", "stored.mar", "loose", "small.mar"]
    assert staged == [store.stage(model_store / one.name, one) for one in subjects]
    assert sum(seen) == sum(one.size for one in subjects[:3])


def test_all_that_is_wrong_with_several_archives_is_told_at_once(model_store, store):
    subjects = [archives.describe(model_store / name) for name in ("small.mar", "stored.mar", "loose")]
    wrong = [one.model_copy(update={"sha256": "0" * 64}) if one.name != "loose" else one for one in subjects]
    with pytest.raises(VerificationError) as refused:
        store.stage_all([(model_store / one.name, one) for one in wrong])
    assert [complaint.split(":")[0].rsplit("/")[-1] for complaint in refused.value.complaints] == [
        "small.mar",
        "stored.mar",
    ]


class Asked(BaseException):
    """Somebody pressed Ctrl-C."""


def test_an_interrupted_staging_ends_at_once_and_leaves_nothing(source, subject, store, tmp_path):
    def interrupt(_count):
        raise Asked

    with pytest.raises(Asked):
        store.stage_all([(source, subject)], progress=interrupt)
    assert list((tmp_path / "state/subjects").iterdir()) == []
    assert list((tmp_path / "state/staging").iterdir()) == []
    gc.collect()  # stores of other tests keep their leases until they are forgotten
    before = len(os.listdir("/proc/self/fd"))
    store.stage(source, subject)
    with pytest.raises(Asked):
        store.stage(source, subject, progress=interrupt)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tsguard")]


def test_a_file_that_becomes_shorter_while_it_is_hashed_is_refused(source):
    def shorten(_count):
        os.truncate(source, MIB)

    with open_file(source, "m.mar") as file, pytest.raises(VerificationError, match="became shorter"):
        digests.digest_of(file, shorten)


def test_one_archive_more_than_there_are_leaders_is_verified_too(source, subject, monkeypatch):
    monkeypatch.setattr(inventory, "cores", lambda: 1)
    entries = []
    for number in range(5):
        path = source.with_name(f"n{number}.mar")
        path.write_bytes(source.read_bytes())
        entries.append(subject.model_copy(update={"name": path.name}))
    source.unlink()
    listed = listing(subject).model_copy(update={"subjects": tuple(entries)})
    seen = []
    archives.verify_store(listed, source.parent, progress=seen.append)
    assert sum(seen) == 5 * subject.size


def test_the_reviewed_archive_under_the_chunks_of_another_is_told_without_being_asked(source, subject):
    _good, _evil, two_faced = evil_twin(source, subject)
    with pytest.raises(VerificationError, match="contradicts itself"):
        archives.verify_store(listing(two_faced), source.parent)


def give_up(source, progress, begun, go_on):
    """Leave a crew by an error while it is at work; return that work."""
    with open_file(source, "m.mar") as file, contextlib.suppress(Asked), digests.Crew(progress) as crew:
        work = crew.submit(digests.digest_of, file, crew.tell)
        assert begun.wait(30)
        threading.Timer(0.2, go_on.set).start()
        raise Asked
    return work


def test_work_that_is_not_wanted_any_more_ends_at_the_next_piece(source):
    told, begun, go_on = [], threading.Event(), threading.Event()

    def wait(count):
        told.append(count)
        begun.set()
        go_on.wait(30)

    assert isinstance(give_up(source, wait, begun, go_on).exception(), digests.Stopped)
    assert len(told) == 1
