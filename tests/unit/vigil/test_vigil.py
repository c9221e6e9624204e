"""What is served, held against what was verified: every kind of change closes the door, and no other door."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from torchserve_guard.access import Action, Operation, Resource
from torchserve_guard.archives import inspector
from torchserve_guard.audit.entry import render
from torchserve_guard.errors import Unavailable
from torchserve_guard.policy import Closure
from torchserve_guard.vigil import Sight, Strayed, child
from torchserve_guard.vigil import vigil as vigil_module

EMPTY = hashlib.sha256().hexdigest()


def writable(path: Path) -> Path:
    """Open a sealed path, and the folder it lies in, for a change; as its owner, or root, can."""
    path.parent.chmod(0o700)
    if path.exists() and not path.is_symlink():
        path.chmod(0o700 if path.is_dir() else 0o600)
    return path


def seal(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        for name in files:
            if not Path(folder, name).is_symlink():
                Path(folder, name).chmod(0o400)
        os.chmod(folder, 0o500)


def overwrite(tree: Path) -> None:
    """The same size, and the time of the last modification put back."""
    path = writable(tree / "handler.py")
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-2] + b"x\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    seal(tree)


def grow(tree: Path) -> None:
    with writable(tree / "data/weights.bin").open("ab") as file:
        file.write(b"more")
    seal(tree)


def add(tree: Path) -> None:
    writable(tree / "yaml.py").write_text("evil\n")
    seal(tree)


def plant(tree: Path, name: bytes) -> None:
    writable(tree / os.fsdecode(name)).touch()
    seal(tree)


def remove(tree: Path) -> None:
    writable(tree / "handler.py").unlink()
    seal(tree)


def link_out(tree: Path) -> None:
    path = writable(tree / "handler.py")
    path.rename(tree.parent / "elsewhere.py")
    path.symlink_to(tree.parent / "elsewhere.py")
    seal(tree)


def link_loop(tree: Path) -> None:
    path = writable(tree / "handler.py")
    path.unlink()
    path.symlink_to("handler.py")
    seal(tree)


def pipe(tree: Path) -> None:
    path = writable(tree / "data/weights.bin")
    path.unlink()
    os.mkfifo(path, 0o400)
    seal(tree)


def hard_link(tree: Path) -> None:
    os.link(tree / "handler.py", tree.parent / "second-name.py")


def open_to_others(tree: Path) -> None:
    (tree / "data").chmod(0o777)


def folder_for_file(tree: Path) -> None:
    path = writable(tree / "handler.py")
    path.unlink()
    path.mkdir()
    seal(tree)


def swap_folder(tree: Path) -> None:
    """Another folder with the same files, of which one is other."""
    shutil.copytree(tree, tree.parent / "evil", copy_function=shutil.copy)
    overwrite(tree.parent / "evil")
    tree.rename(tree.parent / "good")
    (tree.parent / "evil").rename(tree)


def link_for_tree(tree: Path) -> None:
    tree.rename(tree.parent / "good")
    tree.symlink_to("good")


def swap_and_swap_back(tree: Path) -> None:
    path = writable(tree / "handler.py")
    path.rename(tree.parent / "good.py")
    path.write_text("evil\n")
    path.unlink()
    (tree.parent / "good.py").rename(path)
    seal(tree)


def swap_folder_and_back(tree: Path) -> None:
    tree.rename(tree.parent / "good")
    (tree.parent / "good").rename(tree)


def overwrite_and_back(tree: Path) -> None:
    path = writable(tree / "handler.py")
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(b"evil")
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    seal(tree)


def flood(tree: Path) -> None:
    """Far more than was staged: nobody reads all of it."""
    tree.chmod(0o700)
    for number in range(3000):
        (tree / f"{number}.py").touch()
    seal(tree)


def replace_what_is_around(tree: Path) -> None:
    """The folder above, by an equal one."""
    home = tree.parent
    shutil.copytree(home, home.with_name("equal"), copy_function=shutil.copy2)
    home.rename(home.with_name("good"))
    home.with_name("equal").rename(home)


def link_what_is_around(tree: Path) -> None:
    """The folder above, by a link to another with the same names in it."""
    home = tree.parent
    shutil.copytree(home, home.with_name("evil"), copy_function=shutil.copy2)
    overwrite(home.with_name("evil") / "tree")
    home.rename(home.with_name("good"))
    home.symlink_to("evil")


def remove_all(tree: Path) -> None:
    tree.rename(tree.parent / "gone")


ATTACKS = {
    overwrite: "`handler.py` has other contents",
    grow: "`data/weights.bin` has 3004 bytes, not 3000",
    add: "`yaml.py` was added",
    remove: "`handler.py` is missing",
    link_out: "`handler.py` has another kind or mode (lrwxrwxrwx)",
    link_loop: "`handler.py` has another kind or mode (lrwxrwxrwx)",
    pipe: "`data/weights.bin` has another kind or mode (pr--------)",
    hard_link: "`handler.py` has another name elsewhere",
    open_to_others: "`data/` has another kind or mode (drwxrwxrwx)",
    folder_for_file: "`handler.py/` was added",
    swap_folder: "`handler.py` has other contents",
    link_for_tree: "`/` cannot be read",
    swap_and_swap_back: "changed back",
    swap_folder_and_back: "changed back",
    overwrite_and_back: "changed back",
    flood: "was added",
    replace_what_is_around: "replaced by an equal one",
    link_what_is_around: "`handler.py` has other contents",
    remove_all: "`/` cannot be read",
}


async def test_what_is_as_it_was_verified_stays_open(world, served):
    found = world(served())
    round_ = await found.vigil.verify()
    assert round_.clean
    assert [(one.sight, one.size) for one in round_.sighted] == [(Sight.VERIFIED, 3029)]
    assert not found.closures.models
    assert found.recorded == found.said == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_a_change_closes_the_door_of_every_model_of_the_tree_on_record_and_for_good(
    attack, world, tree, served, tmp_path
):
    found = world(served("a"), served("b"), replace(served("c"), tree=_copy(tree, tmp_path), print=None))
    attack(tree)
    round_ = await found.vigil.verify()
    told = {one.watched.model: one for one in round_.sighted}
    assert [told[name].sight for name in "abc"] == [Sight.DRIFTED, Sight.DRIFTED, Sight.VERIFIED]
    assert any(ATTACKS[attack] in what for what in told["a"].found), told["a"].found
    assert list(found.closures.models) == ["a", "b"]
    assert [(entry.event, entry.fields["model"]) for entry in found.recorded] == [("drift", "a"), ("drift", "b")]
    again = await found.vigil.verify()
    assert not again.clean
    assert len(found.recorded) == 2, "what is closed is told once"


def _copy(tree: Path, tmp_path: Path) -> Path:
    shutil.copytree(tree, tmp_path / "other", copy_function=shutil.copy)
    seal(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize(
    "attack", [overwrite, grow, remove, link_out, link_loop, pipe, folder_for_file, open_to_others]
)
async def test_in_a_private_copy_the_members_stand(attack, world, tree, served):
    found = world(served(writable=True))
    attack(tree)
    assert (await found.vigil.verify()).sighted[0].sight is (
        Sight.VERIFIED if attack is open_to_others else Sight.DRIFTED
    )


async def test_in_a_private_copy_more_may_lie(world, tree, served):
    found = world(served(writable=True))
    add(tree)
    flood(tree)
    assert (await found.vigil.verify()).clean


async def test_a_member_of_a_private_copy_that_others_may_write_is_drift(world, tree, served):
    found = world(served(writable=True))
    (tree / "handler.py").chmod(0o666)
    assert "may be written by others" in (await found.vigil.verify()).sighted[0].found[0]


async def test_a_link_in_the_place_of_a_member_of_a_private_copy_is_told_as_one_and_once(world, tree, served):
    found = world(served(writable=True))
    link_out(tree)
    assert (await found.vigil.verify()).sighted[0].found == ("`handler.py` is a symbolic link",)


async def test_what_cannot_be_recorded_is_closed_all_the_same(world, tree, served):
    found = world(served())
    found.broken = True
    overwrite(tree)
    await found.vigil.verify()
    assert found.closures.of("m", "1.0").lasting
    assert "not on record" in found.said[0]


async def test_when_nobody_can_look_the_door_is_closed_until_somebody_can(world, served, monkeypatch):
    monkeypatch.setattr(vigil_module, "TRY_AGAIN_AFTER", (0.0,))
    found = world(served())
    with monkeypatch.context() as broken:
        broken.setattr(child.sys, "executable", "/nonexistent/python")
        round_ = await found.vigil.verify()
    assert (round_.sighted[0].sight, round_.sighted[0].closed) == (Sight.UNVERIFIED, True)
    assert not found.closures.of("m", "1.0").lasting
    assert (await found.vigil.verify()).clean
    assert [entry.event for entry in found.recorded] == ["unverified", "verified-again"]
    assert found.vigil.counts.blind == 1


async def test_a_look_that_dies_is_sent_again_and_closes_nothing(world, served, monkeypatch, tmp_path):
    monkeypatch.setattr(vigil_module, "TRY_AGAIN_AFTER", (0.0,))
    flaky = tmp_path / "python"
    real = child.sys.executable
    flaky.write_text(f'#!/bin/sh\n[ -e {tmp_path}/died ] && exec {real} "$@"\n: > {tmp_path}/died\nexit 1\n')
    flaky.chmod(0o700)
    monkeypatch.setattr(child.sys, "executable", str(flaky))
    found = world(served())
    assert (await found.vigil.verify()).clean
    assert (tmp_path / "died").exists()


async def test_a_tree_that_was_registered_anew_meanwhile_is_looked_at_once_more(world, tree, served):
    """Staging replaces a tree; what was seen in between is no drift."""
    found = world(replace(served(), print="of the tree before"))
    now = served()

    async def no_longer(_watched) -> bool:
        found.watched = (now,)
        return False

    found.vigil._scene = replace(found.vigil._scene, stands=no_longer)
    assert (await found.vigil.verify()).clean
    assert found.recorded == []


@pytest.mark.parametrize(
    ("strayed", "closed"),
    [
        (Strayed("a.mar", None, "x"), ["a"]),
        (Strayed("z.mar", None, "x"), []),
        (Strayed("", None, "x"), ["a", "b"]),
    ],
)
async def test_a_link_that_strayed_closes_whom_it_concerns(world, served, strayed, closed):
    found = world(served("a"), served("b"))
    found.strayed = [strayed]
    round_ = await found.vigil.verify()
    assert list(found.closures.models) == closed
    assert not round_.clean
    await found.vigil.verify()
    assert len(found.recorded) == (len(closed) or 1)


async def test_a_round_that_is_cancelled_leaves_no_process(world, served, monkeypatch):
    made, begun = [], asyncio.Event()
    real = asyncio.create_subprocess_exec

    async def made_known(*arguments, **more):
        made.append(await real("/bin/sleep", "600", **more))
        begun.set()
        return made[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", made_known)
    task = asyncio.create_task(world(served()).vigil.verify())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made[0].returncode is not None


async def test_an_inspector_ends_with_its_parent(served, monkeypatch):
    monkeypatch.setattr(child.os, "getpid", lambda: 1)
    with pytest.raises(child.Blind, match="ended after 0 of 1 trees"):
        await child.inspect([served()], 1.0)


def test_a_round_that_nobody_waits_for_leaves_nine_tenths_of_a_processor():
    pace = inspector.pace_of(0.1, os.getppid())
    began = time.process_time()
    while (spent := time.process_time() - began) < 0.03:
        pass
    paused = time.monotonic()
    pace()
    assert time.monotonic() - paused >= spent * 9 * 0.9


def ask(name: str | None, version: str | None = None, action: Action = Action.INFER, kind: str = "model") -> Operation:
    return Operation(action, Resource(kind, name, version), "predictions")


async def test_only_what_would_run_a_closed_model_is_refused(world, tree, served):
    found = world(served())
    overwrite(tree)
    await found.vigil.verify()
    for operation in (
        ask("m"),
        ask("m", "1.0"),
        ask(None),
        ask("m", action=Action.EXPLAIN),
        ask("m", "1.0", Action.SCALE_MODEL),
    ):
        with pytest.raises(Unavailable) as caught:
            found.closures.verify(operation)
        assert caught.value.status == 503
        assert "handler.py" not in caught.value.message
    for operation in (
        ask("other"),
        ask("m", "2.0"),
        ask("m", action=Action.DESCRIBE_MODEL),
        ask("m", action=Action.UNREGISTER_MODEL),
        ask("m", action=Action.SET_DEFAULT),
        ask(None, action=Action.PING, kind="server"),
    ):
        found.closures.verify(operation)
    found.closures.open("m", "1.0")
    found.closures.verify(ask("m"))
    assert not found.closures.models


@pytest.mark.parametrize("name", [b"\xff\xfe", b"line\nend \x1b[2J", "\u202egnp.exe".encode()])
async def test_a_planted_name_of_any_bytes_closes_the_door_and_is_told_as_one_line(world, tree, served, name):
    found = world(served())
    plant(tree, name)
    await found.vigil.verify()
    assert list(found.closures.models) == ["m"]
    assert all(line.isprintable() for line in found.said)
    for entry in found.recorded:
        assert render(entry, 1).isascii()


async def test_two_rounds_at_once_record_one_drift_once(world, tree, served):
    found = world(served())
    overwrite(tree)
    await asyncio.gather(found.vigil.verify(), found.vigil._round(1.0))
    assert [entry.event for entry in found.recorded] == ["drift"]
    assert found.vigil.counts.drifts == 1


async def test_a_door_that_one_round_closes_no_other_opens(world, served, monkeypatch):
    """The one saw the tree before it was changed, and is still putting that on record."""
    found = world(served())
    found.closures.close("m", "1.0", Closure("nobody could look", lasting=False))
    recording, go_on = asyncio.Event(), asyncio.Event()
    real = found.record

    async def slowly(entry):
        if entry.event == "verified-again":
            recording.set()
            await go_on.wait()
        await real(entry)

    monkeypatch.setattr(found.vigil, "_log", SimpleNamespace(record=slowly))
    (watched,) = found.watched
    opening = asyncio.create_task(found.vigil._round(1.0))
    await recording.wait()
    overwrite(watched.tree)
    closing = asyncio.create_task(found.vigil._round(1.0))
    await asyncio.wait({closing}, timeout=0.5)
    go_on.set()
    await asyncio.gather(opening, closing)
    standing = found.closures.of("m", "1.0")
    assert standing is not None
    assert standing.lasting


async def test_a_process_that_does_not_die_keeps_nobody_from_stopping(world, served, monkeypatch):
    """One that hangs in the disk is not gone when it was killed."""

    class Stuck:
        def __init__(self):
            self.killed = False

        async def communicate(self, _asked):
            raise OSError("the disk does not answer")

        def kill(self):
            self.killed = True

        async def wait(self):
            await asyncio.Event().wait()

    made = Stuck()

    async def start(*_, **__):
        return made

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(child, "DEATH", 0.05)
    async with asyncio.timeout(20):
        with pytest.raises(OSError, match="does not answer"):
            await child.inspect([served()], 1.0)
    assert made.killed


def test_a_tree_of_empty_files_is_looked_at_with_pauses_too(tmp_path):
    for number in range(50):
        (tmp_path / f"{number}").touch(0o400)
    paused = []
    tree = inspector.Tree(str(tmp_path), {f"{n}": inspector.Promised(0, EMPTY) for n in range(50)}, None, ours=False)
    inspector.Inspection(tree, lambda: paused.append(1)).look()
    assert len(paused) == 50
