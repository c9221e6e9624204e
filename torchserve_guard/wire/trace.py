"""The trace: what W3C Trace Context lets a request say about the trace that it belongs to, read strictly. Pure.

What is valid goes on as it came: the guard sends spans nowhere, and a parent that no collector knows would tear the
client's trace apart (Trace Context, 3.4: pass-through services leave both fields alone).
"""

from __future__ import annotations

import re

_IDS = rb"(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Section 3.2.2: version 00 has exactly these four fields, ff is none, a later one may have more behind a dash.
_PARENT = re.compile(rb"(?:00-%b|(?!00|ff)[0-9a-f]{2}-%b(?:-[\x21-\x7e]*)?)" % (_IDS, _IDS))
LONGEST_PARENT = 256

# Section 3.3.1.3.
_KEY = rb"[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}"
_MEMBER = re.compile(rb"(%b)=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]" % _KEY)
MOST_MEMBERS = 32
LONGEST_STATE = 4096


def trace_id_of(parent: bytes) -> bytes | None:
    """Return the id of the trace that a `traceparent` names, None when it is not a valid one."""
    match = _PARENT.fullmatch(parent) if len(parent) <= LONGEST_PARENT else None
    return (match[1] or match[2]) if match is not None else None


def parse_state(lines: list[bytes]) -> bytes | None:
    """Return the `tracestate` that several lines make together, None when there is no valid one."""
    if sum(map(len, lines)) > LONGEST_STATE:
        return None
    # Empty members are allowed and say nothing (3.3.1.2).
    members = [member for line in lines for one in line.split(b",") if (member := one.strip(b" \t"))]
    read = [_MEMBER.fullmatch(member) for member in members]
    keys = {match[1] for match in read if match is not None}
    if not members or len(members) > MOST_MEMBERS or len(keys) != len(members):
        return None
    return b",".join(members)
