"""Raw requests against a real TorchServe in mode none: nothing changes, and what goes upstream is what the guard said.

Once with three ports, once with one for all three listeners.
`TSGUARD_FUZZ_REQUESTS=200000 TSGUARD_FUZZ_SEED=1 scripts/test tests/e2e/test_differential.py -s` is the long run.
"""

import asyncio
import contextlib
import os
import re
import time
from urllib.parse import unquote

import pytest
import servers
import tap
from fuzz import raw_requests
from fuzz.witness import QUIET, access_log, state, told

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(6 * 3600)]

REQUESTS = int(os.environ.get("TSGUARD_FUZZ_REQUESTS", "1500"))
SEED = int(os.environ.get("TSGUARD_FUZZ_SEED", "20261123"))
BATCH = 1000
AT_ONCE = 64

NAME, PLAIN = r"(?P<model>[^/?]+)", r"[^/?]+"
VERSION, REST = r"(?P<version>[^/?]+)", r"(?:/[^/?]+)*"
RUN, DESCRIBE = "GET|POST|PUT", "OPTIONS"
RUNS = (
    (f"/predictions/{NAME}(/{VERSION}{REST})?", "infer"),
    (f"/explanations/{NAME}(/{VERSION}{REST})?", "explain"),
    ("/invocations", "infer"),
    (f"/models/{NAME}/invoke", "infer"),
    (f"/v1/models/{NAME}:predict", "infer"),
    (f"/v1/models/{NAME}:explain", "explain"),
    (f"/v2/models/{NAME}(/versions/{VERSION})?/infer", "infer"),
    (f"/v2/models/{NAME}/explain", "explain"),
    (f"/{NAME}(/{VERSION})?/predict", "infer"),
    (f"/wfpredict/{PLAIN}", "infer"),
)
MEANINGS = {
    "inference": (
        ("GET|HEAD", "/ping", "ping"),
        ("GET", "/v2|/v2/health/(live|ready)", "server-metadata"),
        ("GET", f"/v2/models/{NAME}/versions/{VERSION}(/ready)?", "server-metadata"),
        *((RUN, path, action) for path, action in RUNS),
        *((DESCRIBE, path, "server-metadata") for path, _ in RUNS if "versions" not in path and "wf" not in path),
        (DESCRIBE, f"/v2/models/{NAME}/infer", "server-metadata"),
    ),
    "management": (
        ("GET", "/models", "list-models"),
        ("GET", f"/models/{NAME}(/(all|{VERSION}))?", "describe-model"),
        (DESCRIBE, f"/models/{NAME}(/{VERSION})?", "describe-model"),
        ("GET", f"/v1/models/{NAME}", "describe-model"),
        ("GET", "/workflows", "list-workflows"),
        ("GET", f"/workflows/{PLAIN}", "describe-workflow"),
    ),
    "metrics": (("GET|HEAD", "/metrics", "metrics"),),
}  # fmt: skip
EVERYWHERE = ((DESCRIBE, "/", "describe-api"), ("GET|OPTIONS", "/api-description", "describe-api"))
NOT_PASSED = {
    "proxy-authorization", "te", "trailer", "upgrade", "expect", "http2-settings", "keep-alive",
    "proxy-connection",
}  # fmt: skip


class OnePort(servers.Guarded):
    """A guard whose three listeners share the port of inference."""

    def properties(self):
        self.management = self.metrics = self.inference
        return super().properties()


@pytest.fixture(scope="module", params=[servers.Guarded, OnePort], ids=["three-ports", "one-port"])
def watched(request, listed):
    """A guard in mode none with a tap on each of TorchServe's sockets."""
    with servers.folder("tsg-d-") as folder, contextlib.ExitStack() as stack:
        settings = {
            **QUIET,
            "load_models": "noop.mar,noop_v2.mar,mirror.mar",
            "guard.runtime_dir": str(folder / "run"),
            "guard.access_log_size": str(1 << 40),
        }
        server = stack.enter_context(servers.serving(request.param(folder, listed, settings)))
        sockets = {name: next((folder / "run").rglob(f"{name}.sock")) for name in raw_requests.LISTENERS}
        yield server, {name: stack.enter_context(tap.Tap(path)) for name, path in sockets.items()}


async def send(port: int, data: bytes) -> bytes:
    """What comes back on a connection of its own, until it ends or is quiet."""
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            while part := await asyncio.wait_for(reader.read(65536), 1.0 if not answer else 0.05):
                answer += part
        finally:
            writer.transport.abort()
    return answer


async def storm(server: servers.Server, requests: list[tuple[str, bytes]]) -> list[bytes]:
    """Send each request to its listener, some at once; return what came back."""
    ports = {"inference": server.inference, "management": server.management, "metrics": server.metrics}
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(listener: str, data: bytes) -> bytes:
        async with turns:
            return await send(ports[listener], data)

    return await asyncio.gather(*(one(listener, data) for listener, data in requests))


def meaning(listener: str, seen: tap.Seen) -> tuple[str, str | None, str | None]:
    """What a request asks of TorchServe, by a table of this test's own; anything else is a failure."""
    path, _, query = seen.target.partition("?")
    assert not re.search(r"//|/\.\.?(/|$)|%2[fF]|%00|\\|;|%(?![0-9A-F]{2})", path), seen
    for methods, pattern, action in (*MEANINGS[listener], *EVERYWHERE):
        found = re.fullmatch(pattern, path)
        if found is not None and re.fullmatch(methods, seen.method):
            named = re.search(r"(?:^|&)model_name=([^&]*)", query) if path == "/invocations" else None
            model, version = (found.groupdict().get(name) for name in ("model", "version"))
            # Escaped, a `t` keeps `/tokenizer` from being taken for a key rotation.
            return action, _plain(named[1] if named else model), _plain(version)
    raise AssertionError(f"{listener}: TorchServe was asked what nobody may ask: {seen}")


def _plain(name: str | None) -> str | None:
    return None if name is None else unquote(name)


def test_whatever_is_sent_changes_nothing_and_goes_upstream_as_what_it_was_said_to_be(watched):
    server, taps = watched
    before, draw, began, answered = state(server), raw_requests.Draw(SEED), time.monotonic(), 0
    for done in range(0, REQUESTS, BATCH):
        batch = [draw.request() for _ in range(min(BATCH, REQUESTS - done))]
        marks = {name: len(one.seen) for name, one in taps.items()}
        answers = asyncio.run(storm(server, batch))
        for one in answers:
            assert not one or re.match(rb"HTTP/1\.1 [1-5][0-9][0-9] ", one), one[:300]
            # TorchServe's own, of a body that it cannot decode, and no failure of the guard's
            assert b"HTTP/1.1 500 " not in one or b"Pragma: no-cache" in one, one[:600]
        answered += sum(1 for one in answers if one)
        assert not [complaint for one in taps.values() for complaint in one.complaints]
        for name, one in taps.items():
            for seen in one.seen[marks[name] :]:
                verify(name, seen)
        assert state(server) == before, (
            f"something changed between request {done} and {done + BATCH}, seed {SEED}; in its log:\n{told(server)}"
        )
    upstream = sum(len(one.seen) for one in taps.values())
    assert answered > REQUESTS * 0.7
    assert upstream > REQUESTS * 0.1
    assert not re.search("^Traceback", server.output(), re.MULTILINE)  # in a line of its own: not a model's
    verify_said(server, taps)
    print(  # noqa: T201 - of the long run
        f"{REQUESTS} requests, seed {SEED}: {answered} answered, {upstream} upstream, {time.monotonic() - began:.0f} s"
    )


def verify(listener: str, seen: tap.Seen) -> None:
    """Verify that a request that went upstream is one, is allowed there, and carries nothing it must not."""
    meaning(listener, seen)
    names = [name for name, _ in seen.headers]
    assert not NOT_PASSED & set(names), seen
    assert all(value != "Bearer x" and "Basic" not in value for value in seen.all("authorization")), seen
    assert len(seen.all("host")) == 1, seen
    assert len(seen.all("x-request-id")) == 1, seen


def verify_said(server: servers.Server, taps: dict[str, tap.Tap]) -> None:
    """Verify that the access log says of each request that went upstream what it was."""
    last = {one.seen[-1].all("x-request-id")[0] for one in taps.values() if one.seen}
    deadline = time.monotonic() + 30
    while not last <= (said := access_log(server)).keys() and time.monotonic() < deadline:
        time.sleep(0.2)  # lines are written behind the answers
    for listener, one in taps.items():
        for seen in one.seen:
            action, model, version = meaning(listener, seen)
            entries = said.get(seen.all("x-request-id")[0], [])
            assert any(
                (entry["listener"], entry.get("operation"), entry.get("model")) == (listener, action, model)
                and version in (None, entry.get("version"))
                for entry in entries
            ), (seen, entries)
