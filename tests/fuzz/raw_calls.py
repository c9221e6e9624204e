"""Raw calls, drawn from a seed: what a connection says that is HTTP/2 and gRPC, and most of it a little wrong.

A conversation is some calls, their frames interleaved. The path, the head, the message and its framing of a call are
bent each on its own; between the frames stands what a connection may say, or may not. A conversation is `sound` while
all that is wrong in it is one call's: then the other calls are answered.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import hpack
import messages
from fuzz.grpc_tap import (
    ACK,
    CONTINUATION,
    DATA,
    END,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH,
    RESET,
    SETTINGS,
    WINDOW,
)  # fmt: skip

LISTENERS = ("inference", "management")
LAST_PING = b"the last"
LARGEST = 200_000
"""What `max_request_size` is set to."""

I, O, M = messages.INFERENCE, messages.OPEN_INFERENCE, messages.MANAGEMENT  # noqa: E741
PREDICT, STREAM, CONVERSE, LIST = I + "Predictions", I + "StreamPredictions", I + "StreamPredictions2", M + "ListModels"
PATHS = (
    PREDICT, PREDICT, PREDICT, STREAM, CONVERSE, I + "Ping", O + "ServerLive", O + "ServerReady", O + "ServerMetadata",
    O + "ModelReady", O + "ModelMetadata", O + "ModelInfer",
)  # fmt: skip
CHANGES = tuple(M + name for name in ("RegisterModel", "UnregisterModel", "ScaleWorker", "SetDefault"))
MANAGED = (LIST, LIST, M + "DescribeModel", M + "DescribeModel", *CHANGES)
ELSEWHERE = (
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/grpc.health.v1.Health/Check", "*", "", "/",
    "/InferenceAPIsService/Predictions", "/org.pytorch.serve.grpc.inference.InferenceAPIsService/RegisterModel",
    "/org.pytorch.serve.grpc.management.ManagementAPIsService/Predictions", "/models?url=noop.mar", "/predictions/noop",
)  # fmt: skip
PREFIXES = ("/", "//", "/.", "/x/..", "http://h", "h", "%2f", " ", "/%2e%2e")
SUFFIXES = ("/", "?x=1", "#f", "%00", " ", ";a", "//", "/..", "\x80", "\n", "?url=noop.mar", "A" * 3000)
MODELS = ("noop", "noop", "mirror", "absent")
# TorchServe loses the worker of a model that answers StreamPredictions in one piece, or ModelInfer in other JSON than
# KServe's: GRPCJob.response throws. So these are asked of a model that answers in pieces, unbent, or of none.
FITTING = {STREAM: ("counting", "absent"), O + "ModelInfer": ("absent",)}
ODD_MODELS = (
    "NOOP", "noop/../mirror", "noop%2f", "no op", "", "tokenizer", "noop\n", "noop\0", "../noop", "noop.mar", "é",
    "a" * 300,
)  # fmt: skip
VERSIONS = (b"", b"", b"", b"1.0", b"2.0", b"3.0", b"1.0/..", b"all", b"\xff")
CONTENT = (
    b"application/grpc+proto", b"application/grpc; a=b", b"application/grpc+json", b"application/grpc-web",
    b"text/html",
    b"application/json", b"APPLICATION/GRPC", b"", b"application/grpcx", b"application/grpc\0",
)  # fmt: skip
TE = (b"trailers, deflate", b"Trailers", b"gzip", b"", b"trailers;q=1")
TIMEOUTS = (b"1n", b"0S", b"99999999H", b"30S", b"5000m", b"-1S", b"1", b"S", b"999999999S", b"1S ", b"1.5S", b"20m")
ENCODINGS = (b"gzip", b"deflate", b"identity", b"snappy", b"", b"gzip, gzip")
MORE = (
    (b"authorization", b"Bearer x"), (b"authorization", b"Basic Og=="), (b"authorization", b""),
    (b"connection", b"close"), (b"transfer-encoding", b"chunked"), (b"upgrade", b"h2c"), (b"host", b"evil"),
    (b"keep-alive", b"5"), (b"proxy-connection", b"x"), (b"http2-settings", b"AAMAAABk"), (b"te", b"trailers"),
    (b"x-http-method-override", b"DELETE"), (b"x-request-id", b"mine"), (b"x-request-id", b"a b"),
    (b"origin", b"http://e"),
    (b"X-Upper", b"y"), (b"x-null", b"a\0b"), (b"x-line", b"a\r\nb: c"), (b"x-high", b"\xff"), (b"", b"empty"),
    (b"x name", b"y"), (b"x-long", b"v" * 3000), (b"x-data-bin", b"AAAA"), (b"cookie", b"a=b"), (b"content-type", b"x"),
    (b"grpc-accept-encoding", b"gzip"), (b"grpc-status", b"0"), (b"grpc-message", b"x"), (b":status", b"200"),
    (b":path", b"/x"), (b":method", b"POST"), (b":authority", b"x"), (b":protocol", b"websocket"), (b":unknown", b"x"),
    (b":", b"x"), (b"content-length", b"5"), (b"content-length", b"-1"), (b"content-length", b"9" * 30),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), (b"expect", b"100-continue"),
    (b"grpc-timeout", b"1S"), (b"grpc-encoding", b"gzip"), (b"user-agent", b"fuzz"), (b"priority", b"u=1"),
)  # fmt: skip
METHODS = (b"GET", b"PUT", b"post", b"CONNECT", b"OPTIONS", b"", b"POST ", b"PRI")
SCHEMES = (b"https", b"HTTP", b"ftp", b"", b"http:")


@dataclass
class Asked:
    """One call as it is to be said: its head, and the frames behind it. `due` says that it must be answered."""

    id: str
    fields: list[tuple[bytes, bytes]]
    rest: list[tuple[int, int, bytes]]
    due: bool
    echo: bool = False


@dataclass(frozen=True)
class Conversation:
    """What one connection says, in pieces, and which of its calls must be answered, and which with what they said.

    `whole` says that its frames are frames: it ends with a PING that is answered, or with the connection's end.
    """

    listener: str
    pieces: tuple[bytes, ...]
    sound: bool
    whole: bool
    calls: dict[int, str] = field(default_factory=dict)
    due: frozenset[int] = frozenset()
    echoes: frozenset[int] = frozenset()


def varint(number: int) -> bytes:
    number %= 1 << 64
    said = bytearray()
    while number > 0x7F:
        said.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*said, number])


def text(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def prefixed(message: bytes, flag: int = 0, size: int | None = None) -> bytes:
    return bytes([flag]) + (len(message) if size is None else size).to_bytes(4) + message


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


HIDDEN = (text(9, b"noop.mar"), text(1, b"noop") + integer(3, 0) + integer(4, 0), text(1, b"noop") + text(2, b"2.0"))
# What is wrong with one stream alone, while its client has not said all: frames behind its last.
LITERAL = b"\x00\x01x\x01y"
WRONGED = (
    ((HEADERS, END_HEADERS | END, LITERAL),), ((HEADERS, END_HEADERS, LITERAL),), ((WINDOW, 0, bytes(4)),),
    ((WINDOW, 0, (2**31 - 1).to_bytes(4)),) * 2, ((PRIORITY, 0, b"abc"),),
    ((HEADERS, END_HEADERS | END, LITERAL), (DATA, 0, b"x"), (HEADERS, END_HEADERS | END, LITERAL)),
)  # fmt: skip
UNKNOWN = (
    integer(15, 1), text(9, b"noop.mar"), text(2000, b"x"), b"\x0b\x0c", b"\x3d\0\0\0\0", b"\x39" + bytes(8),
    integer(1, 5),
    text(3, b"\xff\xff"), b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x8a\x00\x01x",
    b"\xff\xff\xff\xff\x0f", b"\0\0",
)  # fmt: skip


BAD_BLOCKS = (
    b"\x80", b"\xff\xff\xff\xff\xff\xff", b"\xbe", b"\x40\x05ab", b"\x00\x81\xff\x00", b"\x20\x20\x20\x82",
    b"\x3f\xff\xff\x7f",
)  # fmt: skip
STARTS = (b"GET /models HTTP/1.1\r\nHost: g\r\n\r\n", b"\x16\x03\x01\x02\0\1", PREFACE[:9])


class Draw:
    """A stream of conversations, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - drawn again from the same seed
        self._count = 0
        self._seed = seed

    def conversation(self) -> Conversation:
        """Return what one connection says."""
        self._count += 1
        listener = self._random.choices(LISTENERS, (65, 35))[0]
        calls = [self._call(listener, at) for at in range(self._random.choices((1, 2, 3, 6), (30, 30, 25, 15))[0])]
        said, numbers = self._interleaved(calls)
        sound = not self._often(0.15)
        if not sound:
            for _ in range(self._random.choices((1, 2), (80, 20))[0]):
                said.insert(self._random.randint(0, len(said)), self._breach(list(numbers)))
        greeting, opening = self._greeting()
        data = greeting + b"".join(said) + opening + frame(PING, 0, 0, LAST_PING)
        whole = not self._often(0.1)
        if not whole:
            sound, data = False, self._garbled(data)
        return Conversation(
            listener,
            self._cut(data),
            sound,
            whole,
            {number: one.id for number, one in numbers.items()},
            frozenset(number for number, one in numbers.items() if one.due),
            frozenset(number for number, one in numbers.items() if one.echo),
        )

    # --- a call -----------------------------------------------------------------------------------------------------

    def _call(self, listener: str, at: int) -> Asked:
        name = f"f{self._seed}-{self._count}-{at}"
        if self._often(0.35):
            path, body = (PREDICT, self._predict(name, "noop", b"")) if listener == "inference" else (LIST, b"")
            *pieces, last = self._pieces(prefixed(body))
            rest = [*((DATA, 0, piece) for piece in pieces), (DATA, END, last)]
            return Asked(name, _head(name, path), rest, due=True, echo=listener == "inference")
        path = self._random.choice((PATHS, MANAGED)[self._often(0.1) ^ (listener == "management")])
        message = self._message(name, path)
        fields = _head(name, self._bent(path) if self._often(0.25) else path)
        encoding = self._random.choice(ENCODINGS) if self._often(0.1) else None
        if encoding is not None:
            fields.append((b"grpc-encoding", encoding))
        body = self._body(message, encoding, path == CONVERSE)
        if self._often(0.3):
            self._spoil(fields, len(body))
        rest, due = self._rest(body)
        # What TorchServe does not answer while its client talks on is its own affair.
        return Asked(name, fields, rest, due and path != CONVERSE)

    def _predict(self, name: str, model: str, version: bytes) -> bytes:
        size = self._random.choices((0, 100, 5000, 70_000), (70, 20, 8, 2))[0]
        said = b"3" if model == "counting" else name.encode() + b"|" + bytes(size)
        entry = text(1, b"data") + text(2, said)
        return text(1, model.encode()) + (text(2, version) if version else b"") + text(3, entry)

    def _message(self, name: str, path: str) -> bytes:
        """Return a message of the method, or one that is none."""
        model = self._random.choice(ODD_MODELS if self._often(0.1) else FITTING.get(path, MODELS))
        version = self._random.choice(VERSIONS)
        named = text(1, model.encode()) + (text(2, version) if version else b"")
        numbers = [self._random.choice((0, 1, 2, 100, 10**6, 10**6 + 1, -1, 2**31, 2**63)) for _ in range(2)]
        match path.rpartition("/")[2]:
            case "Predictions" | "StreamPredictions" | "StreamPredictions2":
                message = self._predict(name, model, version)
            case "ListModels":
                message = integer(1, numbers[0]) + integer(2, numbers[1])
            case "DescribeModel":
                message = named + self._random.choice((b"", b"", integer(3, 1), integer(3, 2)))
            case "RegisterModel":
                message = integer(3, 1) + text(9, self._random.choice((b"noop.mar", b"http://127.0.0.1:9/e.mar")))
            case "ScaleWorker":
                message = named + integer(3, numbers[0]) + integer(4, numbers[1]) + integer(6, 1)
            case "ModelInfer":
                message = named + text(3, name.encode())
            case "Ping" | "ServerLive" | "ServerReady" | "ServerMetadata":
                message = b""
            case _:
                message = named
        return self._twisted(name, message, fitting=path in FITTING) if self._often(0.25) else message

    def _twisted(self, name: str, message: bytes, *, fitting: bool) -> bytes:
        """Return a message that two readers may take for two; `fitting` when it may not come to be about any model."""
        draw, message = self._random, _disowned(message) if fitting else message
        twists: tuple[Callable[[], bytes], ...] = (
            lambda: message + text(1, b"mirror"),
            lambda: text(1, b"mirror") + text(2, b"1.0") + message,
            lambda: message + draw.choice(UNKNOWN),
            lambda: draw.choice(UNKNOWN) + message,
            lambda: message[: draw.randint(0, len(message))],
            lambda: draw.randbytes(draw.randint(1, 60)),
            lambda: message + integer(3, 1) * draw.choice((1, 5000)),
            lambda: self._flipped(message),
            lambda: draw.choice(HIDDEN),
            lambda: self._hiding(name),
        )
        return draw.choice(twists[:8] if fitting else twists)()

    def _hiding(self, name: str) -> bytes:
        """Return a prediction with a change in what is the model's to read."""
        entry = text(1, b"data") + text(2, name.encode() + b"|" + self._random.choice(HIDDEN))
        return text(1, b"noop") + text(3, entry) + text(3, self._random.choice(HIDDEN))

    def _body(self, message: bytes, encoding: bytes | None, many: bool) -> bytes:  # noqa: FBT001
        """Return messages as they stand in a stream: one, or more or less than one."""
        if encoding == b"gzip" and self._often(0.7):
            packed = gzip.compress(message, mtime=0)
            return prefixed(packed + self._random.choice((b"", b"", b"x", packed)), 1)
        if many:
            return prefixed(message) * self._random.choice((1, 1, 2, 3))
        if not self._often(0.15):
            return prefixed(message)
        size = len(message)
        return self._random.choice(
            (
                b"",
                prefixed(message) * 2,
                prefixed(message, 1),
                prefixed(message, 0xFF),
                prefixed(message, size=size + 1),
                prefixed(message, size=max(0, size - 1)),
                prefixed(message, size=2**32 - 1),
                prefixed(message, size=LARGEST + 1),
                prefixed(message + bytes(LARGEST)),
                prefixed(message)[: self._random.randint(0, 6)],
                prefixed(b"") + prefixed(message),
                prefixed(gzip.compress(bytes(1 << 21), mtime=0), 1),
            )
        )

    def _spoil(self, fields: list[tuple[bytes, bytes]], size: int) -> None:
        """Change a head: a field changed, left out, doubled, put in, or all of them in another order."""
        names = [name for name, _ in fields]
        for _ in range(self._random.choices((1, 2), (80, 20))[0]):
            match self._random.randrange(9):
                case 0:
                    fields[0] = b":method", self._random.choice(METHODS)
                case 1:
                    fields[1] = b":scheme", self._random.choice(SCHEMES)
                case 2:
                    fields[names.index(b"te")] = b"te", self._random.choice(TE)
                case 3:
                    fields[names.index(b"content-type")] = b"content-type", self._random.choice(CONTENT)
                case 4:
                    fields.append((b"grpc-timeout", self._random.choice(TIMEOUTS)))
                case 5:
                    fields.append((b"content-length", b"%d" % (size + self._random.choice((0, 0, 1, -1)))))
                case 6:
                    fields.insert(self._random.randint(0, len(fields)), self._random.choice(MORE))
                case 7:
                    fields[:] = self._random.sample(fields, len(fields))
                    return
                case _:
                    at = self._random.randrange(len(fields))
                    fields[at : at + 1] = [fields[at]] * self._random.choice((0, 2))
                    return

    def _rest(self, body: bytes) -> tuple[list[tuple[int, int, bytes]], bool]:
        """Return the frames of a body, and whether they end."""
        pieces = self._pieces(body)
        if self._often(0.1):
            pieces.insert(self._random.randint(0, len(pieces)), b"")
        rest = [self._padded(piece) for piece in pieces]
        match self._random.choices(("ended", "after", "open", "reset", "late", "wronged"), (72, 10, 4, 6, 4, 4))[0]:
            case "ended":
                kind, flags, payload = rest[-1]
                rest[-1] = kind, flags | END, payload
                return rest, True
            case "after":
                return [*rest, (DATA, END, b"")], True
            case "reset":
                at = self._random.randint(0, len(rest))
                return [*rest[:at], (RESET, 0, self._random.choice((0, 2, 7, 8, 99)).to_bytes(4))], False
            case "late":
                kind, flags, payload = rest[-1]
                return [*rest[:-1], (kind, flags | END, payload), (RESET, 0, (8).to_bytes(4))], False
            case "wronged":
                return [*rest, *self._random.choice(WRONGED)], False
            case _:
                return rest, False

    def _pieces(self, body: bytes) -> list[bytes]:
        return list(_split(body, self._points(body, 16_000)))

    def _padded(self, piece: bytes) -> tuple[int, int, bytes]:
        if not self._often(0.1):
            return DATA, 0, piece
        size = self._random.choice((0, 1, 255))
        return DATA, PADDED, bytes([size]) + piece + bytes(size)

    def _points(self, data: bytes, longest: int) -> list[int]:
        """Return where to cut: nowhere mostly, and nothing longer than may be."""
        count = self._random.choices((0, 1, 5), (70, 20, 10))[0]
        return sorted(
            {*(self._random.randint(0, len(data)) for _ in range(count)), *range(longest, len(data), longest)}
        )

    # --- the connection ---------------------------------------------------------------------------------------------

    def _interleaved(self, calls: list[Asked]) -> tuple[list[bytes], dict[int, Asked]]:
        """Return the frames of all calls, heads in the order of their numbers, and the calls by number."""
        encoder, said, numbers = hpack.Encoder(), [], {}
        number, waiting, going = 1, list(calls), {}
        while waiting or going:
            if waiting and (not going or self._often(0.4)):
                one = waiting.pop(0)
                numbers[number] = one
                said += self._head_frames(number, one, encoder)
                going[number] = list(one.rest)
                number += 2 * self._random.choices((1, 2, 500), (90, 8, 2))[0]
            else:
                at = self._random.choice(list(going))
                kind, flags, payload = going[at].pop(0)
                said.append(frame(kind, flags, at, payload))
            going = {at: rest for at, rest in going.items() if rest}
            if self._often(0.1):
                said.append(self._talk(list(numbers)))
        return said, numbers

    def _head_frames(self, number: int, one: Asked, encoder: hpack.Encoder) -> list[bytes]:
        flags = 0 if one.rest else END
        if self._often(0.05):
            encoder.header_table_size = self._random.choice((0, 100, 4096))
        block = encoder.encode(one.fields, huffman=self._often(0.5))
        first, *more = _split(block, self._points(block, 16_000)) if self._often(0.2) else (block,)
        before = b""
        if self._often(0.05):
            before, flags = self._random.randbytes(5), flags | PRIORITIZED
        more = [piece for piece in more if piece]
        payload = before + first
        if self._often(0.1):
            size = self._random.choice((0, 7, 200))
            payload, flags = bytes([size]) + payload + bytes(size), flags | PADDED
        if not more:
            return [frame(HEADERS, flags | END_HEADERS, number, payload)]
        said = [frame(HEADERS, flags, number, payload)]
        said += [frame(CONTINUATION, 0, number, piece) for piece in more[:-1]]
        # One piece: nothing may stand between.
        return [b"".join([*said, frame(CONTINUATION, END_HEADERS, number, more[-1])])]

    def _greeting(self) -> tuple[bytes, bytes]:
        """Return how it begins, and what opens the windows again if that closed them."""
        settings, opening = self._random.choices(
            (
                (b"", b""),
                (setting(1, 0) + setting(2, 0) + setting(3, 100) + setting(4, 4_194_304), b""),
                (setting(4, 2**31 - 1 - LARGEST), b""),
                (setting(4, 0), frame(SETTINGS, 0, 0, setting(4, 65_535))),
                (setting(5, 2**24 - 1) + setting(6, 0) + setting(0xFEFE, 7), b""),
                (setting(1, 2**32 - 1) + setting(8, 1), b""),
            ),
            (40, 30, 10, 8, 6, 6),
        )[0]
        return PREFACE + frame(SETTINGS, 0, 0, settings), opening

    def _talk(self, numbers: list[int]) -> bytes:
        """Return what may be said at any time."""
        return self._random.choice(
            (
                frame(PING, 0, 0, bytes(8)),
                frame(PING, ACK, 0, bytes(8)),
                frame(SETTINGS, 0, 0, setting(3, 7)),
                frame(SETTINGS, ACK, 0),
                frame(WINDOW, 0, 0, (1000).to_bytes(4)),
                frame(WINDOW, 0, self._random.choice(numbers), (1).to_bytes(4)),
                frame(PRIORITY, 0, self._random.choice((1, 2, 7, 99)), self._random.randbytes(5)),
                frame(0x10, 0, 0, b"\0\0\0\1u=1"),
                frame(self._random.randint(10, 255), self._random.randrange(256), self._random.choice((0, 1, 8)), b"x"),
                frame(GOAWAY, 0, 0, bytes(8)),
            )
        )

    def _breach(self, numbers: list[int]) -> bytes:
        """Return what may not be said, at least not here."""
        draw, one, far = self._random, self._random.choice(numbers), numbers[-1] + 2
        block = hpack.Encoder().encode(_head("breach", draw.choice(CHANGES)))
        ends = (0, END)
        breaches: tuple[Callable[[], bytes], ...] = (
            lambda: frame(draw.randrange(10), draw.randrange(256), one, draw.randbytes(9)),
            lambda: frame(DATA, draw.choice(ends), draw.choice((0, one, far, 2)), prefixed(b"x")),
            lambda: frame(HEADERS, END_HEADERS | draw.choice(ends), one, block),
            lambda: frame(HEADERS, draw.choice((0, END_HEADERS)), draw.choice((0, 2, one, far)), block),
            lambda: frame(CONTINUATION, END_HEADERS, draw.choice((0, one, far)), block),
            lambda: frame(WINDOW, 0, draw.choice((0, one)), draw.choice((0, 2**31 - 1)).to_bytes(4)),
            lambda: frame(SETTINGS, draw.choice((0, ACK)), draw.choice((0, one)), draw.randbytes(6)),
            lambda: frame(PUSH, END_HEADERS, one, (2).to_bytes(4) + block),
            lambda: frame(DATA, PADDED, one, b"\xffabc"),
            lambda: frame(RESET, 0, draw.choice((0, one, far)), bytes(draw.choice((3, 4)))),
            lambda: frame(HEADERS, END_HEADERS, far, draw.choice(BAD_BLOCKS)),
            lambda: frame(PING, 0, draw.choice((0, one)), bytes(draw.choice((7, 8)))),
            lambda: frame(DATA, 0, one, bytes(16_385)),
            lambda: frame(HEADERS, 0, far, block[:9]) + frame(CONTINUATION, 0, far, b"") * 3,
        )
        return draw.choice(breaches)()

    def _garbled(self, data: bytes) -> bytes:
        data = _disowned(data)
        if self._often(0.1):
            return self._random.choice(STARTS) + data
        return data[: self._random.randint(1, len(data))] if self._often(0.3) else self._flipped(data)

    def _cut(self, data: bytes) -> tuple[bytes, ...]:
        return tuple(piece for piece in _split(data, self._points(data, 1 << 20)) if piece)

    # --- words ------------------------------------------------------------------------------------------------------

    def _bent(self, path: str) -> str:
        bends: tuple[Callable[[], str], ...] = (
            lambda: "".join(one.swapcase() if self._often(0.3) else one for one in path),
            lambda: "".join(f"%{ord(one):02x}" if self._often(0.1) else one for one in path),
            lambda: self._random.choice(PREFIXES) + path,
            lambda: path + self._random.choice(SUFFIXES),
            lambda: path.replace("/", "//"),
            lambda: path[1:],
            lambda: _other(path),
            lambda: self._random.choice(ELSEWHERE),
        )
        return self._random.choice(bends)()

    def _flipped(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self._random.randint(1, 3)):
            at = self._random.randrange(len(changed) or 1)
            pieces = (b"", b"\0", b"\xff", b"\x01", self._random.randbytes(1), bytes(changed[at : at + 4]) * 2)
            put = self._random.choice(pieces)
            changed[at : at + self._random.randint(0, 2)] = put
        return bytes(changed)

    def _often(self, share: float) -> bool:
        return self._random.random() < share


def _disowned(data: bytes) -> bytes:
    """Return the same about no model: what is bent of it could be answered in one piece."""
    return data.replace(b"counting", b"no-model")


def _other(path: str) -> str:
    """Return the same method on the other listener's service."""
    for one, another in (("inference", "management"), ("management", "inference")):
        if one in path:
            return path.replace(one, another)
    return path


def _head(name: str, path: str) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode("latin-1")),
        (b":authority", b"g"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"x-request-id", name.encode()),
    ]


def _split(data: bytes, points: Iterable[int]) -> tuple[bytes, ...]:
    marks = [0, *points, len(data)]
    return tuple(data[first:last] for first, last in pairwise(marks))
