"""Raw calls against a real TorchServe in mode none: nothing changes, and what goes upstream is what the guard said.

`TSGUARD_FUZZ_CONNECTIONS=45000 TSGUARD_FUZZ_SEED=1 scripts/test tests/e2e/test_differential_grpc.py -s`: the long run.
"""

import asyncio
import contextlib
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import messages
import psutil
import pytest
import servers
from fuzz import caller, grpc_tap, raw_calls
from fuzz.witness import QUIET, access_log, state, told

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(6 * 3600)]

CONNECTIONS = int(os.environ.get("TSGUARD_FUZZ_CONNECTIONS", "1500"))
SEED = int(os.environ.get("TSGUARD_FUZZ_SEED", "20261123"))
BATCH = 500
AT_ONCE = 48
TAPPED = Path(__file__).parents[1] / "fuzz" / "tapped_guard.py"

INFER, TELL = "infer", "server-metadata"
# What mode none lets through, by a table of this test's own: the fields that name model and version.
MEANINGS = {
    "inference": {
        raw_calls.I + "Ping": ("ping", ()),
        **{raw_calls.I + name: (INFER, ("model_name", "model_version")) for name in (
            "Predictions", "StreamPredictions", "StreamPredictions2",
        )},
        raw_calls.O + "ModelInfer": (INFER, ("model_name", "model_version")),
        **{raw_calls.O + f"Server{name}": (TELL, ()) for name in ("Live", "Ready", "Metadata")},
        **{raw_calls.O + f"Model{name}": (TELL, ("name", "version")) for name in ("Ready", "Metadata")},
    },
    "management": {
        raw_calls.M + "ListModels": ("list-models", ()),
        raw_calls.M + "DescribeModel": ("describe-model", ("model_name", "model_version")),
    },
}  # fmt: skip
MARK = re.compile(rb"f[0-9]+-[0-9]+-[0-9]+")


class Tapped(servers.Guarded):
    """A guard with relays between it and TorchServe's gRPC ports."""

    taps: tuple[grpc_tap.Tap, ...] = ()

    def command(self):
        _, *arguments = super().command()
        return [sys.executable, str(TAPPED), str(self.folder), *(str(one.port) for one in self.taps), *arguments]


@pytest.fixture(scope="module")
def watched(listed):
    """A guard in mode none with a tap on each of TorchServe's gRPC ports."""
    with servers.folder("tsg-dg-") as folder, contextlib.ExitStack() as stack:
        settings = {
            **QUIET,
            "load_models": "noop.mar,noop_v2.mar,mirror.mar,counting.mar",
            "ts_open_inference_protocol": "true",
            "max_request_size": str(raw_calls.LARGEST),
            "job_queue_size": "4000",
            "guard.access_log_size": str(1 << 40),
        }
        server = Tapped(folder, listed, settings)
        places = enumerate(raw_calls.LISTENERS)
        taps = {name: stack.enter_context(grpc_tap.Tap(folder / "behind.json", at)) for at, name in places}
        server.taps = tuple(taps.values())
        yield stack.enter_context(servers.serving(server)), taps


async def storm(server: servers.Server, conversations: list[raw_calls.Conversation]) -> list[caller.Heard]:
    """Say each on a connection of its own, some at once."""
    ports, turns = dict(zip(raw_calls.LISTENERS, server.grpc, strict=True)), asyncio.Semaphore(AT_ONCE)

    async def one(conversation: raw_calls.Conversation) -> caller.Heard:
        async with turns:
            return await caller.converse(ports[conversation.listener], conversation)

    return await asyncio.gather(*(one(conversation) for conversation in conversations))


def test_whatever_is_said_changes_nothing_and_goes_upstream_as_what_it_was_said_to_be(watched):
    server, taps = watched
    before, draw, began = state(server), raw_calls.Draw(SEED), time.monotonic()
    statuses, upstream, calls = Counter(), Counter(), 0
    for done in range(0, CONNECTIONS, BATCH):
        batch = [draw.conversation() for _ in range(min(BATCH, CONNECTIONS - done))]
        heard = asyncio.run(storm(server, batch))
        for conversation, one in zip(batch, heard, strict=True):
            verify_heard(conversation, one)
            statuses.update(answer.status for answer in one.answers.values())
            calls += len(conversation.calls)
        verify_nothing_is_left(server, taps)
        upstream += verify_upstream(server, taps)
        assert state(server) == before, (
            f"something changed between {done} and {done + BATCH}, seed {SEED}; TorchServe says:\n{told(server)}"
        )
    assert statuses["0"] > CONNECTIONS * 0.3
    assert not re.search("^Traceback", server.output(), re.MULTILINE)
    verify_said(server, upstream)
    print(  # noqa: T201 - of the long run
        f"{CONNECTIONS} connections, {calls} calls, seed {SEED}: {sum(upstream.values())} upstream, "
        f"{time.monotonic() - began:.0f} s; answers by status: {dict(statuses.most_common())}"
    )


def verify_heard(conversation: raw_calls.Conversation, heard: caller.Heard) -> None:
    """Verify that what came back is HTTP/2 and gRPC, is whose it should be, and is all that had to come."""
    assert not heard.complaints, (heard, conversation)
    assert heard.ended or not (heard.late and conversation.whole), ("it hangs", heard, conversation)
    if conversation.sound:
        assert heard.parted is None, ("a connection ended for one call's fault", heard, conversation)
        assert not heard.ended, ("a connection ended without a word", heard, conversation)
    for number, answer in heard.answers.items():
        blocks = answer.blocks
        assert not [one for one in blocks if b"could not finish" in one.get(b"grpc-message", b"")], (
            heard,
            conversation,
        )
        if answer.ended and answer.status.isdigit():
            assert 0 <= int(answer.status) <= 16, (answer, conversation)
        if not conversation.whole:
            continue
        # What one call said comes back to nobody else.
        assert {mark.decode() for mark in MARK.findall(answer.data)} <= {conversation.calls.get(number)}, conversation
        if conversation.sound and number in conversation.echoes | conversation.due:
            assert answer.ended, (answer, conversation)
        if conversation.sound and number in conversation.echoes:
            assert answer.status == "0", (answer, conversation)
            assert conversation.calls[number].encode() in answer.data, (answer, conversation)
            assert blocks[-1][b"x-request-id"] == conversation.calls[number].encode(), (answer, conversation)


def verify_nothing_is_left(server: servers.Guarded, taps: dict[str, grpc_tap.Tap]) -> None:
    """Verify that the guard keeps no connection of a client's that is gone, and no call of its own."""
    guard = psutil.Process(server.process.pid)

    def left() -> list[object]:
        ends = [one for one in guard.net_connections("tcp") if one.raddr and one.laddr.port in server.grpc]
        return [*ends, *(seen for tap in taps.values() for seen in tap.seen if seen.open)]

    deadline = time.monotonic() + 20
    while (still := left()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not still


def verify_upstream(server: servers.Guarded, taps: dict[str, grpc_tap.Tap]) -> Counter:
    """Verify that what went upstream is in the guard's one spelling and may be asked; return how often what was."""
    found = Counter()
    for name, tap in taps.items():
        assert not tap.complaints
        for seen in tap.seen:
            for key in meanings(name, seen):
                found[key] += 1
        tap.seen.clear()
    return found


def meanings(listener: str, seen: grpc_tap.Seen):
    """What a call asks of TorchServe, a key for each message, by a table of this test's own."""
    given = dict(seen.fields)
    names = [field for field, _ in seen.fields]
    assert names[:7] == [
        b":method", b":scheme", b":path", b":authority", b"te", b"content-type", b"grpc-accept-encoding"
    ], seen  # fmt: skip
    assert names[7:] in ([b"authorization"], [b"authorization", b"grpc-timeout"]), seen
    assert (given[b":method"], given[b"te"]) == (b"POST", b"trailers"), seen
    assert given[b"content-type"] == b"application/grpc", seen
    assert re.fullmatch(rb"127\.0\.0\.1:[0-9]+", given[b":authority"]), seen
    assert re.fullmatch(rb"Bearer [\w-]{8,}", given[b"authorization"]), seen
    path = given[b":path"].decode()
    assert path in MEANINGS[listener], f"{listener}: TorchServe was asked what nobody may ask: {seen}"
    action, fields = MEANINGS[listener][path]
    said = list(cut(seen))
    assert len(said) == 1 or path == raw_calls.CONVERSE or seen.parted, seen
    described = messages.of(path)[0].DESCRIPTOR
    for message in said:
        given = list(top(message))
        assert {number for number, _ in given} <= set(described.fields_by_number), (path, message)
        # Of two names one reader takes the first, another the last.
        named = [[value for number, value in given if number == described.fields_by_name[one].number] for one in fields]
        assert all(len(one) <= 1 for one in named), (path, message)
        if listener == "management":
            assert messages.of(path)[0].FromString(message).SerializeToString() == message, (path, message)
        model, version = (one[0].decode() if one and one[0] else None for one in named or ([], []))
        mark = MARK.search(message)
        yield listener, path, action, model, version, mark[0].decode() if mark else None


def top(message: bytes):
    """The fields of a message, by number, read here: what stands in a field of a model's is TorchServe's to read."""

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 0x80:
                return value

    at = 0
    while at < len(message):
        tag = number()
        size = number()
        if tag & 7 == 2:
            assert at + size <= len(message), message
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            assert tag & 7 == 0, message
            yield tag >> 3, size


def cut(seen: grpc_tap.Seen):
    """The messages of a body; each is whole, unless the call was given up."""
    body = bytes(seen.body)
    while body:
        size = int.from_bytes(body[1:5])
        whole = len(body) >= 5 + size
        assert body[0] == 0, seen
        assert whole or seen.parted, seen
        if whole:
            yield body[5 : 5 + size]
        body = body[5 + size :]


def verify_said(server: servers.Guarded, upstream: Counter) -> None:
    """Verify that the access log says of each call that went upstream what it was, and of each that was served."""
    time.sleep(1)  # lines are written behind the answers
    entries = [entry for one in access_log(server).values() for entry in one if entry["listener"].startswith("grpc-")]
    by_id, known, served = {}, Counter(), Counter()
    for entry in entries:
        key = (entry["listener"][5:], entry.get("path"), entry.get("operation"), entry.get("model"))
        by_id.setdefault(entry["request_id"], []).append((*key, entry.get("version")))
        known[key] += 1
        served[key] += entry["status"] == 200
    went = Counter()
    for (*key, version, mark), count in upstream.items():
        went[tuple(key)] += count
        if mark in by_id:
            same = [said for *one, said in by_id[mark] if one == key]
            assert version in {None, *same} if same else False, (key, version, mark, by_id[mark])
    for key in went.keys() | known.keys():
        if key[1] != raw_calls.CONVERSE:
            assert served[key] <= went[key] <= known[key], (key, served[key], went[key], known[key])
