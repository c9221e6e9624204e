"""The channel: one end of the socket pair between the guard and a porter, a JSON document for each line.

It has no name that anybody could find, and the end of it is the end of the other side.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

Document = dict[str, Any]

LONGEST_LINE = 1 << 20
FULL = 1 << 20


class Channel(asyncio.Protocol):
    """One end. `hear` is called with each document, `lost` once, after all that was said.

    When `hear` raises `ValueError`, or what comes is no document, `wrong` is told, and nothing is heard any more.
    """

    def __init__(
        self, hear: Callable[[Document], None], wrong: Callable[[str], None], lost: Callable[[], None]
    ) -> None:
        self._hear = hear
        self._wrong = wrong
        self._lost = lost
        self._deaf = False
        self._held = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the other side's end; half a line at it was never said."""
        del exc
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Hear what is whole."""
        self._held += data
        *lines, rest = self._held.split(b"\n")
        self._held = rest
        try:
            for line in lines:
                if not self._deaf:
                    self._hear(_parsed(line))
            _verify_ending(rest)
        except (ValueError, RecursionError) as error:
            self._deaf = True
            self._held.clear()
            self._wrong(str(error))

    def say(self, document: Document) -> None:
        """Send a document; to an end that is gone, nothing."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")

    @property
    def full(self) -> bool:
        """Whether the other side is behind with its reading."""
        return self._transport is not None and self._transport.get_write_buffer_size() > FULL

    def close(self) -> None:
        """Close when what was said is sent."""
        if self._transport is not None:
            self._transport.close()


def _verify_ending(rest: bytearray) -> None:
    if len(rest) > LONGEST_LINE:
        raise ValueError("a line without an end")


def _parsed(line: bytearray) -> Document:
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("a line that is no object")  # noqa: TRY004 - whoever says nonsense is told so in one way
    return document
