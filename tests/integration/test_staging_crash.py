"""kill -9 at any moment of a staging: the next one succeeds, and the store holds nothing wrong.

Twenty moments, cold and warm; `TSGUARD_CRASHES=200` makes it two hundred.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime

import pytest
from corpus.archives import HANDLER, manifest

from torchserve_guard import archives
from torchserve_guard.archives import reading
from torchserve_guard.errors import VerificationError

STAGE = """
import sys
from pathlib import Path
from torchserve_guard import archives
root, source, listed, believing = sys.argv[1:]
subject = archives.parse_manifest(Path(listed).read_bytes(), listed).subject("m.mar")
store = archives.Store(Path(root), believing=believing == "True")
print("ready", flush=True)
store.stage(Path(source), subject)
print("done", flush=True)
"""

CRASHES = int(os.environ.get("TSGUARD_CRASHES", "20"))
MOMENTS = random.Random(2)  # noqa: S311 - not secret, and the same every time
BELIEVED = "warm, and the archive is believed"
FORMS = ("cold", "warm", "warm, and the record is written anew", BELIEVED)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "m.mar"
    numbers = random.Random(1)  # noqa: S311 - not secret, and the same every time
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("handler.py", HANDLER)
        for number in range(300):
            file.writestr(f"parts/{number}.bin", numbers.randbytes(1000))
        file.writestr("weights.pt", numbers.randbytes(30_000_000))
        file.writestr("MAR-INF/MANIFEST.json", manifest())
    return path


@pytest.fixture(scope="module")
def subject(source):
    """The archive's entry, in chunks of a mebibyte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK", 1 << 20)
        return archives.describe(source)


def start(root, source, subject, form=FORMS[0]):
    listed = root.with_name(f"{root.name}-manifest.json")
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    manifest = archives.Manifest(schema="tsguard-manifest/1", version=1, created=moment, subjects=(subject,))
    listed.write_bytes(archives.render_manifest(manifest))
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, str(root), str(source), str(listed), str(form == BELIEVED)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def prepare(root, source, subject, form):
    """Bring the store into the state that this form of staging begins with."""
    store = archives.Store(root, believing=form == BELIEVED)
    for _ in range({"cold": 0, "warm": 2}.get(form, 1)):
        store.stage(source, subject)


def duration(root, source, subject, form):
    prepare(root, source, subject, form)
    with start(root, source, subject, form) as process:
        began = time.monotonic()
        process.wait()
    archives.Store(root).clear()
    return time.monotonic() - began


def verify_nothing_is_wrong(root, source, subject):
    """Look at the store as the next start finds it, and after that start."""
    store = archives.Store(root, believing=False)
    home = root / "subjects" / f"mar-{subject.sha256}"
    assert list((root / "staging").iterdir()) == []
    assert list((root / "subjects").iterdir()) in ([], [home])
    if home.exists():
        verify_whole(home, subject)
    inode = home.stat().st_ino if home.exists() else None
    store.stage(source, subject)
    staged = store.stage(source, subject)
    verify_whole(home, subject)
    assert staged.tree == home / "tree"
    assert inode in (None, home.stat().st_ino)
    assert json.loads((home / "record.json").read_bytes())["chunks"]["sha256"] == list(subject.chunks.sha256)
    assert list((root / "aside").iterdir()) == []
    assert list((root / "staging").iterdir()) == []
    store.clear()


def verify_whole(home, subject):
    """Hash what has a name in the store, without any of the store's own code."""
    files = {path.relative_to(home / "tree").as_posix(): path for path in (home / "tree").rglob("*") if path.is_file()}
    found = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert found == {member.path: member.sha256 for member in subject.members}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o400}
    assert json.loads((home / "record.json").read_bytes())["sha256"] == subject.sha256


@pytest.mark.timeout(60 + 15 * CRASHES)
def test_a_killed_staging_leaves_nothing_behind(source, subject, tmp_path):
    root = tmp_path / "store"
    whole = {form: duration(root, source, subject, form) for form in FORMS}
    half_way = finished = 0
    for number in range(CRASHES):
        # Most of the moments are those of a cold staging: there is most to go wrong.
        form = FORMS[0] if number % 4 else FORMS[1 + number // 4 % 3]
        prepare(root, source, subject, form)
        with start(root, source, subject, form) as process:
            time.sleep(whole[form] * MOMENTS.random())
            finished += process.poll() is not None
            process.send_signal(signal.SIGKILL)
            process.wait()
        half_way += bool(list((root / "staging").iterdir()))
        verify_nothing_is_wrong(root, source, subject)
    print(f"{CRASHES} moments: {half_way} left a tree half made, {finished} came too late")  # noqa: T201 - for whoever asked for more
    assert half_way > CRASHES // 8


def test_a_sweep_leaves_alone_what_another_process_is_making(source, subject, tmp_path):
    root = tmp_path / "store"
    with start(root, source, subject) as process:
        for _ in range(50):
            archives.Store(root)
        assert process.stdout.read() == b"done\n"
    assert [path.name for path in (root / "subjects").iterdir()] == [f"mar-{subject.sha256}"]
    archives.Store(root).clear()


def test_several_processes_stage_the_same_archive_at_once(source, subject, tmp_path):
    root = tmp_path / "store"
    processes = [start(root, source, subject) for _ in range(3)]
    for process in processes:
        with process:
            assert process.stdout.read() == b"done\n"
    store = archives.Store(root)
    inode = store.stage(source, subject).tree.stat().st_ino
    assert store.stage(source, subject).tree.stat().st_ino == inode
    assert list((root / "staging").iterdir()) == []
    assert list((root / "aside").iterdir()) == []
    store.clear()


def test_an_archive_rewritten_while_it_is_read_never_shows_two_faces(source, tmp_path):
    """What is unpacked is what was hashed, even when the file changes between two reads."""
    path = tmp_path / "m.mar"
    good = source.read_bytes()
    evil = good.replace(HANDLER[:3], b"xxx")
    path.write_bytes(good)
    subject = archives.describe(path)
    store = archives.Store(tmp_path / "store")
    bare = subject.model_copy(update={"members": ()})
    flips = 0

    def flip(_count):
        nonlocal flips
        flips += 1
        path.write_bytes(evil if flips % 2 else good)

    for _ in range(5):
        path.write_bytes(good)
        try:
            staged = store.stage(path, bare, progress=flip)
        except VerificationError:
            continue
        tree = {member.path: member for member in staged.members}
        assert tree == {member.path: member for member in subject.members}
    assert flips > 0
    store.clear()
