"""The stream: one exchange on a connection; who owns it, what is granted on it, and what waits to be sent."""

from __future__ import annotations

from collections import deque
from typing import Protocol

Said = bytes | memoryview


class Owner(Protocol):
    """Who hears of a stream."""

    def data(self, payload: bytes, ended: bool) -> None:  # noqa: FBT001 - hot
        """Take a piece of the body. The stream gets no more than its window until it is granted more."""

    def drained(self) -> None:
        """Go on: all that was said is sent."""

    def reset(self, code: int) -> None:
        """Hear that the peer gave the stream up."""


class Stream:
    """One stream: who owns it, what may be sent and received on it, and what waits to be sent, `waiting` bytes of it.

    `heard` says that the peer said its last, `said` that we did. `last` is what follows `pending`: trailers, or nothing
    but the end. `crumbs` are pieces that carried little since the last message was whole.
    """

    __slots__ = ("crumbs", "heard", "last", "left", "number", "owner", "pending", "said", "taken", "waiting", "window")

    def __init__(self, number: int, owner: Owner, window: int, left: int) -> None:
        self.number = number
        self.owner = owner
        self.window = window
        self.left = left
        self.taken = 0
        self.crumbs = 0
        self.pending: deque[Said] = deque()
        self.waiting = 0
        self.last: bytes | None = None
        self.heard = False
        self.said = False
