"""HTTP/2 as an attacker speaks it: who breaks the protocol is told so and parted from, and nobody else notices."""

import asyncio
import gzip
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass

import messages
import psutil
import pytest
from calls import CONVERSE, INFER, MANAGE, PREDICT, SAID, SCALE, field_block, frame, opened, prediction, until
from grpc import aio

from torchserve_guard.http2 import Code
from torchserve_guard.http2.frames import PREFACE
from torchserve_guard.proxy import Limits
from torchserve_guard.proxy.turns import Turns
from torchserve_guard.wire import Listener

DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END, END_HEADERS, PADDED, ACK = 1, 4, 8, 1
ASKING = {**SAID, b":path": PREDICT.encode(), b"authorization": b"Bearer i"}
HEAD = field_block(list(ASKING.items()))
GREETING = PREFACE + frame(SETTINGS, 0, 0, b"")
MESSAGE = b"\0" + len(prediction()).to_bytes(4) + prediction()


def number(value: int) -> bytes:
    return value.to_bytes(4)


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


def head(stream: int, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, HEAD)


@dataclass
class Peer:
    """A client that says what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def frame(self) -> tuple[int, int, int, bytes]:
        said = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(said[:3]))
        return said[3], said[4], int.from_bytes(said[5:9]), payload

    async def until(self, kind: int, flag: int = 0) -> tuple[int, bytes]:
        async with asyncio.timeout(20):
            while True:
                said, flags, stream, payload = await self.frame()
                if said == kind and flags & flag == flag:
                    return stream, payload

    async def parted(self) -> int:
        """The code that the connection ends with."""
        _, payload = await self.until(GOAWAY)
        return int.from_bytes(payload[4:8])

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            while await self.reader.read(1 << 16):
                pass


@asynccontextmanager
async def connected(world, said: bytes = GREETING, listener: Listener = Listener.INFERENCE):
    reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[listener])
    writer.write(said)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


async def served(world) -> None:
    """Another client notices nothing."""
    async with world.channel() as channel:
        assert await channel.unary_unary(PREDICT)(prediction(), metadata=INFER, timeout=20) == prediction()


async def test_a_call_that_comes_byte_by_byte_is_a_call():
    async with opened() as world, connected(world, b"") as peer:
        for byte in GREETING + head(1) + frame(DATA, END, 1, MESSAGE):
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        stream, payload = await peer.until(DATA)
        assert (stream, payload) == (1, MESSAGE)
        stream, payload = await peer.until(HEADERS, END)
        assert b"grpc-status\x010" in payload


TRAILERS = frame(HEADERS, END_HEADERS | END, 1, field_block([(b"x", b"y")]))
PADDED_HEAD = frame(HEADERS, END_HEADERS | PADDED | 0x20, 1, b"\x03" + bytes(5) + HEAD + b"\0\0\0")


async def test_padding_priorities_and_continuations_are_read_as_what_they_are():
    async with opened() as world:
        continued = frame(HEADERS, 0, 3, HEAD[:20]) + frame(CONTINUATION, 0, 3, HEAD[20:21])
        continued += frame(CONTINUATION, END_HEADERS, 3, HEAD[21:])
        padded = frame(DATA, END | PADDED, 1, b"\x05" + MESSAGE + bytes(5))
        odd = frame(0xFA, 0xFF, 7, b"unknown") + frame(PRIORITY, 0, 9, bytes(5))
        async with connected(world, GREETING + PADDED_HEAD + odd + padded + continued) as peer:
            assert (await peer.until(DATA)) == (1, MESSAGE)
            peer.writer.write(frame(DATA, 0, 3, MESSAGE[:7]) + frame(DATA, END, 3, MESSAGE[7:]))
            assert (await peer.until(DATA)) == (3, MESSAGE)
            peer.writer.write(frame(PING, 0, 0, b"12345678"))
            assert (await peer.until(PING, ACK)) == (0, b"12345678")


BROKEN = {
    "HTTP/1": (b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\n\r\n", Code.PROTOCOL),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Code.PROTOCOL),
    "almost a preface": (PREFACE[:-1] + b"x" + frame(SETTINGS, 0, 0, b""), Code.PROTOCOL),
    "no settings": (PREFACE + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL),
    "acknowledged settings first": (PREFACE + frame(SETTINGS, ACK, 0, b""), Code.PROTOCOL),
    "a frame too long": (GREETING + frame(DATA, 0, 1, bytes(16_385)), Code.FRAME_SIZE),
    "the longest frame there is": (GREETING + b"\xff\xff\xff\x00\x00" + number(1), Code.FRAME_SIZE),
    "data on no stream": (GREETING + frame(DATA, 0, 0, b"x"), Code.PROTOCOL),
    "data on a stream that was not begun": (GREETING + frame(DATA, 0, 1, b"x"), Code.PROTOCOL),
    "a head on no stream": (GREETING + head(0), Code.PROTOCOL),
    "a stream of the server's": (GREETING + head(2), Code.PROTOCOL),
    "a stream that goes back": (GREETING + head(5) + head(3), Code.PROTOCOL),
    "an interrupted head": (GREETING + frame(HEADERS, 0, 1, HEAD) + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL),
    "a head of two streams": (
        GREETING + frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, END_HEADERS, 3, b"\x82"),
        Code.PROTOCOL,
    ),
    "a continuation of nothing": (GREETING + frame(CONTINUATION, END_HEADERS, 1, b"\x82"), Code.PROTOCOL),
    "continuations for ever": (
        GREETING + frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 0, 1, b"\x10\x01a\x01b" * 3000) * 6,
        Code.CALM,
    ),
    "continuations of nothing": (
        GREETING + frame(HEADERS, 0, 1, HEAD) + frame(CONTINUATION, 0, 1, b"") * 100,
        Code.CALM,
    ),
    "no header block": (GREETING + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION),
    "a bomb": (
        GREETING + frame(HEADERS, END_HEADERS, 1, b"\x40\x01a\x7f\xa1\x1e" + bytes(4000) + b"\xbe" * 12_000),
        Code.CALM,
    ),
    "settings cut off": (GREETING + frame(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE),
    "settings on a stream": (GREETING + frame(SETTINGS, 0, 1, b""), Code.PROTOCOL),
    "settings acknowledged with more": (GREETING + frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE),
    "a push that is neither": (GREETING + frame(SETTINGS, 0, 0, setting(2, 2)), Code.PROTOCOL),
    "a window beyond all": (GREETING + frame(SETTINGS, 0, 0, setting(4, 2**31)), Code.FLOW_CONTROL),
    "a frame of no size": (GREETING + frame(SETTINGS, 0, 0, setting(5, 16_383)), Code.PROTOCOL),
    "windows that grow beyond all": (
        GREETING
        + head(1)
        + frame(WINDOW, 0, 1, number(2**31 - 1 - 65_535))
        + frame(SETTINGS, 0, 0, setting(4, 65_536)),
        Code.FLOW_CONTROL,
    ),
    "a ping of another size": (GREETING + frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE),
    "a ping on a stream": (GREETING + frame(PING, 0, 1, bytes(8)), Code.PROTOCOL),
    "a window of nothing": (GREETING + frame(WINDOW, 0, 0, number(0)), Code.PROTOCOL),
    "a window too large": (GREETING + frame(WINDOW, 0, 0, number(2**31 - 1)), Code.FLOW_CONTROL),
    "a window cut off": (GREETING + frame(WINDOW, 0, 0, bytes(3)), Code.FRAME_SIZE),
    "a window of a stream that was not begun": (GREETING + frame(WINDOW, 0, 1, number(1)), Code.PROTOCOL),
    "a reset of no stream": (GREETING + frame(RESET, 0, 0, number(8)), Code.PROTOCOL),
    "a reset of a stream that was not begun": (GREETING + frame(RESET, 0, 1, number(8)), Code.PROTOCOL),
    "a reset cut off": (GREETING + head(1) + frame(RESET, 0, 1, bytes(3)), Code.FRAME_SIZE),
    "padding beyond the end": (GREETING + head(1) + frame(DATA, PADDED, 1, b"\x05abc"), Code.PROTOCOL),
    "padding of nothing": (GREETING + head(1) + frame(DATA, PADDED, 1, b""), Code.PROTOCOL),
    "a push": (GREETING + frame(PUSH, END_HEADERS, 1, number(2) + HEAD), Code.PROTOCOL),
    "a farewell cut off": (GREETING + frame(GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE),
    "a priority of no stream": (GREETING + frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL),
    "sizes of the table": (GREETING + frame(HEADERS, END_HEADERS, 1, b"\x20" * 3 + HEAD), Code.COMPRESSION),
    "trailers of a call that was not begun": (GREETING + TRAILERS[:5] + number(2) + TRAILERS[9:], Code.PROTOCOL),
}
WRONGED = {
    "a second head": (head(1), Code.PROTOCOL),
    "trailers": (TRAILERS, Code.PROTOCOL),
    "data after the end": (frame(DATA, END, 1, MESSAGE) + frame(DATA, 0, 1, b"x"), Code.STREAM_CLOSED),
    "trailers after the end": (frame(DATA, END, 1, MESSAGE) + TRAILERS, Code.STREAM_CLOSED),
    "a stream's window of nothing": (frame(WINDOW, 0, 1, number(0)), Code.PROTOCOL),
    "a stream's window too large": (frame(WINDOW, 0, 1, number(2**31 - 1)), Code.FLOW_CONTROL),
    "a priority cut off": (frame(PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE),
}


async def test_who_breaks_the_protocol_is_told_how_and_parted_from_and_is_on_record():
    async with opened() as world:
        for name, (said, code) in BROKEN.items():
            count = len(world.events("refusal"))
            world.door._passages[Listener.INFERENCE]._last_full = -1  # one is recorded each second
            async with connected(world, said) as peer:
                assert await peer.parted() == code, name
                await peer.ended()
            refusals = world.events("refusal")[count:]
            assert [(one["rule"], one["listener"]) for one in refusals] == [("http2", "grpc-inference")], name
        await served(world)
        await until(lambda: world.door.stats().connections == 0)
    assert {path for path, _, _ in world.upstream.asked} <= {PREDICT}


async def test_what_is_wrong_with_one_call_ends_that_call_and_is_on_record():
    """RFC 9113 section 5.4.2: the other calls of the connection may be of others, whom a proxy speaks for."""
    async with opened() as world:
        for name, (said, code) in WRONGED.items():
            count = len(world.events("refusal"))
            world.door._passages[Listener.INFERENCE]._last_full = -1  # one is recorded each second
            async with connected(world, GREETING + head(1) + head(3) + said) as peer:
                assert await peer.until(RESET) == (1, number(code)), name
                # What was on its way when the stream ended is nothing new.
                peer.writer.write(frame(DATA, 0, 1, b"late") + frame(WINDOW, 0, 1, number(1)) + TRAILERS)
                peer.writer.write(frame(DATA, END, 3, MESSAGE))
                assert await peer.until(DATA) == (3, MESSAGE), name
            refusals = world.events("refusal")[count:]
            assert [(one["rule"], one["listener"]) for one in refusals] == [("http2", "grpc-inference")], name
        await until(lambda: world.door.stats().in_flight == 0)


async def test_trailers_behind_a_call_that_was_refused_already_are_nothing_new():
    unknown = field_block(list({**ASKING, b":path": b"/no/Such"}.items()))
    async with opened() as world:
        refused = frame(HEADERS, END_HEADERS, 1, unknown) + frame(DATA, 0, 1, MESSAGE) + TRAILERS
        async with connected(world, GREETING + refused + head(3) + frame(DATA, END, 3, MESSAGE)) as peer:
            assert await peer.until(DATA) == (3, MESSAGE)
            await peer.until(HEADERS, END)
            peer.writer.write(TRAILERS[:5] + number(3) + TRAILERS[9:])
            assert await peer.parted() == Code.PROTOCOL


async def test_calls_that_are_ended_for_what_is_wrong_with_them_are_not_many():
    """CVE-2025-8671: it costs a client as little to have us reset a stream as to reset it."""
    async with opened() as world:
        wrong = frame(WINDOW, 0, 1, number(0))
        flood = b"".join(head(stream) + wrong[:5] + number(stream) + wrong[9:] for stream in range(1, 6001, 2))
        async with connected(world, GREETING + flood) as peer:
            assert await peer.parted() == Code.CALM
        await served(world)


async def test_a_read_that_its_client_leaves_at_once_is_named_in_the_access_log_and_not_asked():
    path = messages.MANAGEMENT + "DescribeModel"
    block = field_block(list({**SAID, b":path": path.encode()}.items()))
    message = messages.request(path, model_name="noop")
    asked = frame(DATA, END, 1, b"\0" + len(message).to_bytes(4) + message)
    said = GREETING + frame(HEADERS, END_HEADERS, 1, block) + asked + frame(RESET, 0, 1, number(Code.CANCEL))
    async with opened() as world, connected(world, said, Listener.MANAGEMENT) as peer:
        peer.writer.write(frame(PING, 0, 0, bytes(8)))
        await peer.until(PING, ACK)
        (note,) = world.notes
        assert (note[5].operation.resource.name, note[9]) == ("noop", 499)
        await until(lambda: world.door.stats().in_flight == 0)
        await asyncio.sleep(0.05)
        assert world.upstream.asked == []


async def test_more_than_was_granted_ends_the_connection():
    """Over the stream's window, though each piece is taken: what TorchServe does not take is not granted anew."""
    async with opened(Limits(body=1 << 30)) as world:
        stuck = asyncio.Event()

        async def takes_nothing(context, received):
            await stuck.wait()

        world.upstream.behaviour = takes_nothing
        path = messages.INFERENCE + "StreamPredictions2"
        block = field_block(list({**ASKING, b":path": path.encode()}.items()))
        big = prediction(data=bytes(16_000))
        piece = frame(DATA, 0, 1, b"\0" + len(big).to_bytes(4) + big)
        async with connected(world, GREETING + frame(HEADERS, END_HEADERS, 1, block) + piece * 2000) as peer:
            assert await peer.parted() == Code.FLOW_CONTROL
        stuck.set()


async def flooded(world, said: bytes, times: int) -> int:
    """What a flood ends with."""
    async with connected(world) as peer:
        parted = asyncio.ensure_future(peer.parted())
        while times and not parted.done():
            peer.writer.write(said)
            await asyncio.sleep(0)
            times -= 1
        return await parted


@pytest.mark.parametrize(
    "said",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(PING, ACK, 0, bytes(8)),
        frame(SETTINGS, 0, 0, b""),
        frame(SETTINGS, 0, 0, setting(4, 65_535) * 100),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(0xEE, 0, 0, b""),
    ],
    ids=["ping", "pong", "settings", "many settings", "priority", "unknown"],
)
async def test_a_flood_of_what_carries_nothing_ends(said):
    async with opened() as world:
        memory = psutil.Process().memory_info().rss
        assert await flooded(world, said * 1000, 30) == Code.CALM
        assert psutil.Process().memory_info().rss - memory < 32 << 20
        await served(world)


async def test_a_flood_of_empty_data_ends():
    async with opened() as world:
        async with connected(world, GREETING + head(1) + frame(DATA, 0, 1, b"") * 20_000) as peer:
            assert await peer.parted() == Code.CALM
        await served(world)


async def test_streams_that_are_begun_to_be_reset_are_not_many():
    """CVE-2023-44487: each costs a client nothing; TorchServe must not be made to work for them."""
    async with opened() as world:
        asked = frame(DATA, END, 1, MESSAGE)
        flood = b"".join(
            head(number) + asked[:5] + number_of(number) + asked[9:] + frame(RESET, 0, number, (8).to_bytes(4))
            for number in range(1, 6001, 2)
        )
        async with connected(world, GREETING + flood) as peer:
            assert await peer.parted() == Code.CALM
        await served(world)
        assert len(world.upstream.asked) <= 1001


def number_of(stream: int) -> bytes:
    return stream.to_bytes(4)


async def test_more_streams_than_may_be_are_refused_and_the_others_are_served():
    async with opened() as world:
        numbers = range(1, 2 * 130, 2)
        async with connected(world, GREETING + b"".join(head(number) for number in numbers)) as peer:
            refused = [await peer.until(RESET) for _ in range(2)]
            assert refused == [(257, number(Code.REFUSED)), (259, number(Code.REFUSED))]
            peer.writer.write(frame(DATA, END, 1, MESSAGE))
            assert await peer.until(DATA) == (1, MESSAGE)


async def test_a_head_that_is_too_large_is_told_so_and_its_connection_lives():
    large = field_block([*ASKING.items(), *((b"x-%03d" % at, bytes(100).replace(b"\0", b"v")) for at in range(90))])
    many = field_block([*ASKING.items(), *((b"x-%03d" % at, b"") for at in range(100))])
    async with opened(Limits(head=8192)) as world:
        said = frame(HEADERS, END_HEADERS, 1, large) + frame(HEADERS, END_HEADERS, 3, many)
        async with connected(world, GREETING + said + head(5) + frame(DATA, END, 5, MESSAGE)) as peer:
            for stream in (1, 3):
                told, payload = await peer.until(HEADERS, END)
                assert told == stream
                assert b"grpc-status\x018" in payload
            assert await peer.until(DATA) == (5, MESSAGE)
        assert [one["rule"] for one in world.events("refusal")] == ["wire.metadata"] * 2


async def test_a_client_that_opens_no_window_holds_nobody_up_and_is_parted_from():
    async with opened(Limits(stall_time=1)) as world:
        closed = PREFACE + frame(SETTINGS, 0, 0, setting(4, 0))
        async with connected(world, closed + head(1) + frame(DATA, END, 1, MESSAGE)) as peer:
            stream, _ = await peer.until(HEADERS)
            assert stream == 1
            await served(world)
            assert await peer.until(RESET) == (1, number(Code.CANCEL))
        await until(lambda: world.door.stats().in_flight == 0)


async def test_an_answer_waits_for_its_window_and_comes_when_it_opens():
    async with opened() as world:
        closed = PREFACE + frame(SETTINGS, 0, 0, setting(4, 0))
        async with connected(world, closed + head(1) + frame(DATA, END, 1, MESSAGE)) as peer:
            await peer.until(HEADERS)
            said = b""
            for _ in range(len(MESSAGE)):
                peer.writer.write(frame(WINDOW, 0, 1, number(1)))
                stream, payload = await peer.until(DATA)
                assert (stream, len(payload)) == (1, 1)
                said += payload
            assert said == MESSAGE
            assert b"grpc-status\x010" in (await peer.until(HEADERS, END))[1]


@pytest.mark.parametrize(
    "said",
    [b"", PREFACE[:5], PREFACE, GREETING + frame(HEADERS, 0, 1, HEAD)],
    ids=["nothing", "part", "preface", "head"],
)
async def test_who_takes_too_long_for_a_beginning_is_parted_from(said):
    async with opened(Limits(head_time=1)) as world, connected(world, said) as peer:
        await peer.ended()
        assert [one["rule"] for one in world.events("refusal")] == ["proxy.time"]


async def test_who_says_nothing_for_long_is_bid_farewell():
    async with opened(Limits(idle_time=1)) as world, connected(world) as peer:
        assert await peer.parted() == Code.NONE
        await peer.ended()
        assert world.events("refusal") == []


async def test_a_call_whose_message_does_not_come_ends():
    """The library that was here before read the message itself, and waited for ever."""
    async with opened(Limits(stall_time=1)) as world, connected(world, GREETING + head(1)) as peer:
        _, payload = await peer.until(HEADERS, END)
        assert b"grpc-status\x014" in payload
        assert await peer.until(RESET) == (1, number(Code.NONE))
        assert [one["rule"] for one in world.events("refusal")] == ["proxy.time"]


async def test_a_message_that_comes_a_byte_at_a_time_does_not_hold_its_call_for_ever():
    async with opened(Limits(stall_time=1)) as world, connected(world, GREETING + head(1)) as peer:
        told = asyncio.ensure_future(peer.until(HEADERS, END))
        for byte in b"\0\0\1\0\0" + bytes(200):
            if told.done():
                break
            peer.writer.write(frame(DATA, 0, 1, bytes([byte])))
            await asyncio.sleep(0.1)
        assert b"grpc-status\x014" in (await told)[1]


async def test_a_time_beyond_all_is_a_time():
    async with opened() as world:
        for stream, (said, code) in enumerate((("99999999H", "0"), ("99999999n", "0"), ("0S", "4"), ("0n", "4"))):
            block = field_block([*ASKING.items(), (b"grpc-timeout", said.encode())])
            asked = frame(HEADERS, END_HEADERS, 1, block)
            async with connected(world, GREETING + asked) as peer:
                if code == "0":
                    peer.writer.write(frame(DATA, END, 1, MESSAGE))
                assert b"grpc-status\x01" + code.encode() in (await peer.until(HEADERS, END))[1], stream


async def test_who_is_bid_farewell_and_does_not_take_what_was_said_is_cut_off():
    async with opened(Limits(idle_time=1, stall_time=1)) as world, connected(world) as peer:
        peer.writer.transport.pause_reading()
        peer.writer.write(frame(PING, 0, 0, bytes(8)) * 2000)
        await until(lambda: world.door.stats().connections == 0)


async def test_a_client_that_asks_and_never_reads_fills_no_memory():
    async with opened(Limits(stall_time=2)) as world:

        async def floods(context, received):
            for _ in range(64):
                await context.write(bytes(1 << 20))

        world.upstream.behaviour = floods
        wide = PREFACE + frame(SETTINGS, 0, 0, setting(4, 2**31 - 1)) + frame(WINDOW, 0, 0, number(2**31 - 1 - 65_535))
        path = messages.INFERENCE + "StreamPredictions"
        block = field_block(list({**ASKING, b":path": path.encode()}.items()))
        memory = psutil.Process().memory_info().rss
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[Listener.INFERENCE], limit=1024)
        for stream in range(1, 40, 2):
            writer.write((wide if stream == 1 else b"") + frame(HEADERS, END_HEADERS, stream, block))
            writer.write(frame(DATA, END, stream, MESSAGE))
        await until(lambda: len(world.upstream.asked) == 20)
        await served_by(world)
        assert psutil.Process().memory_info().rss - memory < 64 << 20
        await until(lambda: world.door.stats().connections == 0)
        writer.transport.abort()
        del reader


async def served_by(world) -> None:
    """Management is another listener, with another connection to TorchServe."""
    async with world.channel(Listener.MANAGEMENT, max_receive_message_length=-1) as channel:
        call = channel.unary_unary(SCALE)(messages.request(SCALE, model_name="m"), metadata=MANAGE, timeout=10)
        with pytest.raises(aio.AioRpcError):
            await call  # the answer is 64 messages; what counts is that one came


async def test_calls_on_many_connections_at_once_come_back_to_who_asked():
    async with opened() as world:

        async def ask(at: int) -> None:
            async with world.channel() as channel:
                ask = channel.unary_unary(PREDICT)
                said = [prediction(data=b"%d %d" % (at, number)) for number in range(50)]
                assert await asyncio.gather(*(ask(one, metadata=INFER, timeout=30) for one in said)) == said

        await asyncio.gather(*(ask(at) for at in range(8)))
        assert world.door.stats().served == 400


NOBODY = field_block([(name, value) for name, value in ASKING.items() if name != b"authorization"])


async def test_who_asks_and_does_not_take_the_answers_is_not_listened_to():
    """Each call costs a client some ten bytes once the table is warm, its refusal two hundred (CVE-2019-9514)."""
    async with opened(Limits(stall_time=2)) as world, connected(world) as peer:
        peer.writer.transport.pause_reading()
        (client,) = await the_clients(world)
        most, stream = 0, 1
        while world.door.stats().connections:
            calls = range(stream, stream + 200, 2)
            stream += 200
            peer.writer.write(b"".join(frame(HEADERS, END_HEADERS | END, number, NOBODY) for number in calls))
            most = max(most, client._transport.get_write_buffer_size())
            waiting = peer.writer.transport.get_write_buffer_size()
            await asyncio.sleep(0.05 if waiting > 1 << 20 else 0)
            while client._behind and not client._deaf:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0)  # else there are more than may be at once, which ends the connection
        assert 256 << 10 < most < 1 << 20


async def the_clients(world):
    await until(lambda: world.door.stats().connections > 0)
    return tuple(world.door._crowd.connections)


async def test_more_calls_than_may_be_are_refused_though_each_ends_at_once():
    """A client that has heard of no end cannot have begun so many; what it could have the guard do in one turn ends."""
    said = [frame(HEADERS, END_HEADERS | END, number, NOBODY) for number in range(1, 400, 2)]
    async with opened() as world, connected(world, GREETING + b"".join(said)) as peer:
        assert (await peer.until(RESET)) == (2 * 128 + 1, number(Code.REFUSED))
        assert len([one for one in world.notes if one[9] == 401]) == 128
    async with opened() as world, connected(world, GREETING + b"".join(said)) as peer:
        many = [frame(HEADERS, END_HEADERS | END, number, NOBODY) for number in range(401, 6000, 2)]
        peer.writer.write(b"".join(many))
        assert await peer.parted() == Code.CALM


async def test_calls_that_a_client_has_the_guard_give_up_are_not_many():
    """CVE-2025-8671: it resets nothing itself, but says what must be refused when TorchServe is at work already."""
    async with opened() as world, connected(world) as peer:

        async def works(context, received):
            await asyncio.Event().wait()

        world.upstream.behaviour = works
        block = field_block(list({**ASKING, b":path": CONVERSE.encode()}.items()))
        parted = asyncio.ensure_future(peer.parted())
        for stream in range(1, 100_000, 2):
            if parted.done():
                break
            said = frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, 0, stream, MESSAGE)
            peer.writer.write(said + frame(DATA, END, stream, b"\0\0\0\0\1\xff"))
            await asyncio.sleep(0)
            await peer.writer.drain()
        assert await parted == Code.CALM
        assert stream < 2 * 20_000


async def test_messages_that_unpack_to_what_memory_cannot_hold_end_their_calls(monkeypatch):
    """Each within its limit, a hundredth of it as it comes, again and again: TorchServe takes none of them."""
    packed = gzip.compress(prediction(data=bytes(4 << 20)))
    packed = b"\1" + len(packed).to_bytes(4) + packed
    block = field_block([*{**ASKING, b":path": CONVERSE.encode()}.items(), (b"grpc-encoding", b"gzip")])
    async with opened(Limits(body=5 << 20)) as world, connected(world) as peer:
        stuck = asyncio.Event()

        async def takes_nothing(context, received):
            await stuck.wait()

        world.upstream.behaviour = takes_nothing
        passage = world.door._passages[Listener.INFERENCE]
        passage._most_held = 32 << 20
        memory = psutil.Process().memory_info().rss
        said = b"".join(frame(DATA, 0, 1, packed[at : at + 16_000]) for at in range(0, len(packed), 16_000))
        peer.writer.write(frame(HEADERS, END_HEADERS, 1, block) + said * 30)
        assert b"grpc-status\x018" in (await peer.until(HEADERS, END))[1]
        assert psutil.Process().memory_info().rss - memory < 128 << 20
        await until(lambda: passage.calls == 0)
        assert passage._held == 0
        stuck.set()
        await served_again(world)


async def served_again(world) -> None:
    world.upstream.behaviour = world.upstream.echo
    await served(world)


async def test_a_body_is_as_long_as_was_said():
    """RFC 9113 section 8.1.1."""
    async with opened() as world, connected(world) as peer:
        for stream, length, code in ((1, len(MESSAGE), b"0"), (3, len(MESSAGE) - 1, b"3"), (5, len(MESSAGE) + 1, b"3")):
            block = field_block([*ASKING.items(), (b"content-length", b"%d" % length)])
            said = frame(DATA, END | PADDED, stream, b"\x03" + MESSAGE + bytes(3))
            peer.writer.write(frame(HEADERS, END_HEADERS, stream, block) + said)
            told, payload = await peer.until(HEADERS, END)
            assert told == stream
            assert b"grpc-status\x01" + code in payload
        assert len(world.upstream.asked) == 1


async def test_a_deadline_of_no_time_ends_its_call_and_no_other():
    """uvloop's timer of less than half a millisecond is none: asked when it is due, it had no answer."""
    async with opened() as world, connected(world, GREETING + head(1)) as peer:
        block = field_block([*ASKING.items(), (b"grpc-timeout", b"1n")])
        peer.writer.write(frame(HEADERS, END_HEADERS, 3, block) + frame(DATA, END, 3, MESSAGE))
        told, payload = await peer.until(HEADERS, END)
        assert told == 3
        assert b"grpc-status\x014" in payload
        peer.writer.write(frame(DATA, END, 1, MESSAGE))
        assert await peer.until(DATA) == (1, MESSAGE)


async def aborted(world, chance: random.Random) -> None:
    """One connection, and a call of any kind on it that ends in any way."""
    kind = chance.choice((PREDICT, CONVERSE, messages.INFERENCE + "StreamPredictions"))
    more = chance.choice(([], [(b"grpc-timeout", b"%dm" % chance.randrange(20))]))
    block = field_block([*{**ASKING, b":path": kind.encode()}.items(), *more])
    async with connected(world) as peer:
        for stream in (1, 3):
            cut = chance.randrange(len(MESSAGE) + 1)
            pieces = [
                frame(HEADERS, END_HEADERS, stream, block),
                frame(DATA, 0, stream, MESSAGE[:cut]),
                frame(DATA, chance.choice((0, END)), stream, MESSAGE[cut:]),
                frame(RESET, 0, stream, number(8)),
            ]
            for piece in pieces[: chance.randrange(1, 5)]:
                peer.writer.write(piece)
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() / 100)
        if chance.random() < 0.2:
            peer.writer.write(frame(PUSH, 0, 0, b""))
            await peer.ended()


async def test_a_thousand_calls_that_end_in_any_way_leave_nothing_behind():
    chance = random.Random(7)  # noqa: S311 - for variety, not for secrets
    async with opened(turns=Turns(4, 100, 5.0)) as world:

        async def dawdles(context, received):
            received.append(await context.read())
            await context.write(received[0])
            await asyncio.sleep(chance.random() / 50)
            await context.write(bytes(100_000))

        world.upstream.behaviour = dawdles
        for _ in range(25):
            await asyncio.gather(*(aborted(world, chance) for _ in range(20)))
        passage = world.door._passages[Listener.INFERENCE]
        await until(lambda: world.door.stats().connections == world.door.stats().in_flight == 0)
        assert (passage._held, passage.present, world.turns.counts()) == (0, 0, (0, 0))
        assert passage.upstream._waiting == {}
        link = passage.upstream._link
        assert link is None or (link.streams, link._waiting) == ({}, {})
        await until(lambda: world.upstream.finished == len(world.upstream.asked))
        await served_again(world)


async def test_all_who_wait_for_a_turn_are_told_when_the_door_closes():
    """Each who is told gives its turn to the next: three hundred in a row are not three hundred deep."""
    async with opened(turns=Turns(1, 400, 60.0)) as world:
        stuck = asyncio.Event()

        async def works(context, received):
            await stuck.wait()

        world.upstream.behaviour = works
        peers = []
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", world.ports[Listener.INFERENCE])
            asked = [head(stream) + frame(DATA, END, stream, MESSAGE) for stream in range(1, 201, 2)]
            writer.write(GREETING + b"".join(asked))
            peers.append(writer)
        await until(lambda: world.turns.counts() == (1, 299))
        await world.door._passages[Listener.INFERENCE].upstream.close()
        await until(lambda: world.turns.counts() == (0, 0))
        assert world.door.stats().upstream_failures == 300
        for writer in peers:
            writer.transport.abort()
        stuck.set()
