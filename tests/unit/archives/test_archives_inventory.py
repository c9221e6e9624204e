"""The inventory: a model store described, and compared with its manifest, every mismatch named at once."""

from __future__ import annotations

import hashlib
import os
import shutil
from datetime import UTC, datetime

import pytest

from torchserve_guard import archives
from torchserve_guard.errors import ConfigError, VerificationError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def copy(model_store, tmp_path):
    return shutil.copytree(model_store, tmp_path / "copy")


def test_all_that_the_archiver_made_is_listed_with_its_members(model_store):
    manifest = archives.create_manifest(model_store, None, version=3, created=NOW)
    assert [(subject.name, subject.kind) for subject in manifest.subjects] == [
        ("loose", "directory"),
        ("small.mar", "mar"),
        ("stored.mar", "mar"),
    ]
    whole = hashlib.sha256((model_store / "small.mar").read_bytes()).hexdigest()
    assert manifest.subject("small.mar").sha256 == whole
    handlers = {
        member.sha256 for subject in manifest.subjects for member in subject.members if member.path == "handler.py"
    }
    assert handlers == {hashlib.sha256((model_store / "loose" / "handler.py").read_bytes()).hexdigest()}
    archives.verify_store(manifest, model_store)


def test_the_digest_of_a_directory_is_that_of_its_sorted_sums(model_store):
    root = model_store / "loose"
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    lines = "".join(f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in files)
    assert archives.describe(root).sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_every_mismatch_is_named_at_once(copy):
    manifest = archives.create_manifest(copy, None, version=1, created=NOW)
    (copy / "small.mar").unlink()
    with (copy / "stored.mar").open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    (copy / "loose" / "handler.py").write_bytes(b"import os\n")
    (copy / "planted.mar").write_bytes(b"x")
    (copy / "notes.txt").write_bytes(b"not a model")
    with pytest.raises(VerificationError) as refused:
        archives.verify_store(manifest, copy)
    text = str(refused.value)
    assert "small.mar: is missing" in text
    assert f"expected sha256 {manifest.subject('stored.mar').sha256}" in text
    assert f"found {hashlib.sha256((copy / 'stored.mar').read_bytes()).hexdigest()}" in text
    assert f"expected sha256 {manifest.subject('loose').sha256}" in text
    assert "planted.mar: is not listed" in text
    assert "notes.txt" not in text
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize("name", ["planted.mar", "planted.model", "planted.tar.gz", "planted.tgz", "planted.war"])
def test_whatever_torchserve_loads_by_its_name_is_extra(name, copy):
    manifest = archives.create_manifest(copy, None, version=1, created=NOW)
    archives.verify_store(manifest, copy)
    (copy / name).write_bytes(b"")
    with pytest.raises(VerificationError, match=f"{name}: is not listed"):
        archives.verify_store(manifest, copy)


def test_progress_counts_every_byte(model_store):
    manifest = archives.create_manifest(model_store, ["small.mar", "stored.mar"], version=1, created=NOW)
    seen = []
    (model_store / "loose").rename(model_store.parent / "elsewhere")
    try:
        archives.verify_store(manifest, model_store, progress=seen.append)
    finally:
        (model_store.parent / "elsewhere").rename(model_store / "loose")
    assert sum(seen) == sum(subject.size for subject in manifest.subjects)


def test_an_empty_store_makes_no_manifest(tmp_path):
    with pytest.raises(ConfigError, match="holds no archives"):
        archives.create_manifest(tmp_path, None, version=1, created=NOW)


def test_an_archive_outside_the_store_cannot_be_listed(model_store, tmp_path):
    (tmp_path / "inner").mkdir()
    shutil.copy(model_store / "small.mar", tmp_path / "outside.mar")
    with pytest.raises(ConfigError, match="is not a bare file name"):
        archives.create_manifest(tmp_path / "inner", ["../outside.mar"], version=1, created=NOW)


@pytest.mark.parametrize("name", ["model.tgz", "model.model", "bad name.mar"])
def test_what_cannot_be_guarded_cannot_be_listed(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"is neither|is not a bare file name"):
        archives.create_manifest(tmp_path, [name], version=1, created=NOW)


def link(root):
    (root / "extra").symlink_to("/etc/passwd")


def linked_directory(root):
    (root / "extra").symlink_to("/etc")


def pipe(root):
    os.mkfifo(root / "extra")


def colliding(root):
    (root / "HANDLER.py").write_bytes(b"")


def without_manifest(root):
    (root / "MAR-INF" / "MANIFEST.json").rename(root / "MANIFEST.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (link, "extra: is a symbolic link"),
        (linked_directory, "extra: is a symbolic link"),
        (pipe, "extra: is not a regular file"),
        (colliding, "only in case"),
        (without_manifest, "has no `MAR-INF/MANIFEST.json`"),
    ],
)
def test_a_directory_holds_regular_files_and_nothing_else(change, reason, copy):
    change(copy / "loose")
    with pytest.raises(VerificationError, match=reason):
        archives.describe(copy / "loose")


def test_a_directory_is_not_read_through_a_link(copy):
    (copy / "linked").symlink_to(copy / "loose")
    with pytest.raises(VerificationError, match="symbolic link"):
        archives.describe(copy / "linked")
