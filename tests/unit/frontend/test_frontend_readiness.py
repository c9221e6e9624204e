"""Readiness: what TorchServe says, held against what was expected."""

from __future__ import annotations

import asyncio
import json

import pytest

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend.output import Output
from torchserve_guard.frontend.readiness import Inquirer, Readiness
from torchserve_guard.frontend.states import ExpectedModel, parse_states
from torchserve_guard.unix_http import Response


def described(
    *workers: tuple[str, int], version: str = "1.0", minimum: int = 1, name: str = "noop"
) -> dict[str, object]:
    rows = [{"id": str(9000 + n), "status": status, "pid": pid} for n, (status, pid) in enumerate(workers)]
    return {"modelName": name, "modelVersion": version, "minWorkers": minimum, "workers": rows}


def answer(*entries: dict[str, object], status: int = 200) -> Response:
    return Response(status, json.dumps(list(entries)).encode())


@pytest.fixture
def readiness() -> Readiness:
    return Readiness((ExpectedModel("noop", "1.0"),), Output(lambda: None))


def test_a_model_is_waited_for_until_all_its_workers_are_ready(readiness):
    for entry in (
        described(("UNLOADING", -1), minimum=2),
        described(("READY", 5), minimum=2),
        described(("READY", 5), ("UNLOADING", 6), minimum=2),
    ):
        readiness.observe("noop", answer(entry))
        assert readiness.waiting == ("noop",)
    readiness.observe("noop", answer(described(("READY", 5), ("READY", 6), minimum=2)))
    assert readiness.waiting == ()


def test_a_model_that_is_to_have_no_workers_is_ready_without(readiness):
    readiness.observe("noop", answer(described(minimum=0)))
    assert readiness.waiting == ()


def test_a_model_that_nobody_has_described_is_waited_for(readiness):
    assert readiness.waiting == ("noop",)


def test_a_worker_that_came_up_once_again_is_borne_and_twice_is_not(readiness):
    for pid in (-1, 10, 10, 11):
        readiness.observe("noop", answer(described(("UNLOADING", pid))))
    with pytest.raises(FrontendError, match="its worker died 2 times"):
        readiness.observe("noop", answer(described(("UNLOADING", 12))))


def test_a_worker_that_is_ready_at_last_is_forgiven(readiness):
    for pid in (10, 11):
        readiness.observe("noop", answer(described(("UNLOADING", pid))))
    readiness.observe("noop", answer(described(("READY", 12))))
    assert readiness.waiting == ()


def test_two_deaths_in_the_log_end_the_wait_and_those_of_others_do_not(readiness):
    readiness.output.deaths.update({"W-9000-other_1.0": 5, "W-9001-noop_1.0": 1})
    readiness.verify_output()
    readiness.output.deaths["W-9001-noop_1.0"] += 1
    with pytest.raises(FrontendError, match=r"`noop` 1\.0 does not load"):
        readiness.verify_output()


def test_a_model_that_is_not_there_ends_the_wait(readiness):
    with pytest.raises(FrontendError, match=r"`noop` 1\.0 is not there"):
        readiness.observe("noop", Response(404, b"{}"))


def test_a_version_that_is_missing_ends_the_wait(readiness):
    readiness.expected = (ExpectedModel("noop", "1.0"), ExpectedModel("noop", "2.0"))
    with pytest.raises(FrontendError, match=r"`noop` 2\.0 is not there"):
        readiness.observe("noop", answer(described(("READY", 5))))


def test_a_version_that_nobody_asked_for_ends_the_wait(readiness):
    with pytest.raises(FrontendError, match=r"version `9\.9`, which nobody asked for"):
        readiness.observe("noop", answer(described(("READY", 5)), described(("READY", 6), version="9.9")))


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"workers": 3}]', b'{"code": 500}', b"null", b"[{}]"])
def test_a_description_that_is_none_is_not_taken_for_ready(readiness, body):
    with pytest.raises(FrontendError):
        readiness.observe("noop", Response(200, body))
    assert readiness.waiting == ("noop",)


def test_descriptions_are_read_whole():
    (state,) = parse_states(answer(described(("READY", 7), minimum=1)).body)
    assert (state.name, state.version, state.minimum, state.workers[0].process) == ("noop", "1.0", 1, 7)


async def test_nobody_listening_is_no_answer_and_no_error(tmp_path):
    assert await asyncio.to_thread(Inquirer(tmp_path / "none.sock", "key").ask, "/models") is None


def test_a_key_is_not_shown(tmp_path):
    assert "s3cret" not in repr(Inquirer(tmp_path, "s3cret"))
