"""Through the gRPC door: who may ask is told of a form that a model is not asked for, who may not is told as ever."""

import asyncio
import contextlib
import threading

import grpc
import messages
import pytest
from calls import CONVERSE, INFER, MANAGE, PREDICT, STREAM, TOKEN, World, opened, prediction, until

from torchserve_guard.proxy import Limits
from torchserve_guard.proxy.grpc.forms import Forms
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.wire import Listener

CODE = grpc.StatusCode
INFERS = messages.OPEN_INFERENCE + "ModelInfer"
NAMED = Forms(frozenset({"counting"}), frozenset({"kserved"}))
FORMS = [(STREAM, "stream", "counting"), (CONVERSE, "stream", "counting"), (INFERS, "kserve", "kserved")]
each_form = pytest.mark.parametrize(
    ("path", "key", "named"), FORMS, ids=[path.rpartition("/")[2] for path, *_ in FORMS]
)


def asking(path: str, model: str) -> bytes:
    return messages.request(path, model_name=model) if path == INFERS else prediction(model)


async def told(world: World, path: str, *requests: bytes, metadata=INFER) -> tuple[list[bytes], grpc.StatusCode, str]:
    """What comes back of a call: answers, code, details. In a conversation each thing is said after an answer."""
    # The client with threads: that of asyncio forgets the code of a call which ends while it writes.
    return await asyncio.to_thread(said, world.ports[Listener.INFERENCE], path, requests, metadata)


def said(port: int, path: str, requests: tuple[bytes, ...], metadata) -> tuple[list[bytes], grpc.StatusCode, str]:
    answered = threading.Semaphore(1)

    def in_turn():
        for request in requests:
            answered.acquire(timeout=20)
            yield request

    answers = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        if path == CONVERSE:
            call = channel.stream_stream(path)(in_turn(), metadata=metadata, timeout=20)
        else:
            call = channel.unary_stream(path)(*requests, metadata=metadata, timeout=20)
        with contextlib.suppress(grpc.RpcError):
            for answer in call:
                answers.append(answer)
                answered.release()
        return answers, call.code(), call.details()


@each_form
@pytest.mark.parametrize("none", [True, False])
async def test_a_model_that_is_not_named_is_refused_on_record_and_nothing_reaches_torchserve(path, key, named, none):
    forms = Forms(frozenset(), frozenset()) if none else NAMED
    async with opened(forms=forms, optional=True) as world:
        assert (await told(world, path, asking(path, "noop")))[:2] == ([], CODE.UNIMPLEMENTED)
        _, _, details = await told(world, path, asking(path, named if none else named.upper()))
        assert details.endswith("use Predictions.")
        assert await told(world, PREDICT, prediction()) == ([prediction()], CODE.OK, "")
        assert [asked for asked, *_ in world.upstream.asked] == [PREDICT]
        first, second = world.events("refusal")
        assert (first["rule"], first["status"], first["principal"]) == (f"grpc.{key}-models", 501, "inference-key")
        assert first["reason"] == f"`noop` is not named in `guard.{key}_models`"
        assert second["target"] == path
        await until(lambda: len(world.notes) == 3)
        assert [(note[9], note[12]) for note in world.notes[:2]] == [(501, f"grpc.{key}-models")] * 2
        assert world.door.stats().refused == 2


@each_form
@pytest.mark.parametrize("forms", [NAMED, Forms()], ids=["named", "all"])
async def test_one_that_is_named_is_asked(path, key, named, forms):
    request = asking(path, named)
    async with opened(forms=forms, optional=True) as world:
        assert await told(world, path, request) == ([request], CODE.OK, "")
        ((asked, metadata, received),) = world.upstream.asked
        assert (asked, metadata["authorization"], received) == (path, f"Bearer {TOKEN}", [request])
    assert world.entries == []


@each_form
@pytest.mark.parametrize("model", ["noop", "counting", "kserved", "../x"])
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), MANAGE], ids=["none", "wrong", "other"])
async def test_who_may_not_ask_is_told_the_same_whatever_is_named(path, key, named, model, metadata):
    heard = []
    request = b"\x0a\x04../x" if model == "../x" else asking(path, model)
    for forms in (Forms(), NAMED, Forms(frozenset(), frozenset())):
        async with opened(forms=forms, optional=True) as world:
            heard.append((await told(world, path, request, metadata=metadata), world.upstream.asked))
            heard[-1] += (world.events("refusal")[0]["rule"],)
    assert heard[1:] == heard[:1] * 2
    assert heard[0][0][1] in {CODE.UNAUTHENTICATED, CODE.PERMISSION_DENIED, CODE.INVALID_ARGUMENT}


async def test_each_message_of_a_conversation_names_its_model_and_is_judged():
    async with opened(forms=NAMED, turns=Turns(1, 0, 1)) as world:
        for _ in range(2):
            first, second = prediction("counting", b"1"), prediction("noop", b"2")
            answers, code, _ = await told(world, CONVERSE, first, second, first)
            assert (answers, code) == ([first], CODE.UNIMPLEMENTED)
        await until(lambda: world.upstream.finished == 2)
        assert [received for _, _, received in world.upstream.asked] == [[first], [first]]
        assert {entry["rule"] for entry in world.events("refusal")} == {"grpc.stream-models"}


async def test_what_is_refused_takes_no_turn():
    async with opened(Limits(), forms=NAMED, turns=Turns(1, 0, 1)) as world:
        for _ in range(3):
            assert (await told(world, STREAM, prediction("noop")))[1] is CODE.UNIMPLEMENTED
        assert (await told(world, PREDICT, prediction("noop")))[1] is CODE.OK


async def test_a_method_that_is_not_served_says_so_whatever_is_named():
    async with opened(forms=NAMED, optional=False) as world:
        for model in ("noop", "kserved"):
            _, code, details = await told(world, INFERS, asking(INFERS, model))
            assert (code, details[:16]) == (CODE.UNIMPLEMENTED, "Method not found")
        assert {entry["rule"] for entry in world.events("refusal")} == {"wire.method"}
