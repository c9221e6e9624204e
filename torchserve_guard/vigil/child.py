"""The child: one run of the inspector, low in priority, and what it saw.

It is a process of its own so that the door never waits for it: neither for the interpreter's lock nor, but for its
share, for a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchserve_guard.archives import inspector, trees
from torchserve_guard.archives.names import parents
from torchserve_guard.errors import GuardError
from torchserve_guard.vigil.sight import Watched

NICE = 19
SHARE = 0.1
"""The part of one processor that a round takes which nobody waits for."""
PATIENCE = 600.0
DEATH = 5.0
"""Seconds that a killed process gets to be gone."""
SLOWEST = 1 << 20
"""Bytes in a second: what reads slower than that is taken for stuck."""
_EMPTY = hashlib.sha256().hexdigest()


class Blind(GuardError):
    """Nobody could look."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the inspector saw of one tree."""

    found: tuple[str, ...]
    size: int
    processor_seconds: float


async def inspect(watched: Sequence[Watched], share: float) -> list[Seen]:
    """Return what is seen of each tree, in this order. Raises `Blind`."""
    asked = {"nice": NICE, "share": share, "parent": os.getpid(), "trees": [_asked(one) for one in watched]}
    size = sum(member.size for one in watched for member in one.members)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(Path(inspector.__file__))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise Blind(f"no process can be started to look ({error.strerror or error})") from error
    try:
        async with asyncio.timeout(PATIENCE + size / SLOWEST):
            output, _ = await process.communicate(json.dumps(asked).encode())
    except TimeoutError as error:
        raise Blind("who looked did not end in time") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # A process that hangs in the disk dies when the disk answers, and keeps nobody from stopping.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEATH):
                await process.wait()
    return _parsed(output, len(watched))


def _parsed(output: bytes, count: int) -> list[Seen]:
    try:
        documents = [json.loads(line) for line in output.splitlines()]
        seen = [Seen(tuple(one["found"]), one["bytes"], one["cpu"]) for one in documents]
    except (ValueError, KeyError, TypeError) as error:
        raise Blind("who looked did not say what it saw") from error
    if len(seen) != count:
        raise Blind(f"who looked ended after {len(seen)} of {count} trees")
    return seen


def _asked(watched: Watched) -> dict[str, object]:
    return {
        "path": str(watched.tree),
        "members": _rows(watched),
        "print": watched.print,
        "ours": watched.writable,
    }


def _rows(watched: Watched) -> list[tuple[str, int | None, str]]:
    """Return what the tree must hold; beside the members the folders above them, and the marker of `trees.seal`."""
    rows: dict[str, tuple[int | None, str]] = {
        one.path: (None, "") if one.path.endswith("/") else (one.size, one.sha256) for one in watched.members
    }
    if not watched.writable:
        rows |= {parent: (None, "") for one in watched.members for parent in parents(one.path)}
        marker = trees.marker_of(watched.members)
        rows |= {marker: (0, _EMPTY)} if marker is not None else {}
    return [(path, *row) for path, row in rows.items()]
