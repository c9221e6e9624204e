"""A handler that writes beside itself: in a copy of its own where it is named, and never in what others are shown."""

import json
import os

import pytest
import servers

pytestmark = pytest.mark.e2e


def lines(server, model="writing") -> str:
    return server.ask("POST", f"/predictions/{model}", b"x").body.decode()


def files(server) -> dict[str, str]:
    return {one["model"]: one["files"] for one in server.status()["models"]}


def trees(server, room: str) -> list:
    return list((server.state / "store" / room).iterdir())


def test_a_model_writes_to_its_own_copy_which_is_fresh_at_each_start_and_registration(guard, own_store):
    settings = {"load_models": "writing.mar,noop.mar", "model-control-mode": "explicit"}
    server = guard(own_store("writing.mar", "noop.mar"), {**settings, "guard.private_copies": "writing.mar"})
    for _ in range(2):
        with servers.serving(server):
            assert [lines(server) for _ in range(3)] == ["1", "2", "3"]
            assert files(server)["noop"] == "read-only"
            how = files(server)["writing"]
            assert how in {"private-copy", "private-copy-reflink"}
            assert how in server.run("status", "--config", str(server.config)).stdout
            assert not list((server.state / "store" / "subjects").rglob("lines.txt"))
            key = json.loads((server.folder / "key_file.json").read_text())["management"]["key"]
            target = "/models?url=writing.mar&model_name=second&initial_workers=1&synchronous=true"
            registered = server.manage("POST", target, headers={"Authorization": f"Bearer {key}"})
            assert registered.status == 200, registered.body
            assert lines(server, "second") == "1"
            assert lines(server) == "4"
            assert len(trees(server, "copies")) == 2
        assert trees(server, "copies") == []
        assert trees(server, "aside") == [], "no staged tree was changed"
    (serving, *_) = [entry for entry in server.audit() if entry["event"] == "serving"]
    assert serving["private_copies"] == ["writing.mar"]


def test_without_a_copy_it_cannot_write_or_the_next_start_undoes_it(guard, own_store):
    server = guard(own_store("writing.mar"), {"load_models": "writing.mar"})
    for _ in range(2):
        with servers.serving(server):
            # Root writes where it likes; it begins anew all the same, since the changed tree is set aside.
            assert lines(server) == ("1" if os.geteuid() == 0 else "PermissionError")
            assert files(server) == {"writing": "read-only"}
    assert len(trees(server, "aside")) == (1 if os.geteuid() == 0 else 0)
