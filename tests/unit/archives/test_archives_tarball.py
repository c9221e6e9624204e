"""The grammar of tarballs: what is ambiguous is refused for its own reason, what writers really write is not."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import shutil
import subprocess
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from corpus import archives as zips
from corpus.tarballs import GOOD, HARMLESS, HOSTILE, LONG, Entry, bomb, tar, tarball, zipped
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchserve_guard import archives
from torchserve_guard.archives.refusal import Reason, Refused
from torchserve_guard.errors import VerificationError

UNSHOWN = {Reason.CHANGED}  # needs somebody who writes while it is read


def written(folder, data, name="m.tar.gz"):
    path = Path(folder, name)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tarball_is_refused_for_its_own_reason(name, tmp_path):
    build, reason = HOSTILE[name]
    path = written(tmp_path, build())
    with pytest.raises(VerificationError) as refused:
        archives.describe(path)
    text = str(refused.value)
    assert text.endswith(f" [{reason}]") if reason in set(Reason) else reason in text, text
    assert str(path) in text


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_tarball_shows_what_tarfile_shows(name, tmp_path):
    path = written(tmp_path, HARMLESS[name]())
    subject = archives.describe(path)
    assert subject.kind == "tar.gz"
    assert members_of(subject) == members_by_tarfile(path.read_bytes())


def members_of(subject):
    return {member.path: (member.size, member.sha256) for member in subject.members if not member.path.endswith("/")}


def members_by_tarfile(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz", encoding="utf-8") as file:
        infos = file.getmembers()
        assert all(info.isfile() or info.isdir() for info in infos)
        contents = {info.name.partition("/")[2]: file.extractfile(info).read() for info in infos if info.isfile()}
    return {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()}


def test_every_reason_has_an_archive_that_shows_it(tmp_path):
    shown = set()
    for corpus, name in ((zips.HOSTILE, "m.mar"), (HOSTILE, "m.tar.gz")):
        for build, _ in corpus.values():
            with pytest.raises(VerificationError) as refused:
                archives.describe(written(tmp_path, build(), name))
            shown.add(getattr(refused.value, "reason", None))
    assert set(Reason) - shown == UNSHOWN
    assert len(zips.HOSTILE) + len(HOSTILE) > 200


WRITERS = {
    "tar --format=pax": ["tar", "--format=pax", "-czf", "{out}", "m"],
    "tar --format=ustar": ["tar", "--format=ustar", "-czf", "{out}", "m"],
    "tar --format=gnu": ["tar", "--format=gnu", "-czf", "{out}", "m"],
    "tar .": ["tar", "-C", "m", "-czf", "{out}", "."],
    "tar, piped": ["sh", "-c", "tar -cf - m | gzip -9 > {out}"],
}


@pytest.mark.parametrize("writer", [*WRITERS, "tarfile", "tarfile, ustar", "tarfile, gnu"])
def test_what_other_writers_write_is_read_alike(writer, tmp_path, mar_tree):
    mar_tree.rename(tmp_path / "m")
    out = tmp_path / "out.tar.gz"
    if writer in WRITERS:
        subprocess.run([part.format(out=out) for part in WRITERS[writer]], cwd=tmp_path, check=True)
    else:
        form = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT}.get(writer.rpartition(" ")[2])
        with tarfile.open(out, "w:gz", format=form or tarfile.PAX_FORMAT) as file:
            file.add(tmp_path / "m", "m")
    assert members_of(archives.describe(out)) == members_by_tarfile(out.read_bytes())


@pytest.mark.parametrize("writer", ["tar", "tarfile"])
def test_long_and_foreign_names_are_read_from_pax_headers(writer, tmp_path, mar_tree):
    mar_tree.rename(tmp_path / "m")
    (tmp_path / LONG).write_bytes(b"long")
    (tmp_path / "m" / "modèle.txt").write_bytes(b"foreign")
    out = tmp_path / "out.tar.gz"
    if writer == "tar":
        subprocess.run(["tar", "--format=pax", "-czf", str(out), "m"], cwd=tmp_path, check=True)
    else:
        with tarfile.open(out, "w:gz") as file:
            file.add(tmp_path / "m", "m")
    found = members_of(archives.describe(out))
    assert {LONG.removeprefix("m/"), "modèle.txt"} <= found.keys()
    assert found == members_by_tarfile(out.read_bytes())


def test_each_limit_holds_before_the_member_is_unpacked(tmp_path):
    path = written(tmp_path, tarball(*GOOD, Entry("m/more", bytes(5000))))
    for limits, reason in (
        (archives.Limits(members=2), Reason.MANY),
        (archives.Limits(unpacked=1000), Reason.LARGE),
        (archives.Limits(ratio=1, ratio_floor=0), Reason.BOMB),
        (archives.Limits(mar_manifest=10), Reason.MANIFEST_LARGE),
    ):
        with pytest.raises(Refused) as refused:
            archives.describe(path, limits=limits)
        assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.tar.gz", bomb()),
        ("m.tar.gz", tarball(Entry("m/zeros.bin", bytes(200 << 20)))),
        ("m.tar.gz", zipped(bytes(200 << 20))),
        ("m.mar", zips.bomb()),
        ("m.mar", zips.handler(packed=zips.deflated(bytes(200 << 20)))),
    ],
    ids=["tar over the ratio", "tar without a manifest", "nothing but zeros", "zip over the ratio", "zip that lies"],
)
def test_a_bomb_takes_little_memory(name, data, tmp_path):
    path = written(tmp_path, data, name)
    del data
    tracemalloc.start()
    try:
        with pytest.raises(Refused):
            archives.describe(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_a_staged_tarball_is_the_tree_beneath_its_top_directory(tmp_path):
    path = written(tmp_path, HARMLESS["directories"]())
    store = archives.Store(tmp_path / "store")
    staged = store.stage(path, archives.describe(path))
    assert {one.relative_to(staged.tree).as_posix() for one in staged.tree.rglob("*")} == {
        "handler.py", "MAR-INF", "MAR-INF/MANIFEST.json", "logs", "d", "d/x"
    }  # fmt: skip
    assert store.stage(path, archives.describe(path)) == staged
    shutil.copy(path, tmp_path / "other.tar.gz")
    assert archives.expose(staged, tmp_path / "shown").name == "m.tar.gz"


edits = st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=3)
cuts = st.tuples(st.integers(0, 20_000), st.sampled_from([0, 1, 12, 512, 1024]))
inserts = st.tuples(
    st.integers(0, 20_000), st.one_of(st.binary(max_size=30), st.just(tar(Entry("m/x", b"x"), end=b"")))
)
bases = st.sampled_from(["plain", "directories", "times and owners", "long name", "prefix", "GNU magic"])


def mutated(data, edits, cut, insert):
    data = bytearray(data)
    for place, value in edits:
        data[place % len(data)] = value
    at = cut[0] % len(data)
    del data[at : at + cut[1]]
    place = insert[0] % (len(data) + 1)
    data[place:place] = insert[1]
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(edits=edits, cut=cuts, insert=inserts, base=bases, outside=st.booleans())
@example(edits=[], cut=(0, 0), insert=(0, b""), base="plain", outside=False)
@example(edits=[], cut=(0, 0), insert=(1024, tar(Entry("m/x", b"x"), end=b"")), base="plain", outside=False)
def test_a_mutated_tarball_is_refused_or_read_as_tarfile_reads_it(edits, cut, insert, base, outside):
    data = HARMLESS[base]()
    inner = data if outside else gzip.decompress(data)
    changed = mutated(inner, edits, cut, insert)
    read_alike(changed if outside else zipped(changed))


def read_alike(data):
    with tempfile.TemporaryDirectory() as folder:
        path = written(folder, data)
        try:
            described = archives.describe(path)
        except VerificationError:
            return
        assert described.sha256 == hashlib.sha256(data).hexdigest()
        assert members_of(described) == members_by_tarfile(data)


def test_a_tarball_is_listed_as_one_by_every_sort_of_manifest(tmp_path):
    path = written(tmp_path, HARMLESS["plain"]())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (listed,) = archives.parse_manifest(f"{digest}  m.tar.gz\n".encode(), "SHA256SUMS").subjects
    assert (listed.kind, listed.sha256) == ("tar.gz", digest)
    assert archives.found_subjects(tmp_path) == ["m.tar.gz"]
    staged = archives.Store(tmp_path / "store").stage(path, listed)
    assert archives.model_of(staged) == ("m", "1.0")


@pytest.mark.parametrize(("kind", "name"), [("tar.gz", "m.mar"), ("mar", "m.tar.gz"), ("tar.gz", "m.tgz")])
def test_a_kind_under_the_name_of_another_is_refused(kind, name):
    with pytest.raises(ValueError, match="not called"):
        archives.SubjectEntry(name=name, kind=kind, size=1, sha256="0" * 64, members=())


def test_a_tarball_that_is_called_otherwise_is_not_read_as_one(tmp_path):
    tarred, zipped_ = HARMLESS["plain"](), zips.good()
    with pytest.raises(Refused) as refused:
        archives.describe(written(tmp_path, tarred, "m.mar"))
    assert refused.value.reason is Reason.NO_END
    with pytest.raises(Refused) as refused:
        archives.describe(written(tmp_path, zipped_, "m.tar.gz"))
    assert refused.value.reason is Reason.GZIP_MARK


def test_what_becomes_shorter_while_it_is_read_is_refused(tmp_path):
    path = written(tmp_path, tarball(*GOOD, Entry("m/noise", random.Random(1).randbytes(3 << 20))))  # noqa: S311 - bytes that do not shrink
    data = path.read_bytes()
    with pytest.raises(VerificationError, match="shorter"):
        archives.describe(path, progress=lambda _: path.write_bytes(data[:500]))
