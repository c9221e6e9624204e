"""The head: what a request says before its body, read without doubt or not at all.

Strictly RFC 9112, sans-IO: CRLF only, one SP, no folding, one framing. A line that was read before is a
dictionary look-up, since a client says most of its lines again with each request; lines that hold a secret, or
are different each time, are not kept.

Not read by llhttp, which is the second reader in the tests: it lets pass leading line ends, two blanks in the request
line, HTTP/0.9 and 2.0, RTSP, `gzip, chunked`, chunks in HTTP/1.0, gives trailers as headers, and cannot stop between
two requests sent at once. To check all that again costs more than to read it here once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from torchserve_guard.errors import BadRequest, HeaderTooLarge, Refusal
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.wire import Listener, parse_request_head
from torchserve_guard.wire.headers import HOP_BY_HOP
from torchserve_guard.wire.trace import parse_state, trace_id_of

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# One star on each side of the colon: what could backtrack, a client would make backtrack.
FIELD = re.compile(rb"(%b):([\t \x21-\x7e\x80-\xff]*)" % TOKEN)
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/1\.([01])" % TOKEN)

LONGEST_KEPT = 512
MOST_KEPT = 1024

# What a line is, to whoever reads heads. PASS lines go on in their one canonical spelling, DROP lines do not.
PASS, DROP, HOST, LENGTH, CHUNKED, CLOSE, KEEP_ALIVE, EXPECT, AUTHORIZATION, REQUEST_ID, CONTENT_TYPE = range(11)
ORIGIN, TRACE_PARENT, TRACE_STATE = 11, 12, 13
_NEVER_KEPT = frozenset({AUTHORIZATION, REQUEST_ID, TRACE_PARENT, TRACE_STATE})
NOT_WORTH_KEEPING = frozenset({b"cookie", b"set-cookie", b"proxy-authorization"})

Read = tuple[int, bytes, int]
_new = tuple.__new__
K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """A bounded memory of what was worked out before; the oldest entry makes room for the newest."""

    __slots__ = ("_entries", "_most", "get")

    def __init__(self, most: int) -> None:
        self._entries: dict[K, V] = {}
        self._most = most
        self.get: Callable[[K], V | None] = self._entries.get

    def keep(self, key: K, value: V) -> V:
        """Remember the value, and return it."""
        if len(self._entries) >= self._most:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = value
        return value

    def __len__(self) -> int:
        return len(self._entries)


class RequestHead(NamedTuple):
    """A request before its body. `length` is None without `Content-Length`; `passed` are whole lines for upstream.

    `trace` is the id of the trace that it belongs to, None when it named none; the lines that name it are `passed`.
    """

    method: str
    target: bytes
    minor: int
    keep_alive: bool
    length: int | None
    chunked: bool
    expects: bool
    authorization: bytes | None
    request_id: bytes | None
    content_type: bytes | None
    passed: list[bytes]
    host: bytes | None = None
    from_page: bool = False
    trace: bytes | None = None

    @property
    def has_body(self) -> bool:
        """Whether a byte of a body is to come."""
        return self.chunked or bool(self.length)


NO_REQUEST = RequestHead("", b"", 1, False, None, False, False, None, None, None, [])  # noqa: FBT003
"""What is known of a request before its head was read."""


class RequestReader:
    """Reads the request heads of one listener.

    What one header means, and whether it passes, is `wire`'s to say; here it is seen that each that counts is there
    once, and that the framing is one.
    """

    def __init__(self, listener: Listener, limits: Limits) -> None:
        self.name = listener.value
        self._listener = listener
        self._limits = limits
        self._starts: Kept[bytes, tuple[str, bytes, int]] = Kept(MOST_KEPT)
        self._lines: Kept[bytes, Read] = Kept(MOST_KEPT)

    def read(self, head: bytes) -> RequestHead:  # noqa: C901, PLR0912, PLR0915 - one loop over the lines, measured
        """Return what the head says. Raises a `Refusal` when it could be read in two ways, or is none."""
        lines = head.split(b"\r\n")
        first = lines[0]
        method, target, minor = self._starts.get(first) or self._start(first)
        if len(lines) - 1 > self._limits.headers:
            raise HeaderTooLarge("Too many header fields.", rule="proxy.header-count")
        get = self._lines.get
        passed: list[bytes] = []
        hosts = 0
        length = authorization = request_id = content_type = None
        host = trace = None
        parents: list[bytes] = []
        states: list[bytes] = []
        chunked = expects = from_page = False
        keeps = minor == 1
        closes = False
        del lines[0]
        for line in lines:
            kind, text, number = get(line) or self._line(line)
            if kind == PASS:
                passed.append(text)
            elif kind == DROP:
                pass
            elif kind == HOST:
                hosts += 1
                host = text
            elif kind == LENGTH:
                if length is not None:
                    raise _ambiguous("Content-Length")
                length = number
            elif kind == AUTHORIZATION:
                if authorization is not None:
                    raise _ambiguous("Authorization")
                authorization = text
            elif kind == CONTENT_TYPE:
                if content_type is not None:
                    raise _ambiguous("Content-Type")
                content_type = text
                if number:
                    passed.append(b"Content-Type: %b\r\n" % text)
            elif kind == REQUEST_ID:
                request_id = text if request_id is None else b""
            elif kind == CLOSE:
                closes = True
            elif kind == KEEP_ALIVE:
                keeps = True
            elif kind == EXPECT:
                if expects:
                    raise _ambiguous("Expect")
                expects = True
            elif kind == ORIGIN:
                from_page = True
            elif kind == TRACE_PARENT:
                parents.append(text)
            elif kind == TRACE_STATE:
                states.append(text)
            elif chunked:  # CHUNKED
                raise _ambiguous("Transfer-Encoding")
            else:
                chunked = True
        if hosts != 1 and (minor or hosts):
            raise BadRequest("Exactly one Host header is needed.", rule="proxy.host")
        if chunked and (length is not None or not minor):
            raise BadRequest("The framing of the request is ambiguous.", rule="proxy.framing")
        keep_alive = keeps and not closes
        if len(parents) == 1:
            trace = self._traced(parents[0], states, passed)
        # A NamedTuple's own constructor takes three times as long.
        return _new(
            RequestHead,
            (
                method,
                target,
                minor,
                keep_alive,
                length,
                chunked,
                expects and minor == 1,
                authorization,
                request_id or None,
                content_type,
                passed,
                host,
                from_page,
                trace,
            ),
        )

    def target(self, head: bytes) -> bytes:
        """Return the target that a head names. Raises a `Refusal` when there is no request line."""
        first = head.partition(b"\r\n")[0]
        return (self._starts.get(first) or self._start(first))[1]

    def _traced(self, parent: bytes, states: list[bytes], passed: list[bytes]) -> bytes | None:
        """Return the id of the trace that a client names, and pass on what names it; an invalid one is as none."""
        inference = self._listener is Listener.INFERENCE
        trace = trace_id_of(parent)
        # Elsewhere than on inference `/token` would be taken for a rotation, and nobody reads the state (hazard H73).
        if trace is None or (b"/token" in parent and not inference):
            return None
        passed.append(b"traceparent: %b\r\n" % parent)
        state = parse_state(states) if inference else None
        if state is not None:
            passed.append(b"tracestate: %b\r\n" % state)
        return trace

    def verify_beginning(self, beginning: bytes) -> None:
        """Return if these bytes, which hold no whole head, may become one; raise what they are refused for."""
        end = beginning.find(b"\r\n")
        if end < 0:
            end = len(beginning)
            if len(beginning) > self._limits.request_line or not _BEGINNING.match(beginning):
                raise _no_request_line(len(beginning) > self._limits.request_line)
        else:
            self._start(beginning[:end])
        if len(beginning) > self._limits.head:
            raise HeaderTooLarge("The request head is too long.", rule="proxy.head-size")
        if beginning.count(b"\n") != beginning.count(b"\r\n"):
            raise BadRequest("Lines end in CRLF.", rule="proxy.line-end")

    def _start(self, line: bytes) -> tuple[str, bytes, int]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None or len(line) > self._limits.request_line:
            raise _no_request_line(len(line) > self._limits.request_line)
        start = match[1].decode(), match[2], int(match[3])
        return self._starts.keep(line, start) if len(line) <= LONGEST_KEPT else start

    def _line(self, line: bytes) -> Read:
        match = FIELD.fullmatch(line)
        if match is None:
            raise BadRequest("A header line is malformed.", rule="proxy.header-line")
        name, value = match[1], match[2].strip(b" \t")
        lower = name.lower()
        if lower == b"transfer-encoding" and b"\t" in line:
            # Legal around the value (RFC 9110 section 5.6.3), and read as another coding by some.
            raise BadRequest("A Transfer-Encoding with a tab.", rule="proxy.header-line")
        special = _SPECIAL.get(lower)
        read = special(value) if special else self._meaning(name, lower, value)
        if len(line) > LONGEST_KEPT or read[0] in _NEVER_KEPT or lower in NOT_WORTH_KEEPING:
            return read
        return self._lines.keep(line, read)

    def _meaning(self, name: bytes, lower: bytes, value: bytes) -> Read:
        alone = [(name, value)] if lower == b"host" else [(b"Host", b""), (name, value)]
        said = parse_request_head(self._listener, alone)
        if said.length is not None:
            return LENGTH, b"", said.length
        if said.content_type is not None:
            return CONTENT_TYPE, value, len(said.passing)
        if said.passing:
            return PASS, b"%b: %b\r\n" % (name, value), 0
        if said.chunked:
            return CHUNKED, b"", 0
        if said.request_ids:
            return REQUEST_ID, said.request_id or b"", 0  # one that is not well formed counts as one of several, too
        return (_TOLD[lower], value, 0) if lower in _TOLD else DROPPED


_BEGINNING = re.compile(rb"%b(?: (?:[\x21-\x7e]+(?: (?:H[\x21-\x7e]*)?)?)?)?\r?\Z" % TOKEN)
DROPPED: Read = (DROP, b"", 0)
_TOLD = {b"host": HOST, b"origin": ORIGIN}


class ExpectationFailed(Refusal):
    """An expectation other than `100-continue` (HTTP 417, RFC 9110 section 10.1.1)."""

    status = 417
    kind = "ExpectationFailedException"


def _no_request_line(too_long: bool) -> Refusal:  # noqa: FBT001 - two refusals of one thing
    if too_long:
        return HeaderTooLarge("The request line is too long.", rule="proxy.request-line-size")
    return BadRequest("The request line is malformed.", rule="proxy.request-line")


def _ambiguous(name: str) -> BadRequest:
    return BadRequest(f"More than one {name} header.", rule="proxy.duplicate")


# The fields of one hop are dropped here in any case, so that naming them removes nothing; `upgrade` alone is what
# proxies say of every request, `proxy-connection` what old ones add. Not transfer-encoding: it is not dropped unread.
_OPTIONS = HOP_BY_HOP | {b"close", b"http2-settings"}

# What clients offer by default, on plaintext and with any request, and take no for an answer: Java's HttpClient and
# `curl --http2` (RFC 7540 section 3.2), Apache HttpClient 5.4 (RFC 2817). As in stock, the answer is in HTTP/1.1.
_IGNORED_UPGRADES = frozenset({b"h2c", b"tls/1.0", b"tls/1.1", b"tls/1.2", b"tls/1.3"})


def _members(value: bytes) -> set[bytes]:
    """Return the members of a list, in lower case; empty ones do not count (RFC 9110 section 5.6.1)."""
    return {member.strip(b" \t").lower() for member in value.split(b",")} - {b""}


def _connection(value: bytes) -> Read:
    """Read the connection options; one that names an end-to-end header would have it removed (RFC 9110 7.6.1)."""
    options = _members(value)
    if not options <= _OPTIONS:
        raise BadRequest("The connection options are not supported.", rule="proxy.connection")
    if b"close" in options:
        return CLOSE, b"", 0
    return (KEEP_ALIVE, b"", 0) if b"keep-alive" in options else DROPPED


def _expect(value: bytes) -> Read:
    if value.lower() != b"100-continue":
        raise ExpectationFailed("The expectation cannot be met.", rule="proxy.expect")
    return EXPECT, b"", 0


def _upgrade(value: bytes) -> Read:
    """Ignore the offer of another protocol, as a server may (RFC 9110 7.8), unless the client lives by it."""
    if not _members(value) <= _IGNORED_UPGRADES:
        raise BadRequest("Upgrades are not supported.", rule="proxy.upgrade")
    # INVARIANT: an offer never goes upstream: who is behind the door cannot accept what it did not hear.
    return DROPPED


_SPECIAL: Mapping[bytes, Callable[[bytes], Read]] = {
    b"connection": _connection,
    b"expect": _expect,
    b"upgrade": _upgrade,
    b"http2-settings": lambda _value: DROPPED,
    b"authorization": lambda value: (AUTHORIZATION, value, 0),
    b"traceparent": lambda value: (TRACE_PARENT, value, 0),
    b"tracestate": lambda value: (TRACE_STATE, value, 0),
}
