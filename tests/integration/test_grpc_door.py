"""The gRPC door: real clients, a real gRPC server in TorchServe's place, and everything that goes wrong between."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import authority
import grpc
import messages
import psutil
import pytest
from calls import (
    CHANGING,
    CONVERSE,
    INFER,
    KEYS,
    MANAGE,
    PREDICT,
    REGISTER,
    SAID,
    SCALE,
    STREAM,
    TOKEN,
    Upstream,
    World,
    field_block,
    frame,
    opened,
    prediction,
    until,
)
from grpc import aio

from torchserve_guard.access import Mode
from torchserve_guard.audit.access_line import Form, Writer
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.proxy import Limits
from torchserve_guard.proxy.grpc.address import verify_grpc_available
from torchserve_guard.proxy.grpc.ports import told_apart
from torchserve_guard.proxy.grpc.server import GrpcSpec
from torchserve_guard.proxy.grpc.tls import GrpcTls
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.wire import Listener

CODE = grpc.StatusCode


async def ended(awaitable) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        async with asyncio.timeout(20):
            await awaitable
    return caught.value


async def test_torchserve_gets_the_message_and_its_own_key_and_nothing_else_of_the_client():
    async with opened() as world, world.channel() as channel:
        sent = (*INFER, ("protocol", "gRPC"), ("explain", "True"), ("secret-bin", b"\x00"), ("x-request-id", "night-1"))
        call = channel.unary_unary(PREDICT)(prediction(), metadata=sent)
        assert await call == prediction()
        assert dict(await call.trailing_metadata()) == {"x-request-id": "night-1"}
        ((path, metadata, received),) = world.upstream.asked
        assert (path, received) == (PREDICT, [prediction()])
        assert metadata.pop("authorization") == f"Bearer {TOKEN}"
        assert not {"protocol", "explain", "secret-bin", "x-request-id"} & set(metadata)
    assert world.entries == []


@pytest.mark.parametrize("method", CHANGING)
async def test_in_none_every_change_is_denied_to_everybody_before_a_byte_of_it_is_read(method):
    async with opened(mode=Mode.NONE) as world, world.channel(Listener.MANAGEMENT) as channel:
        for metadata in (MANAGE, INFER, ()):
            for message in (b"", b"\xff\xff", messages.request(messages.MANAGEMENT + method, model_name="m")):
                error = await ended(channel.unary_unary(messages.MANAGEMENT + method)(message, metadata=metadata))
                assert error.code() is CODE.PERMISSION_DENIED
        waiting = channel.stream_stream(messages.MANAGEMENT + method)(metadata=MANAGE)
        assert await waiting.code() is CODE.PERMISSION_DENIED
    assert world.upstream.asked == []
    assert {entry["rule"] for entry in world.events("refusal")} == {"mode-none"}
    assert len(world.events("refusal")) == 10


@pytest.mark.parametrize(
    ("listener", "path", "metadata", "code"),
    [
        (Listener.INFERENCE, PREDICT, (), CODE.UNAUTHENTICATED),
        (Listener.INFERENCE, PREDICT, (("authorization", "Bearer wrong"),), CODE.UNAUTHENTICATED),
        (Listener.INFERENCE, PREDICT, (("authorization-bin", b"Bearer i"),), CODE.UNAUTHENTICATED),
        (Listener.INFERENCE, PREDICT, MANAGE, CODE.PERMISSION_DENIED),
        (Listener.INFERENCE, PREDICT, INFER + MANAGE, CODE.INVALID_ARGUMENT),
        (Listener.INFERENCE, PREDICT, INFER + INFER, CODE.INVALID_ARGUMENT),
        (Listener.INFERENCE, REGISTER, MANAGE, CODE.UNIMPLEMENTED),
        (Listener.INFERENCE, messages.OPEN_INFERENCE + "ServerLive", INFER, CODE.UNIMPLEMENTED),
        (Listener.MANAGEMENT, PREDICT, INFER, CODE.UNIMPLEMENTED),
        (Listener.MANAGEMENT, REGISTER, INFER, CODE.PERMISSION_DENIED),
        (Listener.MANAGEMENT, REGISTER, (), CODE.UNAUTHENTICATED),
        (Listener.MANAGEMENT, REGISTER.replace("/Reg", "//Reg"), MANAGE, CODE.UNIMPLEMENTED),
        (Listener.MANAGEMENT, REGISTER.lower(), MANAGE, CODE.UNIMPLEMENTED),
        (Listener.MANAGEMENT, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", MANAGE, CODE.UNIMPLEMENTED),
    ],
)
async def test_who_may_not_gets_nothing_and_is_on_record(listener, path, metadata, code):
    message = messages.request(REGISTER, url="a.mar") if path == REGISTER else prediction()
    async with opened() as world, world.channel(listener) as channel:
        error = await ended(channel.unary_unary(path)(message, metadata=metadata))
        assert error.code() is code
        assert TOKEN not in str(error.details())
    assert world.upstream.asked == []
    (refusal,) = world.events("refusal")
    assert refusal["target"] == path
    assert refusal["listener"] == f"grpc-{listener.value}"


@pytest.mark.parametrize("authority", ["evil", "127.0.0.1:1", "a b", "x/../y"])
async def test_an_odd_authority_changes_nothing(authority):
    async with opened() as world:
        async with world.channel(default_authority=authority) as channel:
            with contextlib.suppress(aio.AioRpcError):
                await channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=5)
        assert all(metadata.get("host") is None for _, metadata, _ in world.upstream.asked)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x0a\x04noop\x2a\x01x",
        b"\x0a\x04noop\x0a\x04evil",
        b"\x0a\x07../noop",
        b"\x0a\x04noop\x12\x03a/b",
        b"\x0a\x04noop\x1a\x7f",
    ],
)
async def test_a_message_that_is_not_surely_understood_is_refused(message):
    async with opened() as world, world.channel() as channel:
        error = await ended(channel.unary_unary(PREDICT)(message, metadata=INFER))
        assert error.code() is CODE.INVALID_ARGUMENT
        assert await channel.unary_stream(STREAM)(message, metadata=INFER).code() is CODE.INVALID_ARGUMENT
    assert world.upstream.asked == []
    assert len(world.events("refusal")) == 2


async def test_a_change_goes_on_in_the_guards_own_words_with_its_record_before_and_after():
    async with opened() as world, world.channel(Listener.MANAGEMENT) as channel:

        async def answers(context, received):
            received.append(await context.read())
            assert [entry.event for entry in world.entries] == ["request"]
            await context.write(b"done")

        world.upstream.behaviour = answers
        # The fields in another order, a default that is spelled out, and one that TorchServe does not look at.
        message = b"\x30\x01\x28\x03\x18\x00\x20\x02\x0a\x04noop"
        assert await channel.unary_unary(SCALE)(message, metadata=MANAGE) == b"done"
        ((_, metadata, received),) = world.upstream.asked
        assert received == [messages.request(SCALE, model_name="noop", min_worker=2, synchronous=True)]
        assert metadata["authorization"] == f"Bearer {TOKEN}"
    assert [entry.event for entry in world.entries] == ["request", "outcome"]
    request, outcome = (dict(entry.fields) for entry in world.entries)
    assert request["parameters"] == {"min_worker": "2", "synchronous": "true"}
    assert (outcome["status"], world.settled) == (200, [200])


async def test_what_cannot_be_recorded_is_not_forwarded():
    async with opened() as world, world.channel(Listener.MANAGEMENT) as channel:
        world.broken = True
        message = messages.request(REGISTER, url="a.mar")
        assert (await ended(channel.unary_unary(REGISTER)(message, metadata=MANAGE))).code() is CODE.UNAVAILABLE
        assert world.upstream.asked == []


async def test_a_change_goes_to_its_end_when_the_client_leaves():
    async with opened() as world, world.channel(Listener.MANAGEMENT) as channel:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(context, received):
            received.append(await context.read())
            begun.set()
            await go_on.wait()
            await context.write(b"done")

        world.upstream.behaviour = slow
        call = channel.unary_unary(SCALE)(messages.request(SCALE, model_name="m"), metadata=MANAGE, timeout=30)
        sent = asyncio.ensure_future(call.code())
        await begun.wait()
        call.cancel()
        await sent
        go_on.set()
        await until(lambda: world.settled == [200])
    assert not world.upstream.cancelled.is_set()
    assert [entry.event for entry in world.entries] == ["request", "outcome"]


async def test_a_change_that_is_refused_after_its_client_left_is_on_record_all_the_same():
    async with opened() as world, world.channel(Listener.MANAGEMENT) as channel:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def prepare(_operation):
            begun.set()
            await go_on.wait()
            raise VerificationError("not what was promised")

        world.prepare = prepare
        await world.door.close(0)
        world.door = world.make(Limits())
        await world.door.open()
        call = channel.unary_unary(REGISTER)(messages.request(REGISTER, url="a.mar"), metadata=MANAGE, timeout=30)
        await begun.wait()
        call.cancel()
        await asyncio.sleep(0.1)
        go_on.set()
        await until(lambda: bool(world.events("refusal")))
        assert world.events("refusal")[0]["reason"] == "not what was promised"
        assert world.upstream.asked == []


@pytest.mark.parametrize("path", [STREAM, CONVERSE])
async def test_a_call_without_a_message_ends(path):
    async with opened() as world, world.channel() as channel:
        code = await asyncio.wait_for(channel.stream_stream(path)(iter([]), metadata=INFER).code(), 5)
        assert code is CODE.INVALID_ARGUMENT
        assert world.upstream.asked == []


async def test_calls_held_open_on_one_connection_keep_nobody_else_out():
    async with opened() as world, world.channel() as channel, world.channel() as other:
        held = [channel.stream_stream(PREDICT)(metadata=INFER) for _ in range(300)]
        await asyncio.sleep(0.3)
        assert await other.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=5) == prediction()
        for call in held:
            call.cancel()


async def test_code_details_and_trailing_metadata_are_torchserves():
    async with opened() as world:

        async def fails(context, received):
            await context.abort(
                CODE.RESOURCE_EXHAUSTED, "queue full\nsome.Exception", (("retry", "7"), ("d-bin", b"\x01"))
            )

        world.upstream.behaviour = fails
        async with world.channel() as inference, world.channel(Listener.MANAGEMENT) as management:
            unary = await ended(inference.unary_unary(PREDICT)(prediction(), metadata=INFER))
            stream = inference.unary_stream(STREAM)(prediction(), metadata=INFER)
            both = inference.stream_stream(CONVERSE)(iter([prediction()]), metadata=INFER)
            managed = await ended(
                management.unary_unary(SCALE)(messages.request(SCALE, model_name="m"), metadata=MANAGE)
            )
            for error in (unary, managed):
                assert (error.code(), error.details()) == (CODE.RESOURCE_EXHAUSTED, "queue full\nsome.Exception")
                assert dict(error.trailing_metadata()).items() >= {"retry": "7", "d-bin": b"\x01"}.items()
            for call in (stream, both):
                assert (await call.code(), await call.details()) == (
                    CODE.RESOURCE_EXHAUSTED,
                    "queue full\nsome.Exception",
                )
                assert dict(await call.trailing_metadata()).items() >= {"retry": "7", "d-bin": b"\x01"}.items()
    assert world.settled == [429]


async def test_when_torchserve_is_gone_the_client_is_told_so_and_no_more():
    async with opened() as world, world.channel() as channel:
        await world.upstream.server.stop(0)
        error = await ended(channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=10))
        assert (error.code(), error.details()) == (CODE.UNAVAILABLE, "TorchServe did not answer.")
        (refusal,) = world.events("refusal")
        assert refusal["rule"] == "proxy.upstream"
        assert world.door.stats().upstream_failures == 1


async def test_a_deadline_is_torchserves_too_and_what_is_cancelled_here_is_cancelled_there():
    async with opened() as world, world.channel() as channel:
        left: list[float] = []

        async def waits(context, received):
            left.append(context.time_remaining())
            await asyncio.sleep(60)

        world.upstream.behaviour = waits
        error = await ended(channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=0.5))
        assert error.code() is CODE.DEADLINE_EXCEEDED
        assert 0 < left[0] <= 0.51  # the peer reckons with another clock
        await asyncio.wait_for(world.upstream.cancelled.wait(), 5)
        for path, shape in ((PREDICT, channel.unary_unary), (STREAM, channel.unary_stream)):
            world.upstream.cancelled.clear()
            count = len(world.upstream.asked)
            call = shape(path)(prediction(), metadata=INFER)
            running = asyncio.ensure_future(call.code())
            await until(lambda count=count: len(world.upstream.asked) > count)
            call.cancel()
            await running
            await asyncio.wait_for(world.upstream.cancelled.wait(), 5)


async def test_a_client_that_vanishes_in_a_stream_leaves_nothing_behind():
    async with opened() as world:

        async def forever(context, received):
            while True:
                await context.write(b"\x0a\x01x")
                await asyncio.sleep(0.005)

        world.upstream.behaviour = forever
        before = len(asyncio.all_tasks())
        for shape, path in (("unary_stream", STREAM), ("stream_stream", CONVERSE)):
            world.upstream.cancelled.clear()
            async with world.channel() as channel:
                message = prediction() if shape == "unary_stream" else iter([prediction()])
                stream = getattr(channel, shape)(path)(message, metadata=INFER)
                assert await stream.read() == b"\x0a\x01x"
                await channel.close(None)
            await asyncio.wait_for(world.upstream.cancelled.wait(), 5)
        await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_client_that_does_not_read_holds_torchserve_up_and_fills_no_memory():
    async with opened() as world, world.channel(max_receive_message_length=-1) as channel:
        written = 0

        async def floods(context, received):
            nonlocal written
            for _ in range(400):
                await context.write(bytes(1 << 20))
                written += 1

        world.upstream.behaviour = floods
        memory = psutil.Process().memory_info().rss
        stream = channel.unary_stream(STREAM)(prediction(), metadata=INFER)
        assert len(await stream.read()) == 1 << 20
        await asyncio.sleep(1)
        assert written < 40
        assert psutil.Process().memory_info().rss - memory < 100 << 20
        count = 1
        while isinstance(await stream.read(), bytes):
            count += 1
        assert (count, await stream.code()) == (400, CODE.OK)


async def test_every_message_of_a_conversation_is_decided():
    async with opened() as world, world.channel() as channel:
        call = channel.stream_stream(CONVERSE)(metadata=INFER)
        await call.write(prediction("one"))
        assert await call.read() == prediction("one")
        await call.write(prediction("../two"))
        assert await call.code() is CODE.INVALID_ARGUMENT
        ((_, _, received),) = world.upstream.asked
        assert received == [prediction("one")]
        await until(lambda: world.upstream.finished == 1)
        call = channel.stream_stream(CONVERSE)(iter([prediction(data=bytes([at])) for at in range(50)]), metadata=INFER)
        assert [message async for message in call] == [prediction(data=bytes([at])) for at in range(50)]
        assert await channel.stream_stream(CONVERSE)(iter([]), metadata=INFER).code() is CODE.INVALID_ARGUMENT


async def test_a_key_that_is_withdrawn_ends_a_conversation(monkeypatch):
    async with opened() as world, world.channel() as channel:
        call = channel.stream_stream(CONVERSE)(metadata=INFER)
        await call.write(prediction())
        assert await call.read() == prediction()
        monkeypatch.delitem(KEYS, b"Bearer i")
        await call.write(prediction())
        assert await call.code() is CODE.UNAUTHENTICATED


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_what_is_too_large_is_refused_before_it_takes_memory_packed_or_not(compression):
    async with opened(Limits(body=1 << 20)) as world, world.channel(max_send_message_length=-1) as channel:
        ask = channel.unary_unary(PREDICT)
        fits = prediction(data=bytes((1 << 20) - 100))
        assert await ask(fits, metadata=INFER, compression=compression) == fits
        bomb = prediction(data=bytes(256 << 20))
        memory = psutil.Process().memory_info().rss
        highest = memory
        sending = asyncio.ensure_future(ended(ask(bomb, metadata=INFER, compression=compression)))
        while not sending.done():
            highest = max(highest, psutil.Process().memory_info().rss)
            await asyncio.sleep(0.005)
        assert sending.result().code() is CODE.RESOURCE_EXHAUSTED
        # The client's own copy is in this process too: a packed one is small.
        if compression is not None:
            assert highest - memory < 64 << 20
        assert len(world.upstream.asked) == 1


async def test_a_limit_beyond_what_the_library_counts_is_its_largest():
    async with opened(Limits(body=2**62), answer=2**31 - 1) as world, world.channel() as channel:
        assert await channel.unary_unary(PREDICT)(prediction(), metadata=INFER) == prediction()


async def test_a_management_message_has_no_room_for_more_than_it_needs():
    async with opened(Limits(body=None)) as world, world.channel(Listener.MANAGEMENT) as channel:
        message = messages.request(REGISTER, url="a" * 70_000)
        assert (await ended(channel.unary_unary(REGISTER)(message, metadata=MANAGE))).code() is CODE.RESOURCE_EXHAUSTED
        message = messages.request(REGISTER, url="a" * 3_000)
        assert (await ended(channel.unary_unary(REGISTER)(message, metadata=MANAGE))).code() is CODE.INVALID_ARGUMENT
        assert world.upstream.asked == []


@pytest.mark.parametrize("count", [0, 2])
async def test_a_management_call_has_one_message(count):
    async with opened() as world, world.channel(Listener.MANAGEMENT) as channel:
        many = [messages.request(SCALE, model_name="m")] * count
        assert await channel.stream_stream(SCALE)(iter(many), metadata=MANAGE).code() is CODE.INVALID_ARGUMENT
    assert world.upstream.asked == []


async def test_a_management_call_whose_message_does_not_come_is_ended():
    async with opened(Limits(stall_time=0.2)) as world, world.channel(Listener.MANAGEMENT) as channel:
        call = channel.stream_stream(SCALE)(metadata=MANAGE)
        assert await asyncio.wait_for(call.code(), 5) is CODE.DEADLINE_EXCEEDED
        assert world.events("refusal")[0]["rule"] == "proxy.time"


async def test_nobody_listens_on_the_port_beside_the_guard():
    async with opened() as world:
        with pytest.raises(ConfigError, match="cannot listen there"):
            await world.make(Limits()).open()
        named = {listener: ("127.0.0.1", port) for listener, port in world.ports.items()}
        with pytest.raises(ConfigError) as caught:
            verify_grpc_available(named)
        assert len(caught.value.complaints) == 2
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", world.ports[Listener.INFERENCE]))
    verify_grpc_available(named)


async def test_an_address_that_is_not_of_this_machine_is_an_error():
    with pytest.raises(ConfigError, match="cannot listen there"):
        verify_grpc_available({Listener.INFERENCE: ("192.0.2.1", 7070)})
    async with opened() as world:
        world.spec = lambda _: GrpcSpec("192.0.2.1", 7070, world.upstream.port, TOKEN, answer=1)
        with pytest.raises(ConfigError, match="cannot listen there"):
            await world.make(Limits()).open()


async def test_what_is_in_flight_when_the_door_closes_is_finished_and_nothing_new_begins():
    async with opened() as world, world.channel() as channel, world.channel(initial_reconnect_backoff_ms=100) as other:
        go_on = asyncio.Event()

        async def slow(context, received):
            await context.read()
            await go_on.wait()
            await context.write(b"late")

        world.upstream.behaviour = slow
        call = asyncio.ensure_future(
            channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=20)._invocation_task
        )
        await until(lambda: bool(world.upstream.asked))
        closing = asyncio.ensure_future(world.door.close(20))
        await asyncio.sleep(0.1)
        error = await ended(other.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=5))
        assert error.code() is CODE.UNAVAILABLE
        assert not closing.done()
        go_on.set()
        assert await call == b"late"
        await asyncio.wait_for(closing, 5)


async def test_a_door_that_is_closed_in_a_hurry_does_not_wait():
    async with opened() as world, world.channel() as channel, world.channel(Listener.MANAGEMENT) as management:

        async def stuck(context, received):
            await asyncio.sleep(60)

        world.upstream.behaviour = stuck
        calls = [
            channel.unary_unary(PREDICT)(prediction(), metadata=INFER),
            channel.unary_stream(STREAM)(prediction(), metadata=INFER),
            channel.stream_stream(CONVERSE)(iter([prediction()]), metadata=INFER),
            management.unary_unary(SCALE)(messages.request(SCALE, model_name="m"), metadata=MANAGE),
        ]
        codes = [asyncio.ensure_future(call.code()) for call in calls]
        await until(lambda: len(world.upstream.asked) == 4)
        await asyncio.wait_for(world.door.close(0.1), 5)
        assert all(code is not CODE.OK for code in await asyncio.gather(*codes))
        assert [entry.event for entry in world.entries if entry.event != "refusal"] == ["request", "outcome"]


async def test_no_proxy_of_the_environment_stands_between_guard_and_torchserve(monkeypatch):
    for name in ("http_proxy", "grpc_proxy", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with opened() as world, world.channel(enable_http_proxy=0) as channel:
        assert await channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=10) == prediction()


async def test_a_connection_too_many_is_turned_away():
    async with opened(Limits(connections=2)) as world, contextlib.AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(world.channel()) for _ in range(3)]
        for channel in (first, second):
            assert await channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=10) == prediction()
        error = await ended(third.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=2))
        assert error.code() in {CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED}


async def test_each_call_has_its_line_in_the_access_log():
    trace = "0af7651916cd43dd8448eb211c80319c"
    lines = Writer(Form.JSON, 0.0).lines
    async with opened() as world, world.channel() as channel:
        ask = channel.unary_unary(PREDICT)
        sent = (*INFER, ("x-request-id", "night-1"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
        await ask(prediction(), metadata=sent)
        await ended(ask(prediction(), metadata=MANAGE))
        call = channel.unary_stream(STREAM)(prediction(), metadata=INFER)
        world.upstream.behaviour = lambda *_: asyncio.sleep(60)
        running = asyncio.ensure_future(call.code())
        await until(lambda: len(world.upstream.asked) == 2)
        call.cancel()
        await running
        await until(lambda: len(world.notes) == 3)
        served, refused, left = map(json.loads, lines(world.notes))
    assert (
        served.items()
        >= {
            "request_id": "night-1",
            "trace_id": trace,
            "listener": "grpc-inference",
            "principal": "inference-key",
            "method": "GRPC",
            "path": PREDICT,
            "model": "noop",
            "status": 200,
            "bytes_in": len(prediction()) + 5,
            "bytes_out": len(prediction()) + 5,
        }.items()
    )
    assert refused.items() >= {"principal": "management-key", "status": 403, "path": PREDICT}.items()
    assert "refused_by" in refused
    assert (left["status"], left["path"]) == (499, STREAM)


async def test_a_model_takes_so_many_calls_at_once_and_more_wait_for_their_turn():
    async with opened(turns=Turns(1, 1, 30)) as world, world.channel() as channel:
        go_on = asyncio.Event()

        async def slow(context, received):
            received.append(await context.read())
            await go_on.wait()
            await context.write(received[0])

        world.upstream.behaviour = slow
        ask = channel.unary_unary(PREDICT)
        first = asyncio.ensure_future(ask(prediction(), metadata=INFER)._invocation_task)
        await until(lambda: len(world.upstream.asked) == 1)
        second = asyncio.ensure_future(ask(prediction(), metadata=INFER)._invocation_task)
        await until(lambda: world.turns.counts() == (1, 1))
        error = await ended(ask(prediction(), metadata=INFER))
        assert error.code() is CODE.RESOURCE_EXHAUSTED
        other = asyncio.ensure_future(ask(prediction("other"), metadata=INFER)._invocation_task)
        await until(lambda: len(world.upstream.asked) == 2)
        go_on.set()
        assert await first == await second == prediction()
        assert await other == prediction("other")
        assert world.turns.counts() == (0, 0)


async def test_who_waits_for_a_turn_waits_no_longer_than_may_be_and_who_leaves_the_line_is_not_waited_for():
    async with opened(turns=Turns(1, 5, 1)) as world, world.channel() as channel:
        world.upstream.behaviour = lambda *_: asyncio.sleep(60)
        ask = channel.unary_unary(PREDICT)
        first = ask(prediction(), metadata=INFER)
        running = asyncio.ensure_future(first.code())
        await until(lambda: len(world.upstream.asked) == 1)
        leaving = ask(prediction(), metadata=INFER)
        left = asyncio.ensure_future(leaving.code())
        await until(lambda: world.turns.counts() == (1, 1))
        leaving.cancel()
        await left
        await until(lambda: world.turns.counts() == (1, 0))
        error = await ended(ask(prediction(), metadata=INFER))
        assert (error.code(), error.details()) == (CODE.UNAVAILABLE, "The model is busy.")
        first.cancel()
        await running
        await until(lambda: world.turns.counts() == (0, 0))


async def test_an_address_with_too_many_connections_is_turned_away_and_on_record():
    async with opened(Limits(source_connections=1)) as world, world.channel() as first, world.channel() as second:
        assert await first.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=10) == prediction()
        error = await ended(second.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=2))
        assert error.code() in {CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED, CODE.RESOURCE_EXHAUSTED}
        assert world.events("refusal")[0]["rule"] == "proxy.source-connections"


async def test_a_connection_ends_at_its_age_when_its_calls_have_ended():
    async with opened() as world:
        spec = replace(world.spec(Listener.INFERENCE), age=1000, grace=60_000)
        await world.door.close(0)
        world.spec = lambda _: spec
        world.ports = {Listener.INFERENCE: world.ports[Listener.INFERENCE]}
        world.door = world.make(Limits())
        await world.door.open()

        async def slow(context, received):
            received.append(await context.read())
            await asyncio.sleep(2.5)  # past the age
            await context.write(received[0])

        world.upstream.behaviour = slow
        async with world.channel() as channel:
            assert await channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=20) == prediction()
            await until(lambda: world.door.stats().connections == 0)


async def test_the_two_listeners_of_torchserve_are_told_apart_without_a_key():
    inference, management = Upstream(), Upstream()

    async def refuses(code, context, received):
        await context.abort(code)

    inference.behaviour = partial(refuses, CODE.PERMISSION_DENIED)
    management.behaviour = partial(refuses, CODE.UNIMPLEMENTED)
    for one in (inference, management):
        await one.server.start()
    try:
        for ports in ((inference.port, management.port), (management.port, inference.port)):
            assert await told_apart(ports, 5) == (inference.port, management.port)
        assert all("authorization" not in metadata for _, metadata, _ in inference.asked + management.asked)
    finally:
        for one in (inference, management):
            await one.server.stop(0)


ROOT, CLIENTS = authority.root(), authority.root("Clients")
SERVER = ROOT.issue()


@asynccontextmanager
async def secured(world: World, listener: Listener, shown=None, root=ROOT) -> AsyncIterator[aio.Channel]:
    pair = (shown.key, shown.chain) if shown is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(root.pem, *pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.secure_channel(f"127.0.0.1:{world.ports[listener]}", credentials, options) as channel:
        yield channel


async def test_over_tls_the_certificate_is_shown_and_renewed_and_no_connection_is_dropped():
    async with opened(tls=GrpcTls(SERVER.chain, SERVER.key, None)) as world:
        other = authority.root("Other")
        fresh = other.issue()
        async with secured(world, Listener.INFERENCE) as held:
            assert await held.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=10) == prediction()
            world.tls.renewal(fresh.chain, fresh.key, None)()
            assert await held.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=10) == prediction()
            async with secured(world, Listener.INFERENCE, root=other) as late:
                assert await late.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=10) == prediction()
            async with secured(world, Listener.INFERENCE) as late:
                error = await ended(late.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=5))
                assert error.code() is CODE.UNAVAILABLE
        async with world.channel() as clear:
            error = await ended(clear.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=5))
            assert error.code() in {CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED}


async def test_a_client_certificate_stands_for_its_client_and_without_one_nobody_enters():
    alice = CLIENTS.issue("alice", usage=authority.CLIENT)
    scale = messages.request(SCALE, model_name="m")
    async with opened(tls=GrpcTls(SERVER.chain, SERVER.key, CLIENTS.pem)) as world:
        async with secured(world, Listener.MANAGEMENT, alice) as channel:
            assert await channel.unary_unary(SCALE)(scale, timeout=10) == scale
        async with secured(world, Listener.INFERENCE, alice) as channel:
            assert await channel.unary_unary(PREDICT)(prediction(), timeout=10) == prediction()
        assert world.events("request")[0]["principal"] == "CN=alice"
        strangers = (
            None,
            ROOT.issue("mallory", usage=authority.CLIENT),
            CLIENTS.issue("server", usage=authority.SERVER),
            CLIENTS.issue("late", usage=authority.CLIENT, days=-0.5),
        )
        for stranger in strangers:
            async with secured(world, Listener.MANAGEMENT, stranger) as channel:
                error = await ended(channel.unary_unary(SCALE)(scale, metadata=MANAGE, timeout=5))
                assert error.code() is CODE.UNAVAILABLE
        assert len(world.upstream.asked) == 2


async def test_in_none_no_certificate_changes_anything():
    alice = CLIENTS.issue("alice", usage=authority.CLIENT)
    tls = GrpcTls(SERVER.chain, SERVER.key, CLIENTS.pem)
    async with opened(mode=Mode.NONE, tls=tls) as world, secured(world, Listener.MANAGEMENT, alice) as channel:
        error = await ended(channel.unary_unary(SCALE)(b"\xff", timeout=5))
        assert error.code() is CODE.PERMISSION_DENIED
        assert world.upstream.asked == []


ODD: list[dict[bytes, bytes]] = [
    {},
    {b":path": SCALE.encode() + b"\xff"},
    {b":path": b"\x00"},
    {b":path": b""},
    {b":path": b"*"},
    {b":path": SCALE.encode().replace(b"ScaleWorker", b"./ScaleWorker")},
    {b":path": SCALE.encode() + b"?x=/" + b"RegisterModel"},
    {b":method": b"GET"},
    {b":method": b"CONNECT"},
    {b"content-type": b"application/json"},
    {b"content-type": b"application/grpc-web"},
    {b"grpc-encoding": b"snappy"},
    {b"grpc-encoding": b"gzip"},
    {b"grpc-timeout": b"1x"},
    {b"grpc-timeout": b"-1S"},
    {b"transfer-encoding": b"chunked"},
    {b"x-request-id": b"\xff\x00\n"},
    {b"authorization": b"Bearer m\xff"},
    {b"x": b"a\r\nauthorization: Bearer m"},
    {b":scheme": b"file"},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
async def test_no_odd_head_makes_a_change_in_none_and_none_harms_the_door(odd):
    async with opened(mode=Mode.NONE) as world:
        await said(world, Listener.MANAGEMENT, {**SAID, **odd}, messages.request(SCALE, model_name="m"))
        assert world.upstream.asked == []
        assert not [entry for entry in world.entries if entry.event != "refusal"]
        async with world.channel() as channel:
            assert await channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=5) == prediction()


@pytest.mark.parametrize("odd", ODD, ids=str)
async def test_an_odd_head_asks_for_what_it_says_or_for_nothing(odd):
    """With the key, in explicit: what is forwarded is this call and no other, and the record has it."""
    async with opened() as world:
        message = messages.request(SCALE, model_name="m")
        await said(world, Listener.MANAGEMENT, {**SAID, **odd}, message)
        asked = [(path, received) for path, _, received in world.upstream.asked]
        assert asked == [(SCALE, [message])] if not odd else asked in ([], [(SCALE, [message])])
        assert len([entry for entry in world.entries if entry.event == "request"]) == len(asked)


async def said(world: World, listener: Listener, head: dict[bytes, bytes], message: bytes) -> None:
    """Say a call in HTTP/2 as it stands, and wait a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[listener])
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
    writer.write(frame(1, 4, 1, field_block(list(head.items()))))
    writer.write(frame(0, 1, 1, b"\0" + len(message).to_bytes(4) + message))
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        async with asyncio.timeout(0.3):
            while await reader.read(65536):
                pass
    writer.close()


async def test_no_web_page_changes_anything_where_changes_need_no_key():
    """A page cannot send `te`, without which there is no call; and it cannot leave out `Origin`."""
    message = messages.request(SCALE, model_name="m")
    async with opened(keys_required=False, keyless=True) as world:
        page = {name: value for name, value in SAID.items() if name not in {b"authorization", b"te"}}
        await said(world, Listener.MANAGEMENT, {**page, b"content-type": b"text/plain"}, message)
        await said(world, Listener.MANAGEMENT, {**page, b"te": b"trailers", b"origin": b"http://evil"}, message)
        assert world.upstream.asked == []
        assert [entry["rule"] for entry in world.events("refusal")] == ["wire.metadata", "cross-site"]
        async with world.channel(Listener.MANAGEMENT) as channel:
            assert await channel.unary_unary(SCALE)(message, timeout=5) == message
