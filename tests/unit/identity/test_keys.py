"""The key file: TorchServe's shape, the guard's keys."""

import json
import os
import stat

import pytest

from torchserve_guard.access import ANONYMOUS
from torchserve_guard.errors import ConfigError
from torchserve_guard.identity import KeyFile, KeyKind


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(tmp_path, clock):
    made = KeyFile(tmp_path / "key_file.json", 3600.0, clock)
    made.write()
    return made


def told(keys: KeyFile, kind: str) -> bytes:
    return json.loads(keys.path.read_text())[kind]["key"].encode()


def test_the_file_has_the_shape_that_clients_of_torchserve_read(keys):
    document = json.loads(keys.path.read_text())
    assert set(document) == {"management", "inference", "API"}
    assert set(document["management"]) == {"key", "expiration time"}
    assert set(document["API"]) == {"key"}
    assert document["inference"]["expiration time"] == "1970-01-12T14:46:40Z"


def test_the_file_is_for_its_owner_only(keys):
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("kind", "role"), [("management", "management"), ("inference", "inference"), ("API", "api")])
def test_each_key_stands_for_its_own_role(keys, kind, role):
    assert keys.identify(b"Bearer " + told(keys, kind)).roles == {role}
    assert keys.identify(b"bearer  " + told(keys, kind)).roles == {role}


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer ", b"Basic abc", b"Bearer nope", b"Bearer " + b"x" * 100_000, b"\xff\x00"]
)
def test_anything_else_is_nobody_in_particular(keys, header):
    assert keys.identify(header) is ANONYMOUS


def test_a_part_of_a_key_or_a_key_and_more_is_nobody(keys):
    key = told(keys, "management")
    assert keys.identify(b"Bearer " + key[:-1]) is ANONYMOUS
    assert keys.identify(b"Bearer " + key + b"x") is ANONYMOUS


def test_keys_are_long_and_differ(keys):
    assert len({told(keys, kind) for kind in ("management", "inference", "API")}) == 3
    assert all(len(told(keys, kind)) >= 43 for kind in ("management", "inference", "API"))


def test_a_key_is_good_for_nothing_once_it_expired_and_the_renewed_one_is_in_the_file(keys, clock):
    old = told(keys, "management")
    api = told(keys, "API")
    clock.time = keys.next_expiry()
    assert keys.identify(b"Bearer " + old) is ANONYMOUS
    assert set(keys.renew_expired()) == {KeyKind.MANAGEMENT, KeyKind.INFERENCE}
    assert keys.identify(b"Bearer " + old) is ANONYMOUS
    assert keys.identify(b"Bearer " + told(keys, "management")).roles == {"management"}
    assert told(keys, "API") == api
    assert keys.renew_expired() == ()


def test_rotation_replaces_one_key_and_leaves_the_others(keys):
    before = {kind: told(keys, kind) for kind in ("management", "inference", "API")}
    keys.rotate(KeyKind.INFERENCE)
    after = {kind: told(keys, kind) for kind in before}
    assert before["inference"] != after["inference"]
    assert (before["management"], before["API"]) == (after["management"], after["API"])
    assert keys.identify(b"Bearer " + before["inference"]) is ANONYMOUS


def test_a_link_in_the_place_of_the_file_is_replaced_and_its_target_left_alone(tmp_path, clock):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "key_file.json").symlink_to(victim)
    KeyFile(tmp_path / "key_file.json", 60.0, clock).write()
    assert victim.read_text() == "precious"
    assert not (tmp_path / "key_file.json").is_symlink()


def test_no_repr_shows_a_key(keys):
    for shown in (repr(keys), repr(keys._keys)):
        assert not any(told(keys, kind).decode() in shown for kind in ("management", "inference", "API"))


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path, clock):
    with pytest.raises(ConfigError, match="key_file"):
        KeyFile(tmp_path / "absent" / "key_file.json", 60.0, clock).write()


def test_only_its_own_file_is_removed(keys, tmp_path, clock):
    KeyFile(keys.path, 60.0, clock).write()
    keys.remove()
    assert keys.path.exists()
    again = KeyFile(keys.path, 60.0, clock)
    again.write()
    again.remove()
    assert not keys.path.exists()
    again.remove()


def test_nothing_is_left_beside_the_file(keys):
    keys.rotate(KeyKind.MANAGEMENT)
    assert os.listdir(keys.path.parent) == ["key_file.json"]


@pytest.mark.parametrize("what", ["pipe", "link", "folder", "large", "deep"])
def test_removing_waits_for_nothing_and_removes_nothing_that_took_the_place_of_the_file(keys, tmp_path, what):
    keys.path.rename(tmp_path / "moved")
    put = {
        "pipe": lambda: os.mkfifo(keys.path),
        "link": lambda: keys.path.symlink_to(tmp_path / "moved"),
        "folder": keys.path.mkdir,
        "large": lambda: keys.path.write_bytes(b" " * 1_000_000 + (tmp_path / "moved").read_bytes()),
        "deep": lambda: keys.path.write_text("[" * 60_000),
    }
    put[what]()
    keys.remove()
    assert os.path.lexists(keys.path)
