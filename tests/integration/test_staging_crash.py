"""kill -9 at any moment of a staging: the next one succeeds, and the store holds nothing wrong."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from corpus.archives import HANDLER, manifest

from torchserve_guard import archives
from torchserve_guard.errors import VerificationError

STAGE = """
import sys
from pathlib import Path
from torchserve_guard import archives
root, source, digest = sys.argv[1:]
subject = archives.SubjectEntry(name="m.mar", kind="mar", size=None, sha256=digest, members=())
store = archives.Store(Path(root))
print("ready", flush=True)
store.stage(Path(source), subject)
print("done", flush=True)
"""

MOMENTS = random.Random(2).choices(range(1000), k=12)  # noqa: S311 - thousandths of a whole staging


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


def start(root, source, digest):
    command = [sys.executable, "-c", STAGE, str(root), str(source), digest]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_killed_staging_leaves_nothing_behind(source, tmp_path):
    root, subject = tmp_path / "store", archives.describe(source)
    began = time.monotonic()
    with start(root, source, subject.sha256) as process:
        process.wait()
    whole = time.monotonic() - began
    archives.Store(root).clear()
    killed_half_way = 0
    for moment in MOMENTS:
        with start(root, source, subject.sha256) as process:
            time.sleep(whole * moment / 1000)
            process.send_signal(signal.SIGKILL)
            process.wait()
        killed_half_way += bool(list((root / "staging").iterdir()))
        store = archives.Store(root)
        assert list((root / "staging").iterdir()) == []
        assert {path.name for path in (root / "subjects").iterdir()} <= {f"mar-{subject.sha256}"}
        staged = store.stage(source, subject)
        found = {path.relative_to(staged.tree).as_posix() for path in staged.tree.rglob("*") if path.is_file()}
        assert found == {member.path for member in subject.members}
        assert list((root / "aside").iterdir()) == []
        store.clear()
    assert killed_half_way > 0


def test_a_sweep_leaves_alone_what_another_process_is_making(source, tmp_path):
    root, subject = tmp_path / "store", archives.describe(source)
    with start(root, source, subject.sha256) as process:
        for _ in range(50):
            archives.Store(root)
        assert process.stdout.read() == b"done\n"
    assert [path.name for path in (root / "subjects").iterdir()] == [f"mar-{subject.sha256}"]
    archives.Store(root).clear()


def test_several_processes_stage_the_same_archive_at_once(source, tmp_path):
    root, subject = tmp_path / "store", archives.describe(source)
    processes = [start(root, source, subject.sha256) for _ in range(3)]
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
