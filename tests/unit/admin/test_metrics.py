"""The numbers for Prometheus, and the questions that the control socket knows."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from datetime import UTC, datetime

import pytest

from torchserve_guard.admin import ControlSocket, metrics
from torchserve_guard.admin.status import ManifestStatus, State, Status

LINE = re.compile(r'# (HELP|TYPE) \S+ .+|[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? \S+')


def status(**more) -> Status:
    fields = {
        "state": State.SERVING,
        "version": "0",
        "pid": 1,
        "frontend_pid": 2,
        "config": "c",
        "mode": "none",
        "uptime": 1.0,
        "listeners": {},
        "models": (),
        "door": {},
        "grpc": {},
    }
    return Status(**{**fields, **more})


def test_a_model_is_open_or_it_is_not():
    models = (
        {"model": "a", "version": "1.0", "door": "open"},
        {"model": "b", "version": "2.0", "door": "closed", "why": "x"},
    )
    told = metrics.render(status(models=models, verification={"rounds": 3, "drifts": 1, "last": 1_700_000_000.25}))
    assert 'tsguard_model_open{model="a",version="1.0"} 1\n' in told
    assert 'tsguard_model_open{model="b",version="2.0"} 0\n' in told
    assert "tsguard_verification_rounds_total 3\n" in told
    assert "tsguard_verification_last_timestamp_seconds 1700000000.25\n" in told
    assert "tsguard_serving 1\n" in told


def test_processes_at_the_door_are_counted_where_there_are_any():
    processes = ({"state": "serving", "restarts": 2}, {"state": "ended", "restarts": 1})
    told = metrics.render(status(processes=processes))
    assert "tsguard_processes 1\n" in told
    assert "tsguard_process_restarts_total 3\n" in told
    assert "process" not in metrics.render(status())


def test_the_manifest_is_told_and_when_it_expires():
    counts = ManifestStatus(
        "/models/m.json", 7, "0" * 64, datetime(2030, 1, 31, 12, tzinfo=UTC), ("CN=Alice (release)",)
    )
    told = metrics.render(status(manifest=counts))
    assert "tsguard_manifest_version 7\n" in told
    assert "tsguard_manifest_expires_timestamp_seconds 1896091200\n" in told
    shown = json.loads(json.dumps(status(manifest=counts).document()))["manifest"]
    assert shown == {
        "path": "/models/m.json",
        "version": 7,
        "sha256": "0" * 64,
        "expires": "2030-01-31T12:00:00+00:00",
        "signers": ["CN=Alice (release)"],
    }
    never = dataclasses.replace(counts, expires=None)
    assert "expires" not in metrics.render(status(manifest=never))
    assert "manifest" not in metrics.render(status())
    assert status(manifest=never).document()["manifest"]["expires"] is None
    assert status().document()["manifest"] is None


def test_what_is_not_known_is_not_told():
    assert "rounds" not in metrics.render(status(state=State.STARTING))
    assert "tsguard_serving 0\n" in metrics.render(status(state=State.STARTING))


@pytest.mark.parametrize("name", ['a"} 1\nforged 1', "back\\slash", "\\n", '"'])
def test_a_name_cannot_forge_a_line(name):
    told = metrics.render(status(models=({"model": name, "version": "1.0"},)))
    assert [line for line in told.splitlines() if LINE.fullmatch(line) is None] == []
    assert "\nforged" not in told


async def ask(path, line: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


async def test_a_look_takes_the_time_that_it_takes_and_others_are_answered_meanwhile(tmp_path):
    looked = asyncio.Event()

    async def verify() -> object:
        await looked.wait()
        return {"clean": True}

    path = tmp_path / "c.sock"
    async with ControlSocket(path, status, lambda: None, verify):
        waiting = asyncio.create_task(ask(path, "POST /verify"))
        code, body = await ask(path, "GET /metrics")
        assert (code, body) == (200, metrics.render(status()).encode())
        assert not waiting.done()
        looked.set()
        code, body = await waiting
        assert (code, json.loads(body)) == (200, {"clean": True})


async def test_before_the_door_is_open_there_is_nothing_to_look_at(tmp_path):
    async def nothing() -> None:
        return None

    path = tmp_path / "c.sock"
    async with ControlSocket(path, status, lambda: None, nothing):
        assert (await ask(path, "POST /verify"))[0] == 503
        assert (await ask(path, "GET /verify"))[0] == 404
