"""The target: the raw bytes of a request line's target, read strictly into decoded segments and query pairs.

Only origin-form (RFC 9112 section 3.2.1) is read, and `OPTIONS *` is not: TorchServe knows no such thing, and
answers everything else by what stands behind the first slash, so that `http:/models/x` and `%00/models/x` are
`/models/x` to it (hazard H50). Percent-escapes are decoded exactly once, also those of letters that need none:
`/%6dodels` *is* `/models` (RFC 3986 section 6.2.2.2), is judged and recorded as that, and only the canonical
spelling goes upstream, so that nobody behind us can read it in another way.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from torchserve_guard.errors import BadRequest

LONGEST_TARGET = 4096 - len("OPTIONS  HTTP/1.1")
"""What Netty's HttpServerCodec leaves of its 4096 bytes of request line (ServerInitializer)."""

MOST_PAIRS = 128

# RFC 3986 pchar without `;`, which others read as the start of path parameters; the query is wider, since clients
# send brackets, braces and quotes as they are. Neither holds a blank, a control, `#`, `\\` or anything beyond ASCII.
_TARGET = re.compile(
    rb"/(?P<path>[A-Za-z0-9._~!$&'()*+,=:@%/-]*)"
    rb"(?:\?(?P<query>[\x21\x22\x24-\x5b\x5d-\x7e]*))?"
)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")  # searched for, since that is linear in the length
# C0, DEL and C1; both slashes, which only an escape can bring into a decoded segment.
_NOT_IN_SEGMENT = re.compile(r"[\x00-\x1f\x7f-\x9f/\\]")
_NOT_IN_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # a prompt may have lines
_SEPARATOR = re.compile(r"[&;]")  # Netty's QueryStringDecoder takes both

Pairs = tuple[tuple[str, str], ...]


def parse_target(raw: bytes) -> tuple[tuple[str, ...], Pairs]:
    """Return the decoded segments of the path and the decoded pairs of the query; raise BadRequest in doubt.

    One slash at the end of the path is dropped: TorchServe drops any number, and clients write one.
    """
    if len(raw) > LONGEST_TARGET:
        raise refused("target-length", f"the target has {len(raw)} bytes, more than {LONGEST_TARGET}")
    parts = _TARGET.fullmatch(raw)
    if parts is None:
        raise refused("target-form", "the target is not a plain absolute path and query")
    path, query = parts.group("path", "query")
    return _segments(path.decode("ascii")), _pairs(query.decode("ascii")) if query else ()


def refused(rule: str, reason: str) -> BadRequest:
    """Return the refusal of a target; the client is told less than the log."""
    return BadRequest("The request target is not acceptable.", reason=reason, rule=f"wire.{rule}")


def _segments(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    spellings = path.removesuffix("/").split("/")
    return tuple([_segment(spelling) for spelling in spellings])


def _segment(spelling: str) -> str:
    segment = _decoded(spelling) if "%" in spelling else spelling
    if segment in {"", ".", ".."}:
        raise refused("target-dots", "the path has an empty or a dot segment")
    if segment is not spelling and _NOT_IN_SEGMENT.search(segment):
        raise refused("target-escape", "the path has an encoded slash, backslash or control character")
    return segment


def _pairs(query: str) -> Pairs:
    spellings = [spelling for spelling in _SEPARATOR.split(query) if spelling]
    if len(spellings) > MOST_PAIRS:
        raise refused("query-length", f"the query has {len(spellings)} pairs, more than {MOST_PAIRS}")
    return tuple([_pair(spelling) for spelling in spellings])


def _pair(spelling: str) -> tuple[str, str]:
    name, _, value = spelling.replace("+", " ").partition("=")
    if "%" in spelling:
        name, value = _decoded(name), _decoded(value)
    # Netty reads `=a` as a parameter called `a`.
    if not name or _NOT_IN_NAME.search(name):
        raise refused("query-name", "a parameter has no name, or a control character in it")
    if _NOT_IN_VALUE.search(value):
        raise refused("query-value", "the value of a parameter has a control character")
    return name, value


def _decoded(spelling: str) -> str:
    if _BROKEN_ESCAPE.search(spelling):
        raise refused("target-escape", "a percent sign is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(spelling).decode("utf-8")
    except UnicodeDecodeError as error:
        raise refused("target-escape", f"the escapes are not UTF-8: {error.reason}") from error
