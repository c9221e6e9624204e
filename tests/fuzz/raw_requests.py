"""Raw requests, drawn from a seed: each one that a client might send, and most of them a little wrong.

A request is bytes. Its route, spelling, method, headers and framing are mutated each on its own, so that one draw may
be wrong in several ways at once; the rows of the corpus (smuggling, targets) are drawn as well, whole and mutated.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import yaml

LISTENERS = ("inference", "management", "metrics")
CORPUS = Path(__file__).parents[1] / "corpus"

READS = (
    "/ping", "/", "/api-description", "/models", "/models?limit=2&next_page_token=1", "/models/noop",
    "/models/noop/all", "/models/noop/1.0", "/v1/models/noop",
    "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/noop/versions/1.0",
    "/v2/models/noop/versions/1.0/ready", "/workflows", "/workflows/any", "/metrics", "/metrics?name[]=Requests2XX",
)  # fmt: skip
RUNS = (
    "/predictions/noop", "/predictions/noop/1.0", "/predictions/noop/2.0/a/b", "/explanations/noop", "/invocations",
    "/invocations?model_name=noop", "/models/noop/invoke", "/noop/predict", "/noop/1.0/predict",
    "/v1/models/noop:predict", "/v1/models/noop:explain", "/v2/models/noop/infer", "/v2/models/noop/explain",
    "/v2/models/noop/versions/1.0/infer", "/wfpredict/any", "/predictions/mirror?customized=true",
)  # fmt: skip
CHANGES = (
    "/models?url=noop.mar", "/models?url=noop_v2.mar&initial_workers=1", "/models/noop?min_worker=0",
    "/models/noop?min_worker=3&synchronous=true", "/models/noop/1.0?max_worker=0", "/models/noop/2.0/set-default",
    "/models/noop/1.0", "/models/noop", "/models/mirror", "/workflows?url=any.war", "/workflows/any",
    "/token?type=management", "/token", "/models/mirror/1.0/set-default",
)  # fmt: skip
ASKED = ((RUNS, "POST"), (READS, "GET"), (CHANGES, "PUT"), (CHANGES, "DELETE"), (CHANGES, "POST"), (CHANGES, "GET"))
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "Put", "FOO", "")
HEADERS = (
    "Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded", "Accept: */*",
    "X-HTTP-Method-Override: DELETE", "X-Method-Override: PUT", "X-Original-URL: /models/noop", "Referer: http://x/token",
    "Upgrade: h2c", "Upgrade: websocket", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk",
    "Connection: close", "Connection: keep-alive", "Connection: X-Request-Id", "Expect: 100-continue", "Expect: 200-ok",
    "Authorization: Bearer x", "Authorization: Basic Og==", "X-Request-Id: mine", "X-Request-Id: a b",
    "Host: other", "Host: ", "Origin: http://evil", "X-Forwarded-For: 127.0.0.1", "Trailer: X-A", "TE: trailers",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "traceparent: 00-0-0-0",
    "ts_request_sequence_id: 1", "Content-Encoding: gzip", "Range: bytes=0-1", "X-Long: " + "a" * 3000, "X-\xe9: \xff",
    "X-A : b", " folded", "\tfolded", "X-NoColon", ": empty", "X-Null: \0", "X-Bare: a\nX-B: c", "X-Cr: a\rX-B: c",
    "Proxy-Authorization: Basic Og==", "Keep-Alive: timeout=5", "Cookie: /token=1", "X-Amz-Sagemaker: /models",
)  # fmt: skip
FRAMINGS = (
    "Content-Length: +3", "Content-Length: 3, 3", "Content-Length: 3\r\nContent-Length: 4", "Content-Length: 0x3",
    "Content-Length:  3", "Content-Length: 3 ", "Content-Length: -1", "Content-Length: 99999999999999999999",
    "Content-Length: 1e1", "Content-Length: ", "Content-Length : 3", "Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 3", "Content-Length: 3\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: xchunked", "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer_Encoding: chunked", "TE: chunked",
    "Transfer-Encoding:\tchunked", "Transfer-Encoding: CHUNKED", "Transfer-\r\nEncoding: chunked",
)  # fmt: skip
BODIES = (
    b"", b"x", b"{}", b"[1, 2]", b"GET /models HTTP/1.1\r\nHost: g\r\n\r\n", b"a" * 5000, b"url=noop.mar",
    b"DELETE /models/noop HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n", bytes(range(256)),
)  # fmt: skip
CHUNKED = (
    b"1\r\nx\r\n0\r\n\r\n", b"0\r\n\r\n", b"1;a=b\r\nx\r\n0\r\n\r\n", b"1\nx\n0\n\n", b"001\r\nx\r\n0\r\n\r\n",
    b"1 \r\nx\r\n0\r\n\r\n", b"0x1\r\nx\r\n0\r\n\r\n", b"1\r\nx0\r\n\r\n", b"-1\r\nx\r\n0\r\n\r\n",
    b"1\r\nx\r\n0\r\nX-A: b\r\n\r\n", b"ffffffffffffffffff\r\nx\r\n0\r\n\r\n", b"1\r\nxx\r\n0\r\n\r\n",
    b"5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\nPUT /models/noop?min_worker=0 HTTP/1.1\r\nHost: g\r\n\r\n",
)  # fmt: skip
PREFIXES = (
    "/", "//", "/.", "/./", "/../", "/x/..", "/%2e%2e", "/%2f", "http://127.0.0.1", "http://evil:80", "https://h", "x",
    "%00", "%2F", "*", " ", "\t", "/\\", ";a=b", "http:", "http:/", "HTTP://H/..", "/%252e%252e/",
)  # fmt: skip
SUFFIXES = (
    "/", "//", "/.", "/..", "/%2e%2e/", "#f", "?", "?#", "%00", "%20", "%2f", ";a=b", "/token", "?x=/token", "&",
    "?a=1&a=2", "?customized=true", "?url=noop.mar", "?min_worker=0", "\\", "%", "%zz", "%u002f", "/set-default",
    "%0d%0aX: y", "\x80",
)  # fmt: skip


_TRICKS = yaml.safe_load((CORPUS / "smuggling.yaml").read_text()).values()
_TARGETS = yaml.safe_load((CORPUS / "targets.yaml").read_text()).values()
TRICKS = tuple(row["bytes"].encode("latin-1") for part in _TRICKS for row in part["rows"])
TARGETS = tuple((row[1], row[2]) for part in _TARGETS for row in part)


class Draw:
    """A stream of requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - drawn again from the same seed

    def request(self) -> tuple[str, bytes]:
        """Return a listener, and what one connection sends it: a request, more than one, or something that is none."""
        listener = self._random.choices(LISTENERS, (55, 40, 5))[0]
        if self._often(0.08):
            return listener, self._changed(self._random.choice(TRICKS), 0.5)
        whole = b"".join(self._one(listener) for _ in range(self._random.choices((1, 2, 3), (85, 10, 5))[0]))
        return listener, self._changed(whole, 0.1)

    def _one(self, listener: str) -> bytes:
        method, target = self._asked(listener)
        framing, body = self._framed(method)
        headers = [self._random.choice(HEADERS) for _ in range(self._random.choices((0, 1, 2, 4), (65, 20, 12, 3))[0])]
        lines = ["Host: g", *headers, *framing]
        if self._often(0.15):
            self._random.shuffle(lines)
        if self._often(0.03):
            lines.remove("Host: g")
        version = self._random.choices(
            ("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1", ""), (90, 5, 1, 1, 2, 1)
        )[0]
        blank = self._random.choices((" ", "  ", "\t"), (97, 2, 1))[0]
        end = self._random.choices(("\r\n", "\n", "\r"), (97, 2, 1))[0]
        head = end.join([f"{method}{blank}{target} {version}", *lines, "", ""])
        return head.encode("latin-1", "replace") + body

    def _asked(self, listener: str) -> tuple[str, str]:
        """Return a method and a target: one that is right, one from the corpus, or one that was bent."""
        if self._often(0.1):
            method, target = self._random.choice(TARGETS)
            return str(method), str(target)
        weights = (60, 15, 10, 5, 5, 5) if listener == "inference" else (5, 35, 20, 20, 15, 5)
        routes, method = self._random.choices(ASKED, weights)[0]
        if self._often(0.1):
            method = self._random.choice(METHODS)
        return method, self._bent(self._random.choice(routes))

    def _bent(self, target: str) -> str:
        bends: tuple[Callable[[str], str], ...] = (
            self._escaped,
            self._between,
            self._before,
            self._behind,
            self._cased,
        )
        for _ in range(self._random.choices((0, 1, 2, 3), (55, 25, 15, 5))[0]):
            target = self._random.choice(bends)(target)
        return target

    def _escaped(self, target: str) -> str:
        """Escape some characters, as `%6d`, `%6D` or `%256d`."""
        form = self._random.choice(("%{:02x}", "%{:02X}", "%25{:02x}", "%u00{:02x}"))
        share = self._random.choice((0.1, 0.5, 1.0))
        return "".join(form.format(ord(one)) if ord(one) < 256 and self._often(share) else one for one in target)

    def _between(self, target: str) -> str:
        parts = target.split("/")
        parts.insert(
            self._random.randint(1, len(parts)),
            self._random.choice(("", ".", "..", "%2e", "%2f", "models", "token", "\0")),
        )
        return "/".join(parts)

    def _before(self, target: str) -> str:
        return self._random.choice(PREFIXES) + target

    def _behind(self, target: str) -> str:
        return target + self._random.choice(SUFFIXES)

    def _cased(self, target: str) -> str:
        return "".join(one.swapcase() if self._often(0.3) else one for one in target)

    def _framed(self, method: str) -> tuple[list[str], bytes]:
        body = self._random.choice(BODIES)
        kind = self._random.random()
        if kind < 0.1:
            return [self._random.choice(FRAMINGS)], self._random.choice((body, *CHUNKED))
        if kind < 0.2:
            return ["Transfer-Encoding: chunked"], self._random.choice(CHUNKED)
        if kind < 0.22:
            return [], body
        if method == "GET" or self._often(0.3):
            return [], b""
        return [f"Content-Length: {len(body)}"], body

    def _changed(self, data: bytes, share: float) -> bytes:
        """Return the bytes, or (a `share` of the time) with some of them flipped, dropped, doubled or put in."""
        if not data or not self._often(share):
            return data
        changed = bytearray(data)
        for _ in range(self._random.randint(1, 3)):
            at = self._random.randrange(len(changed) or 1)
            piece = self._random.choice((b"\0", b"\r", b"\n", b"\r\n", b" ", b":", b"\x80", b"/", b"%", b"0"))
            changed[at : at + self._random.randint(0, 2)] = self._random.choice((piece, b"", changed[at : at + 4] * 2))
        return bytes(changed)

    def _often(self, share: float) -> bool:
        return self._random.random() < share
