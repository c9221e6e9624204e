"""A connection: two ends of ours talk to each other, however what they say is cut up."""

import contextlib
import math
from collections import defaultdict

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.http2 import Broken, Code, Connection, Rules, encoded

HEAD = encoded(((b":path", b"/x"),))
LAST = encoded(((b"grpc-status", b"0"),))


class Side(Connection):
    """One end, which keeps what it hears; a server answers each body with the same body."""

    def __init__(self, *, server, rules=Rules()):
        super().__init__(rules, server=server)
        self.bodies = defaultdict(bytes)
        self.heads = []
        self.resets = []
        self.farewell = None
        self.drains = 0
        self.introduce()

    def understood(self, fields):
        return fields

    def headed(self, stream, number, head, ended):
        self.heads.append((number, head, ended))
        if stream is None:
            owner = Owner(self, number)
            owner.stream = self.accept(number, owner, ended)

    def wake(self):
        pass

    def left_by_peer(self, last):
        self.farewell = last

    def flushed(self) -> bytes:
        said, self.out = b"".join(self.out), []
        return said


class Owner:
    def __init__(self, side, number):
        self.side, self.number, self.stream = side, number, None

    def data(self, payload, ended):
        self.side.bodies[self.number] += payload
        self.side.grant(self.stream)
        if ended and self.side._server:
            self.side.send_head(self.stream, HEAD)
            self.side.send(self.stream, self.side.bodies[self.number])
            self.side.finish(self.stream, LAST)

    def drained(self):
        self.side.drains += 1

    def reset(self, code):
        self.side.resets.append((self.number, code))


def begun(client, body, pieces=1):
    owner = Owner(client, client._latest + 2 if client._latest else 1)
    owner.stream = client.begin(owner, HEAD)
    size = max(1, -(-len(body) // pieces))
    for at in range(0, max(1, len(body)), size):
        client.send(owner.stream, body[at : at + size], at + size >= len(body))
    return owner


def talk(client, server, size=1 << 30):
    """Carry what is said until nobody says anything."""
    while True:
        there, back = client.flushed(), server.flushed()
        if not there and not back:
            return
        for said, to in ((there, server), (back, client)):
            for at in range(0, len(said), size):
                to.feed(said[at : at + size])


@given(
    st.lists(st.tuples(st.integers(0, 700_000), st.integers(1, 5)), min_size=1, max_size=4),
    st.sampled_from([7, 1000, 16_384, 1 << 20]),
)
def test_bodies_of_any_size_come_and_go_whole_through_every_window(bodies, size):
    if size == 7:
        bodies = [(length % 2000, pieces) for length, pieces in bodies]
    client, server = Side(server=False), Side(server=True)
    said = {}
    for length, pieces in bodies:
        owner = begun(client, bytes([length % 256]) * length, pieces)
        said[owner.number] = bytes([length % 256]) * length
    talk(client, server, size)
    assert dict(client.bodies) | {number: b"" for number in said if not said[number]} == said
    assert client.streams == server.streams == {}
    assert all(ended for _, head, ended in client.heads if (b"grpc-status", b"0") in head)
    assert client.resets == server.resets == []


def test_what_is_not_granted_waits_and_the_owner_is_told_when_it_is_gone():
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    owner = begun(client, bytes(1 << 20))
    server.grant = lambda _stream: None
    talk(client, server)
    assert len(server.bodies[1]) == 1 << 18
    assert sum(map(len, owner.stream.pending)) == (1 << 20) - (1 << 18)
    del server.grant
    server.grant(server.streams[1])
    talk(client, server)
    assert len(client.bodies[1]) == 1 << 20


def test_nothing_of_a_body_is_said_while_the_transport_takes_no_more():
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    client.choked = True
    begun(client, bytes(1000))
    talk(client, server)
    assert server.bodies[1] == b""
    client.taking()
    talk(client, server)
    assert client.bodies[1] == bytes(1000)


def test_a_stream_that_is_given_up_is_forgotten_on_both_ends_and_what_comes_late_does_no_harm():
    client, server = Side(server=False), Side(server=True)
    owner = begun(client, b"half", 1)
    late = begun(client, bytes(100))
    client.reset(owner.stream, Code.CANCEL)
    client.reset(owner.stream, Code.CANCEL)
    talk(client, server)
    assert client.streams == server.streams == {}
    assert client.bodies == {late.number: bytes(100)}


def test_an_answer_before_the_end_of_a_request_ends_the_request():
    client, server = Side(server=False), Side(server=True)
    owner = Owner(client, 1)
    owner.stream = client.begin(owner, HEAD)
    talk(client, server)
    server.finish(server.streams[1], LAST)
    assert server.streams == {}
    talk(client, server)
    assert client.heads[-1] == (1, ((b"grpc-status", b"0"),), True)
    assert client.streams == {}
    client.send(owner.stream, b"late")  # the owner has not looked yet


def test_the_same_block_is_read_once_and_anew_when_the_table_has_changed():
    server = Side(server=True)
    client = Side(server=False)
    read = []
    begun(client, b"the first block changes the table")
    talk(client, server)
    server.understood = lambda fields: read.append(fields) or fields
    for _ in range(2):
        begun(client, b"x")
    talk(client, server)
    assert len(read) == 1
    indexed = b"\x3f\xe1\x1f" + b"\x40\x01a\x01b"  # a table of 4096 bytes again, and a field for it
    for number, block in ((7, indexed), (9, b"\xbe"), (11, b"\xbe"), (13, b"\x40\x01a\x01c"), (15, b"\xbe")):
        server.feed(len(block).to_bytes(3) + bytes([1, 5]) + number.to_bytes(4) + block)
    heads = {number: head for number, head, _ in server.heads}
    assert heads[9] == heads[11] == ((b"a", b"b"),)
    assert heads[15] == ((b"a", b"c"),)
    assert len(read) == 1 + 4


@pytest.mark.parametrize("size", [1, 3, 9, 100])
def test_a_long_header_block_is_carried_in_several_frames(size):
    client, server = Side(server=False), Side(server=True, rules=Rules(block=1 << 17, fields=1 << 17))
    block = encoded(((b":path", b"/x"), (b"long", b"v" * 40_000)))
    owner = Owner(client, 1)
    owner.stream = client.begin(owner, block)
    said = client.flushed()
    for at in range(0, len(said), size):
        server.feed(said[at : at + size])
    assert server.heads == [(1, ((b":path", b"/x"), (b"long", b"v" * 40_000)), False)]


@given(st.binary(max_size=400))
def test_bytes_of_any_kind_are_frames_or_end_the_connection(said):
    client, server = Side(server=False), Side(server=True)
    server.feed(client.flushed())
    with contextlib.suppress(Broken):
        server.feed(said)


def heads(said):
    """The header blocks in what is said, each of one frame."""
    while said:
        end = 9 + int.from_bytes(said[:3])
        if said[3] == 1:
            yield said[9:end]
        said = said[end:]


@pytest.mark.parametrize("sizes", [(0,), (0, 4096), (4096, 100), (0, 1 << 16)])
def test_a_client_that_makes_its_table_smaller_reads_all_answers(sizes):
    """RFC 9113 section 4.3.1. hyper's `hpack` refuses what goes on with a larger table, as nghttp2 and Netty do."""
    client, server, reader = Side(server=False), Side(server=True), hpack.Decoder()
    talk(client, server)
    server.feed(spoken(4, 0, b"".join(told(1, size) for size in sizes)))
    reader.max_allowed_table_size = min(sizes)
    for _ in range(3):
        begun(client, b"x")
        server.feed(client.flushed())
        said = [reader.decode(block, raw=True) for block in heads(server.flushed())]
        assert [tuple(map(tuple, fields)) for fields in said] == [((b":path", b"/x"),), ((b"grpc-status", b"0"),)]


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "idle"])
def test_a_priority_of_another_size_ends_the_connection_when_there_is_no_stream_to_end(ended):
    """RFC 9113 sections 6.3 and 5.4.1."""
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    if ended:
        begun(client, b"x")
        talk(client, server)
        assert not server.streams
    with pytest.raises(Broken) as caught:
        server.feed(spoken(2, 1, bytes(4)))
    assert caught.value.code is Code.FRAME_SIZE


def test_a_priority_of_another_size_ends_the_stream_that_it_is_of():
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    for _ in range(2):
        owner = Owner(client, client._latest + 2 if client._latest else 1)
        owner.stream = client.begin(owner, HEAD)
    talk(client, server)
    for _ in range(2):
        server.feed(spoken(2, 1, bytes(6)))  # the second was on its way when the stream ended
    talk(client, server)
    assert client.resets == [(1, Code.FRAME_SIZE)]
    assert list(server.streams) == [3]


def test_a_farewell_is_heard():
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    server.leave(Code.NONE)
    talk(client, server)
    assert client.farewell == 0


def spoken(kind, stream, payload, flags=0):
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def told(name, value):
    return name.to_bytes(2) + value.to_bytes(4)


def stuck(count, conn=0):
    """A server with answers on streams whose windows are shut; the connection's own has `conn` more bytes."""
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    server.feed(spoken(4, 0, told(4, 0)))
    for _ in range(count):
        begun(client, bytes(10))
    server.feed(client.flushed())
    if conn:
        server.feed(spoken(8, 0, conn.to_bytes(4)))
    server.flushed()
    return server


def looked_at(server, said):
    """How many streams are looked at for what is said."""
    pump, looks = server._pump, []
    server._pump = lambda stream: looks.append(stream) or pump(stream)
    server.feed(said)
    return len(looks)


def test_a_window_that_all_share_opens_nothing_for_streams_that_wait_for_their_own():
    """13 bytes that have 128 streams looked at are an attack: there are 100,000 such frames in a megabyte."""
    server = stuck(100)
    assert looked_at(server, spoken(8, 0, (1).to_bytes(4)) * 1000) == 0
    assert looked_at(server, spoken(8, 1, (1).to_bytes(4)) * 10) == 10


def test_what_a_shared_window_has_no_room_for_is_not_looked_at():
    server = stuck(100)
    server.window = 0
    server.feed(spoken(4, 0, told(4, 5)))
    assert len(server._waiting) == 100
    assert looked_at(server, spoken(8, 0, (1).to_bytes(4)) * 50) == 50
    assert looked_at(server, spoken(8, 0, (1000).to_bytes(4))) == 100
    assert server._waiting == {}


def test_one_frame_of_thousands_of_windows_moves_each_stream_once():
    server = stuck(100)
    looks = looked_at(server, spoken(4, 0, (told(4, 0) + told(4, 1)) * 1000))
    assert looks == 100
    assert {stream.window for stream in server.streams.values()} == {0}
    with pytest.raises(Broken) as caught:
        server.feed(spoken(4, 0, told(4, 1) * 2700) * 4)
    assert caught.value.code is Code.CALM


def test_a_window_may_be_below_nothing_and_opens_when_it_is_above():
    """RFC 9113 section 6.9.2."""
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    owner = Owner(client, 1)
    owner.stream = client.begin(owner, HEAD)
    client.send(owner.stream, bytes(70_000))
    talk(client, server)
    client.feed(spoken(4, 0, told(4, 0)))
    assert owner.stream.window < 0
    client.send(owner.stream, b"more")
    server.feed(client.flushed())
    assert len(server.bodies[1]) == 70_000
    client.feed(spoken(8, 1, (70_000).to_bytes(4)))
    assert client.flushed() == b""
    client.feed(spoken(8, 1, (4).to_bytes(4)))
    server.feed(client.flushed())
    assert len(server.bodies[1]) == 70_004


def test_torchserve_may_say_what_carries_nothing_for_ever():
    """A Java server probes the bandwidth with PING, about one for each half a megabyte."""
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    for _ in range(30):
        client.feed(spoken(6, 0, bytes(8)) * 1000)
    for _ in range(2000):
        owner = begun(client, b"x")
        client.feed(spoken(3, owner.number, bytes(4)))
    assert len(client.resets) == 2000
    with pytest.raises(Broken):
        server.feed(spoken(6, 0, bytes(8)) * 30_000)


def test_what_was_waiting_is_not_said_when_all_is_forgotten():
    server = stuck(3)
    server.choked = True
    server.feed(spoken(4, 0, told(4, 100)))
    server.forget_all()
    server.flushed()
    server.taking()
    assert server.out == []


def served():
    """A server that has heard the beginning of stream 1."""
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    server.feed(spoken(1, 1, HEAD, 4))
    return server


def frames_until_broken(server, said, most=60_000):
    """How often it may be said on stream 1, with room for all of it."""
    stream = server.streams[1]
    stream.left, stream.owner.data = 1 << 30, lambda _payload, _ended: None
    server.patience._talk = 0  # of the introduction
    for times in range(most):
        try:
            server.feed(said)
        except Broken as error:
            return times if error.code is Code.CALM else error
        server.flushed()
    return None


def test_when_there_is_no_time_one_frame_is_heard_and_the_rest_is_kept_in_its_order():
    server = served()
    said = b"".join(spoken(0, 1, bytes([at])) for at in range(5)) + spoken(0, 1, b"whole")[:-1]
    for heard in range(1, 5):
        assert server.feed(said if heard == 1 else b"", 0)
        assert server.bodies[1] == bytes(range(heard))
    while server.feed(b"", 0):
        pass
    assert server.bodies[1] == bytes(range(5))
    assert server.partial
    assert not server.feed(b"e", 0)
    assert server.bodies[1] == bytes(range(5)) + b"whole"
    assert not server.partial
    assert not server.feed(b"", 0)


def test_what_comes_while_something_is_kept_is_heard_behind_it():
    server = served()
    assert server.feed(spoken(0, 1, b"a") + spoken(0, 1, b"b") + spoken(0, 1, b"cd")[:-1], 0)
    assert server.feed(b"d" + spoken(0, 1, b"e"), 0)
    assert not server.feed(b"")
    assert server.bodies[1] == b"abcde"


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=30),
    st.integers(1, 400),
    st.lists(st.booleans(), min_size=1, max_size=20),
)
def test_in_turns_however_cut_the_same_is_heard(pieces, size, timed):
    server = served()
    said = b"".join(spoken(0, 1, piece) for piece in pieces)
    for number, at in enumerate(range(0, len(said), size)):
        server.feed(said[at : at + size], 0 if timed[number % len(timed)] else math.inf)
    while server.feed(b"", 0):
        pass
    assert server.bodies[1] == b"".join(pieces)
    assert not server.partial


def test_a_breach_leaves_nothing_in_memory():
    server = served()
    with pytest.raises(Broken):
        server.feed(spoken(5, 1, b"") + bytes(100_000))
    assert not server.partial


def test_pieces_of_a_byte_are_counted_and_a_few_are_not():
    assert frames_until_broken(served(), spoken(0, 1, b"x")) == 16 + 10_000
    # Padding carries nothing either.
    assert frames_until_broken(served(), spoken(0, 1, b"\xc8x" + bytes(200), flags=8)) is not None


def test_pieces_that_carry_something_make_up_for_some_that_do_not():
    """A proxy passes on what it reads: the last piece of each read may be a byte."""
    mixed = spoken(0, 1, bytes(1000)) + spoken(0, 1, b"x")
    assert frames_until_broken(served(), mixed, 20_000) is None
    assert frames_until_broken(served(), mixed + spoken(0, 1, b"x")) == 5000 + 15


def test_bodies_of_a_few_bytes_are_no_flood():
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    for _ in range(6000):
        begun(client, b"xyz", 3)
        talk(client, server)
    assert server.streams == {}
    assert server.patience._talk < 10


def test_windows_opened_for_nothing_end_the_connection_and_those_for_what_was_sent_do_not():
    for stream in (0, 1):
        assert frames_until_broken(served(), spoken(8, stream, (1).to_bytes(4))) == 10_000 + 4
    server = served()
    stream = server.streams[1]
    for _ in range(20_000):
        server.send(stream, b"tiny")
        for number in (0, 1):
            server.feed(spoken(8, number, (4).to_bytes(4)))
        server.flushed()


def test_windows_of_a_byte_earn_nothing():
    """Each would have us send a byte, and earn the next."""
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    server.feed(spoken(4, 0, told(4, 0)) + spoken(1, 1, HEAD, 4))
    server.send(server.streams[1], bytes(1 << 17))
    assert frames_until_broken(server, spoken(8, 1, (1).to_bytes(4))) == 10_000 + 4
    assert server.streams[1].waiting == (1 << 17) - 10_004


def test_large_heads_count_as_streams_that_are_given_up():
    small = encoded(((b":path", b"/x"), (b"a", b"v" * 8000)))
    as_said = encoded(((b":path", b"/x"), (b"a", b"v" * 8200)))
    # A name of 4000 bytes in the table, and three of it in as many bytes.
    unpacked = b"\x40" + encoded(((b"n" * 4000, b""),))[1:] + b"\xbe" * 2
    for block, ends in ((small, False), (as_said, True), (unpacked, True)):
        client, server = Side(server=False), Side(server=True)
        talk(client, server)
        said = b"".join(spoken(1, number, block, 5) for number in range(1, 2300, 2))
        if ends:
            with pytest.raises(Broken) as caught:
                server.feed(said)
            assert caught.value.code is Code.CALM
            assert len(server.heads) == 1000
        else:
            server.feed(said)
            assert len(server.heads) == 1150


def test_a_large_head_that_is_short_to_say_is_counted_each_time():
    client, server = Side(server=False), Side(server=True)
    talk(client, server)
    server.feed(spoken(1, 1, b"\x40" + encoded(((b"n" * 4000, b""),))[1:], 5))
    with pytest.raises(Broken):
        server.feed(b"".join(spoken(1, number, b"\xbe" * 3, 5) for number in range(3, 2300, 2)))
