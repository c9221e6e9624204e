"""The access log of a real guard: what was asked of which archive."""

import json
import stat
import time

import pytest

pytestmark = pytest.mark.e2e

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_prediction_is_told_with_the_archive_that_answered_it(guarded):
    headers = {"X-Request-Id": "told-once", "traceparent": PARENT}
    answer = guarded.ask("POST", "/predictions/noop/2.0?key=SECRET", "hello", headers=headers)
    assert (answer.status, answer.headers["x-request-id"]) == (200, "told-once")
    path = guarded.state / "access.log"
    deadline = time.monotonic() + 20
    while b"told-once" not in path.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    (told,) = (line for line in lines if line["request_id"] == "told-once")
    (served,) = (model for model in guarded.status()["models"] if model["version"] == "2.0")
    assert (told["model"], told["version"], told["digest"]) == ("noop", "2.0", served["digest"])
    assert (told["status"], told["bytes_in"], told["bytes_out"]) == (200, 5, len(answer.body))
    assert told["trace_id"] == PARENT.split("-")[1]
    assert "SECRET" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert guarded.status()["door"]["access_lines_lost"] == 0
