"""What is remembered of credentials: it makes nothing right that is not, and nothing right for longer."""

import pytest

from torchserve_guard.access import ANONYMOUS
from torchserve_guard.identity import KeyFile, KeyKind, KeyRing
from torchserve_guard.identity.ring import MOST_KNOWN


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path, clock) -> KeyFile:
    return KeyFile(tmp_path / "key_file.json", 60, clock)


def shown(keys: KeyFile, kind: KeyKind = KeyKind.INFERENCE) -> bytes:
    return b"Bearer " + keys._keys[kind].secret


@pytest.fixture(params=["file", "ring"])
def who(request, keys, clock):
    return keys if request.param == "file" else KeyRing(keys.hashed(), clock)


def test_a_key_that_was_right_expires_all_the_same(who, keys, clock):
    credential = shown(keys)
    assert [who.identify(credential).name for _ in range(2)] == ["inference-key"] * 2
    clock.now = 60.0
    assert who.identify(credential) == ANONYMOUS


def test_what_is_nearly_right_is_not(who, keys):
    credential = shown(keys)
    who.identify(credential)
    for other in (credential[:-1], credential + b"x", credential.swapcase(), b"Basic" + credential[6:], None, b""):
        assert who.identify(other) == ANONYMOUS


def test_a_key_that_was_replaced_is_good_for_nothing_at_once(keys, clock):
    ring, old = KeyRing(keys.hashed(), clock), shown(keys)
    assert keys.identify(old) == ring.identify(old) != ANONYMOUS
    keys.rotate(KeyKind.INFERENCE)
    ring.keys = keys.hashed()
    assert keys.identify(old) == ring.identify(old) == ANONYMOUS
    assert keys.identify(shown(keys)) == ring.identify(shown(keys)) != ANONYMOUS


def test_a_key_that_is_replaced_while_it_is_looked_at_is_not_remembered(tmp_path, clock):
    rotated = []

    def now() -> float:
        if old and not rotated:
            rotated.append(True)
            keys.rotate(KeyKind.INFERENCE)
        return clock()

    old = b""
    keys = KeyFile(tmp_path / "key_file.json", 60, now)
    old = shown(keys)
    keys.identify(old)
    assert rotated
    assert keys.identify(old) is ANONYMOUS


def test_what_is_remembered_is_bounded(who, keys):
    for blanks in range(200):
        assert who.identify(b"Bearer " + b" " * blanks + shown(keys)[7:]) != ANONYMOUS
    assert len(who._known) == MOST_KNOWN
