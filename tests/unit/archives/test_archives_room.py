"""The room: an archive is refused before the disk is full, and a promise counts until it is written or given back."""

import os

import pytest

from torchserve_guard.archives.room import LEFT, OFTEN, Room
from torchserve_guard.errors import GuardError

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A folder on a disk that has as many bytes left as `left` says."""
    folder = os.open(tmp_path, os.O_RDONLY)
    told = {"left": 0}
    monkeypatch.setattr(
        os, "fstatvfs", lambda _: os.statvfs_result((512, 512, 0, 0, told["left"] // 512, 0, 0, 0, 0, 255))
    )
    yield folder, told
    os.close(folder)


def test_what_is_needed_is_told_with_the_archive_the_folder_and_the_remedy(disk):
    folder, told = disk
    told["left"] = LEFT + 99 * MIB
    room = Room("/state/store")
    with pytest.raises(GuardError) as refused, room.claim("models/m.mar", folder, 100 * MIB):
        pytest.fail("there is no room")
    assert str(refused.value) == (
        f"models/m.mar: the disk of /state/store has {LEFT + 99 * MIB} bytes left, and {LEFT + 100 * MIB} are needed: "
        f"{100 * MIB} for this archive, and {LEFT} that stay free; make room, or name a folder on another disk with "
        "`guard.state_dir`"
    )
    told["left"] += MIB
    with room.claim("m.mar", folder, 100 * MIB):
        pass


def test_what_another_was_promised_and_has_not_written_is_not_there(disk):
    folder, told = disk
    told["left"] = LEFT + 150 * MIB
    room = Room("/state/store", "TMPDIR")
    with room.claim("a.mar", folder, 100 * MIB) as first:
        with pytest.raises(GuardError, match=rf"{100 * MIB} for what is written there .*TMPDIR"):
            room.claim("b.mar", folder, 100 * MIB).__enter__()
        # What is written is no promise any more: the disk itself has less.
        first.spend(60 * MIB)
        told["left"] -= 60 * MIB
        with room.claim("b.mar", folder, 50 * MIB), pytest.raises(GuardError):
            room.claim("c.mar", folder, 1).__enter__()
    with room.claim("b.mar", folder, 90 * MIB):
        pass
    assert room.promised == 0


def test_what_is_promised_already_is_not_asked_for_twice(disk):
    folder, told = disk
    told["left"] = LEFT + 100 * MIB
    with Room("/state/store").claim("a.mar", folder, 100 * MIB) as claim:
        claim.ask(100 * MIB)
        claim.spend(90 * MIB)
        told["left"] -= 90 * MIB
        claim.ask(10 * MIB)
        with pytest.raises(GuardError):
            claim.ask(10 * MIB + 1)


def test_what_others_take_meanwhile_is_noticed_before_the_disk_is_full(disk):
    folder, told = disk
    told["left"] = LEFT + 100 * MIB
    with Room("/state/store").claim("a.mar", folder, 100 * MIB) as claim:
        claim.spend(OFTEN)
        told["left"] = LEFT // 2 + MIB
        with pytest.raises(GuardError, match=f"has {LEFT // 2 + MIB} bytes left"):
            claim.spend(OFTEN)


def test_a_store_that_is_there_to_look_leaves_nothing_free(disk):
    folder, told = disk
    told["left"] = 100 * MIB
    room = Room("/tmp/look", "TMPDIR", 0)
    with room.claim("a.mar", folder, 100 * MIB) as claim:
        claim.spend(100 * MIB)
    with pytest.raises(GuardError, match=r"for this archive; make room, .* with TMPDIR"):
        room.claim("b.mar", folder, 101 * MIB).__enter__()
