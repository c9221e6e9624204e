"""What a registration leaves to be watched: what is served, what it looked like, and what TorchServe was shown."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from corpus.archives import GOOD, Entry, archive, manifest

from torchserve_guard import archives
from torchserve_guard.archives.roster import Roster
from torchserve_guard.policy import Closure, Closures
from torchserve_guard.registration import Registration
from torchserve_guard.settings import Flags, Surroundings, load
from torchserve_guard.wire import Listener, classify

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OK, GONE = 200, None


@pytest.fixture
def world(tmp_path):
    """A guard in mode explicit with two listed versions of one model, and a TorchServe that links as the real one."""
    models = tmp_path / "models"
    models.mkdir()
    for version in ("1.0", "2.0"):
        member = Entry("MAR-INF/MANIFEST.json", manifest(modelVersion=version))
        others = [entry for entry in GOOD if entry.name != member.name]
        (models / f"v{version[0]}.mar").write_bytes(archive(member, *others))
    made = archives.create_manifest(models, None, version=1, created=NOW)
    (models / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))
    config = tmp_path / "config.properties"
    config.write_text("model_store=models\nmodel-control-mode=explicit\n")
    config.chmod(0o644)
    settings = load(config, Flags(), Surroundings({}, tmp_path, tmp_path))
    exposed, links = tmp_path / "exposed", tmp_path / "tmp" / "models"
    exposed.mkdir(mode=0o700)
    closures = Closures()
    roster = Roster(tmp_path / "roster.json")
    store = archives.Store(tmp_path / "store")
    registration = Registration(settings, store, exposed, links, lambda: NOW, closures=closures, roster=roster)

    async def register(name: str, *, status: int | None = OK) -> None:
        operation = classify(Listener.MANAGEMENT, "POST", f"/models?url={name}".encode())
        await registration.prepare(operation)
        folder = links / name.replace(".", "")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(exposed / name)
        await registration.settled(operation, status)

    async def unregister(target: str, name: str) -> None:
        operation = classify(Listener.MANAGEMENT, "DELETE", target.encode())
        (links / name.replace(".", "") / name).unlink()
        await registration.settled(operation, OK)

    links.parent.mkdir(mode=0o700)
    return SimpleNamespace(
        registration=registration, closures=closures, register=register, unregister=unregister, place=tmp_path
    )


async def test_what_is_registered_is_watched_and_in_the_roster(world):
    await world.register("v1.mar")
    (watched,) = world.registration.watched()
    assert (watched.archive, watched.version, watched.writable) == ("v1.mar", "1.0", False)
    assert watched.print is not None
    assert await world.registration.strayed() == []
    document = json.loads((world.place / "roster.json").read_text())
    assert [one["name"] for one in document["subjects"]] == ["v1.mar"]
    assert {one["path"] for one in document["subjects"][0]["members"]} == {one.path for one in watched.members}
    assert (world.place / "roster.json").stat().st_mode & 0o777 == 0o400


async def test_a_registration_that_failed_opens_no_door(world):
    await world.register("v1.mar")
    (watched,) = world.registration.watched()
    world.closures.close(watched.model, "1.0", Closure("x", lasting=True))
    await world.register("v1.mar", status=GONE)
    assert world.closures.of(watched.model, "1.0") is not None
    await world.register("v1.mar")
    assert not world.closures.models


async def test_registering_again_does_not_hide_what_was_touched_unless_its_door_was_closed(world):
    await world.register("v1.mar")
    (before,) = world.registration.watched()
    handler = before.tree / "handler.py"
    while handler.stat().st_ctime_ns <= before.tree.stat().st_ctime_ns:
        handler.chmod(0o400)
    await world.register("v1.mar")
    assert world.registration.watched() == (before,)
    world.closures.close(before.model, "1.0", Closure("x", lasting=True))
    await world.register("v1.mar")
    (after,) = world.registration.watched()
    assert after.tree == before.tree
    assert after.print != before.print
    assert not await world.registration.stands(before)
    assert await world.registration.stands(after)


async def test_without_a_version_that_is_forgotten_which_torchserve_has_no_link_to(world):
    await world.register("v1.mar")
    await world.register("v2.mar")
    name = world.registration.watched()[0].model
    for version in ("1.0", "2.0"):
        world.closures.close(name, version, Closure("x", lasting=True))
    await world.unregister(f"/models/{name}", "v1.mar")
    assert [one.version for one in world.registration.watched()] == ["2.0"]
    assert list(world.closures.models[name]) == ["2.0"]


async def test_a_closed_door_is_told_with_its_reason(world):
    await world.register("v1.mar")
    (one,) = world.registration.listed()
    assert one["door"] == "open"
    world.closures.close(one["model"], "1.0", Closure("`handler.py` is missing", lasting=True))
    (one,) = world.registration.listed()
    assert (one["door"], one["why"]) == ("closed", "`handler.py` is missing")


async def test_what_is_served_is_watched_though_its_link_cannot_be_pinned(world, monkeypatch):
    """A model of the same user can shut the folder that the link lies in."""

    def shut():
        raise PermissionError("the folder is shut")

    await world.register("v1.mar")
    operation = classify(Listener.MANAGEMENT, "POST", b"/models?url=v2.mar")
    prepared = await world.registration.prepare(operation)
    monkeypatch.setattr(world.registration, "pin", shut)
    with pytest.raises(PermissionError):
        await world.registration.settled(prepared, OK)
    assert sorted(one.version for one in world.registration.watched()) == ["1.0", "2.0"]


@pytest.mark.parametrize("step", ["_admitted", "_show"])
async def test_who_is_gone_keeps_the_next_waiting_until_its_work_has_ended(world, monkeypatch, step):
    """Else two would change at once what a name shows."""
    begun, told, order = threading.Event(), [], []
    real = getattr(world.registration, step)

    def slowly(*arguments):
        *_, stop = arguments
        if not begun.is_set():
            begun.set()
            told.append(stop.wait(30))
            order.append("gone")
        else:
            order.append("next")
        return real(*arguments[:-1], threading.Event())

    monkeypatch.setattr(world.registration, step, slowly)
    first = asyncio.create_task(world.register("v1.mar"))
    await asyncio.to_thread(begun.wait, 30)
    second = asyncio.create_task(world.register("v2.mar"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert told == [True]
    assert order == ["gone", "next"]
    assert [one.version for one in world.registration.watched()] == ["2.0"]


async def test_a_model_of_which_torchserve_did_not_say_is_watched_and_one_that_it_refused_is_not(world):
    await world.register("v1.mar", status=GONE)
    await world.register("v2.mar", status=500)
    assert [one.version for one in world.registration.watched()] == ["1.0"]
