"""The patience: how much of what costs a client nothing it may do before its connection ends."""

from __future__ import annotations

from torchserve_guard.http2.frames import Broken, Code

# What a peer may do that asks for an answer and carries nothing: at once, and each second (CVE-2019-9512, 9515, 9518).
_MOST_IDLE_TALK, _IDLE_TALK_A_SECOND = 10_000, 1000
# Streams that are begun to be given up: the numbers nghttp2 took against CVE-2023-44487.
_MOST_RESETS, _RESETS_A_SECOND = 1000, 33
# How often a window may be opened: for each stream, for each frame that was sent, for so many bytes (a power of 2) of
# it, and how much of that is kept for later. Clients open one or two for a frame at most; gRPC's own far fewer.
_OPENINGS, _OPENINGS_PER, _MOST_OPENINGS = 4, 10, 10_000

LITTLE = 128
"""A piece of a body with less than so many bytes carries next to nothing beside what it costs."""


class Patience:
    """What is counted against a peer. An `endless` one is for TorchServe: nobody is there to forgive it."""

    __slots__ = ("_endless", "_openings", "_resets", "_talk")

    def __init__(self, *, endless: bool) -> None:
        self._endless = endless
        self._openings = 0
        self._talk = 0
        self._resets = 0

    def talk(self, times: int = 1) -> None:
        """Count what carries nothing. Raises `Broken`."""
        self._talk += times
        if self._talk > _MOST_IDLE_TALK and not self._endless:
            raise Broken(Code.CALM, "too much is said that carries nothing")

    def sent(self, size: int) -> None:
        """Expect windows to be opened: for a stream that began, or for so many bytes in a frame of a body."""
        openings = self._openings + _OPENINGS + (size >> _OPENINGS_PER)
        self._openings = openings if openings < _MOST_OPENINGS else _MOST_OPENINGS  # noqa: FURB136 - hot

    def opened(self) -> None:
        """Count a window that is opened; what nothing was sent for carries nothing. Raises `Broken`."""
        if self._openings:
            self._openings -= 1
        else:
            self.talk()

    def given_up(self) -> None:
        """Count a stream that was begun to be given up, whoever said so in the end (CVE-2025-8671)."""
        self._resets += 1

    def verify(self) -> None:
        """Return if one more stream may begin. Raises `Broken`."""
        if self._resets > _MOST_RESETS and not self._endless:
            raise Broken(Code.CALM, "too many streams are begun to be given up")

    def calm(self) -> None:
        """Forgive, once a second, a second's worth."""
        self._talk = max(0, self._talk - _IDLE_TALK_A_SECOND)
        self._resets = max(0, self._resets - _RESETS_A_SECOND)
