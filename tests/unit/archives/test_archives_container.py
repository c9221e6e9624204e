"""The container grammar: what is ambiguous is refused for its own reason, what writers really write is not."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from corpus.archives import HARMLESS, HOSTILE, good
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchserve_guard import archives
from torchserve_guard.errors import VerificationError


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_for_its_own_reason(name, tmp_path):
    build, reason = HOSTILE[name]
    path = tmp_path / "hostile.mar"
    path.write_bytes(build())
    with pytest.raises(VerificationError) as refused:
        archives.describe(path)
    assert reason in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_archive_shows_what_zipfile_shows(name, tmp_path):
    path = tmp_path / "harmless.mar"
    path.write_bytes(HARMLESS[name]())
    assert members_of(archives.describe(path)) == members_by_zipfile(path)


def members_of(subject):
    return {member.path: (member.size, member.sha256) for member in subject.members if not member.path.endswith("/")}


def members_by_zipfile(path):
    with zipfile.ZipFile(path) as file:
        contents = {info.filename: file.read(info) for info in file.infolist() if not info.is_dir()}
    return {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()}


WRITERS = {
    "zip": ["zip", "-qr", "{out}", "."],
    "zip -0": ["zip", "-q0r", "{out}", "."],
    "zip -9X": ["zip", "-q9Xr", "{out}", "."],
    "zip -D": ["zip", "-qDr", "{out}", "."],
    "zip -fd": ["zip", "-qr", "-fd", "{out}", "."],
    "jar": ["jar", "cfM", "{out}", "."],
    "jar -0": ["jar", "c0fM", "{out}", "."],
    "python -m zipfile": [sys.executable, "-m", "zipfile", "-c", "{out}", "handler.py", "MAR-INF", "empty"],
}


@pytest.mark.parametrize("writer", [*WRITERS, "streamed zipfile"])
def test_what_other_writers_write_is_read_alike(writer, tmp_path, mar_tree):
    out = tmp_path / "out.zip"
    if writer == "streamed zipfile":
        write_streamed(out, mar_tree)
    else:
        command = [part.format(out=out) for part in WRITERS[writer]]
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        subprocess.run(command, cwd=mar_tree, check=True)
    path = out.rename(tmp_path / "out.mar")
    assert members_of(archives.describe(path)) == members_by_zipfile(path)


def write_streamed(out, tree):
    """Write as Python does to a pipe: with data descriptors."""

    class Pipe(io.RawIOBase):
        def __init__(self, file):
            super().__init__()
            self.file = file

        def writable(self):
            return True

        def write(self, data):
            return self.file.write(data)

    with out.open("wb") as file, zipfile.ZipFile(Pipe(file), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(tree))


def test_only_a_regular_file_is_read_and_nothing_is_waited_for(tmp_path):
    real = tmp_path / "real.mar"
    real.write_bytes(good())
    (tmp_path / "link.mar").symlink_to(real)
    os.mkfifo(tmp_path / "pipe.mar")
    for name, reason in {
        "link.mar": "symbolic link",
        "pipe.mar": "not a regular file",
        "no.mar": "does not exist",
    }.items():
        with pytest.raises(VerificationError, match=reason):
            archives.describe(tmp_path / name)


def test_each_limit_holds_before_anything_is_unpacked(tmp_path):
    path = tmp_path / "good.mar"
    path.write_bytes(good())
    for limits, reason in (
        (archives.Limits(members=1), "members, more than the limit of 1"),
        (archives.Limits(unpacked=10), "more than the limit of 10"),
        (archives.Limits(ratio=0, ratio_floor=0), "more than the limit of 0 to 1"),
        (archives.Limits(directory=10), "central directory is larger"),
    ):
        with pytest.raises(VerificationError, match=reason):
            archives.describe(path, limits=limits)


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3),
    cut=st.tuples(st.integers(0, 10_000), st.integers(0, 30)),
    insert=st.tuples(st.integers(0, 10_000), st.binary(max_size=30)),
    base=st.sampled_from(["plain", "stored", "descriptor", "with zip64 end record", "local zip64", "empty directory"]),
)
@example(edits=[], cut=(0, 0), insert=(0, b""), base="plain")
def test_a_mutated_archive_is_refused_or_read_as_zipfile_reads_it(edits, cut, insert, base):
    data = bytearray(HARMLESS[base]())
    for place, value in edits:
        data[place % len(data)] = value
    at, length = cut[0] % len(data), cut[1]
    del data[at : at + length]
    place = insert[0] % (len(data) + 1)
    data[place:place] = insert[1]
    read_alike(bytes(data))


def read_alike(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mutated.mar")
        path.write_bytes(data)
        try:
            described = archives.describe(path)
        except VerificationError:
            return
        assert described.sha256 == hashlib.sha256(data).hexdigest()
        assert members_of(described) == members_by_zipfile(path)
