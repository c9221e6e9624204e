"""The limits: how much of anything a connection may ask of the door, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB = 1024
CROWDED = 0.75
HURRIED_IDLE_S, HURRIED_HEAD_S = 5.0, 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. `None` is no limit.

    `body` is TorchServe's `max_request_size`. `connections` is for each listener, `source_connections` for each address
    there, and `turned_away` how many more may be hearing that there are too many. `idle_time` is how long a connection
    may stay open without a request; `head_time` how long a request head may take from its first byte (or from the
    accept) to its last; both are shorter where three quarters of the connections are taken. `stall_time` is how long a
    body may come, or an answer be taken, without a single byte moving, and `rate` how many bytes each second must move
    on average over such a time; 0 asks for one. `answer_time` is how long TorchServe may take for the head of an
    answer: models are slow, so none by default. `handshakes` is how many TLS handshakes go on at once, `handshake_time`
    how long one may take. `model_concurrency` is how many requests for one model are under way at once, `model_queue`
    how many more wait, each for `queue_time`.
    """

    request_line: int = 4 * KIB
    head: int = 16 * KIB
    headers: int = 100
    body: int | None = 6_553_500
    management_body: int = 64 * KIB
    connections: int = 4096
    source_connections: int | None = None
    turned_away: int = 4096
    idle_upstream: int = 256
    idle_time: float = 75.0
    head_time: float = 15.0
    stall_time: float = 60.0
    rate: int = 500
    answer_time: float | None = None
    linger_time: float = 2.0
    connect_time: float = 5.0
    handshakes: int = 512
    handshake_time: float = 10.0
    model_concurrency: int | None = None
    model_queue: int = 100
    queue_time: float = 30.0

    def shared(self, processes: int) -> Limits:
        """Return what one of several processes is to hold, so that all together hold about the whole.

        The kernel deals connections out as it likes, so that a share may be full where another has room.
        """
        return replace(
            self,
            connections=_share(self.connections, processes),
            source_connections=self.source_connections and _share(self.source_connections, processes),
            handshakes=_share(self.handshakes, processes),
            model_concurrency=self.model_concurrency and _share(self.model_concurrency, processes),
            model_queue=_share(self.model_queue, processes),
        )


def _share(whole: int, processes: int) -> int:
    return -(-whole // processes)
