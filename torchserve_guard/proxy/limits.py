"""The limits: how much of anything a connection may ask of the door, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. `None` is no limit.

    `body` is TorchServe's `max_request_size`. `idle_time` is how long a connection may stay open without a
    request; `head_time` how long a request head may take from its first byte (or from the accept) to its last;
    `stall_time` how long a body may come, or an answer be taken, without a single byte moving; `answer_time`
    how long TorchServe may take for the head of an answer: models are slow, so none by default. `handshakes` is
    how many TLS handshakes go on at once, `handshake_time` how long one may take.
    """

    request_line: int = 4 * KIB
    head: int = 16 * KIB
    headers: int = 100
    body: int | None = 6_553_500
    management_body: int = 64 * KIB
    connections: int = 4096
    idle_upstream: int = 256
    idle_time: float = 75.0
    head_time: float = 15.0
    stall_time: float = 60.0
    answer_time: float | None = None
    linger_time: float = 2.0
    connect_time: float = 5.0
    handshakes: int = 512
    handshake_time: float = 10.0
