"""Archives in buckets, with fsspec's own file systems in the place of a service."""

import contextlib
import hashlib
import re
import socket
import threading
import time

import pytest

from torchserve_guard import origin
from torchserve_guard.archives import MemberEntry, SubjectEntry
from torchserve_guard.archives.remote import bucket as reading
from torchserve_guard.archives.remote import objects
from torchserve_guard.archives.remote.failure import Unfetched
from torchserve_guard.archives.remote.fetching import fetched
from torchserve_guard.archives.remote.quarantine import Quarantine
from torchserve_guard.errors import VerificationError
from torchserve_guard.origin import Scheme
from torchserve_guard.terms import Terms

fsspec = pytest.importorskip("fsspec")
DATA = bytes(range(256)) * 400
TERMS = Terms(allowed=(re.compile("s3://models/.*"),))
WHERE = origin.parse("s3://models/a/m.mar")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(reading, "SMALLEST", 10_000)
    monkeypatch.setattr(reading, "LARGEST", 10_000)


@pytest.fixture
def bucket():
    """A bucket in memory that has the archive."""
    system = fsspec.filesystem("memory", skip_instance_cache=True)
    system.pipe_file("models/a/m.mar", DATA)
    yield system
    system.store.clear()


def listed(data: bytes = DATA, **more) -> SubjectEntry:
    member = MemberEntry(path="MAR-INF/MANIFEST.json", size=1, sha256="0" * 64)
    known = {"name": "m.mar", "kind": "mar", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return SubjectEntry(**{**known, "members": (member,), **more})


def tell(bucket, order, guard):
    teller = reading.Teller(guard)
    with guard, contextlib.suppress(OSError):
        teller.tell({"ready": True})
        try:
            reading.read(bucket, order, teller)
        except (ConnectionError, FileNotFoundError, ValueError) as error:
            teller.tell({"failed": f"{type(error).__name__}: {error}"})


def fetch(bucket, place, subject=None, terms=TERMS):
    @contextlib.contextmanager
    def begun(order):
        """Read as the process does, in a thread."""
        ours, theirs = socket.socketpair()
        with ours:
            thread = threading.Thread(target=tell, args=(bucket, order, theirs))
            thread.start()
            yield ours
        thread.join(30)

    transfers = {Scheme.S3: lambda errand: objects.transfer(errand, begun)}
    with fetched(WHERE, subject or listed(), terms, Quarantine(place, time.time()), transfers=transfers) as path:
        return path.read_bytes()


class Watched:
    """A file system that tells what was asked of it, and fails when it is told to."""

    def __init__(self, system, fail_at: int | None = None):
        self.system, self.fail_at, self.begins = system, fail_at, []

    def info(self, path):
        return self.system.info(path)

    def cat_file(self, path, start, end):
        self.begins.append(start)
        if self.fail_at is not None and start >= self.fail_at:
            raise ConnectionError("https://models.example/m.mar?X-Amz-Signature=hunter2 went away")
        return self.system.cat_file(path, start=start, end=end)


def test_an_object_is_fetched_piece_by_piece(bucket, tmp_path):
    watched = Watched(bucket)
    assert fetch(watched, tmp_path / "q") == DATA
    assert watched.begins == list(range(0, len(DATA), 10_000))
    assert list((tmp_path / "q").iterdir()) == []


def test_what_was_begun_is_continued_and_a_message_holds_no_secret(bucket, tmp_path):
    with pytest.raises(Unfetched, match="ConnectionError") as caught:
        fetch(Watched(bucket, fail_at=50_000), tmp_path / "q")
    assert "hunter2" not in str(caught.value)
    watched = Watched(bucket)
    assert fetch(watched, tmp_path / "q") == DATA
    assert watched.begins[0] == 50_000


def test_an_object_that_changed_meanwhile_is_begun_anew(bucket, tmp_path):
    with pytest.raises(Unfetched):
        fetch(Watched(bucket, fail_at=50_000), tmp_path / "q")
    bucket.pipe_file("models/a/m.mar", DATA)
    watched = Watched(bucket)
    assert fetch(watched, tmp_path / "q") == DATA
    assert watched.begins[0] == 0


def test_an_object_that_changes_while_it_is_fetched_is_found_out(bucket, tmp_path):
    class Changing(Watched):
        def cat_file(self, path, start, end):
            if self.begins.count(0) == 1 and start in {50_000, 100_000}:
                self.system.pipe_file("models/a/m.mar", b"x" * len(DATA) if start == 50_000 else DATA)
            return super().cat_file(path, start, end)

    changing = Changing(bucket)
    assert fetch(changing, tmp_path / "q") == DATA
    assert changing.begins.count(0) == 2


@pytest.mark.parametrize("other", [DATA[:-1], DATA + b"x", b"x" * len(DATA)], ids=["shorter", "longer", "another"])
def test_another_object_is_refused_and_nothing_of_it_stays(bucket, tmp_path, other):
    bucket.pipe_file("models/a/m.mar", other)
    with pytest.raises(VerificationError, match="and the manifest lists"):
        fetch(bucket, tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []


def test_an_object_that_is_not_there_or_gives_too_little_is_not_to_be_had(bucket, tmp_path):
    class Short(Watched):
        def cat_file(self, path, start, end):
            return super().cat_file(path, start, end)[:-1]

    with pytest.raises(Unfetched, match="were asked for"):
        fetch(Short(bucket), tmp_path / "q")
    bucket.rm("models/a/m.mar")
    with pytest.raises(Unfetched, match="FileNotFoundError"):
        fetch(bucket, tmp_path / "q")


def test_a_bucket_that_is_not_allowed_is_not_looked_into(bucket, tmp_path):
    with pytest.raises(VerificationError, match="allowed_urls"):
        fetch(None, tmp_path / "q", terms=Terms(allowed=(re.compile("s3://others/.*"),)))
