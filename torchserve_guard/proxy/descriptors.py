"""The descriptors: as many as the connections need, or no more connections than there are descriptors for.

A process that has none left can neither accept, nor ask TorchServe, nor write its record: who only connects, to all
ports at once, must not get it there. So the ports of a process share what it may have.
"""

from __future__ import annotations

import resource
from dataclasses import replace

from torchserve_guard.proxy.limits import Limits

_EACH = 3  # a connection, one upstream while a request is under way, and that once more while a body streams
_OTHERS = 64  # files, pipes, sockets of our own
_TURNED_AWAY = 64  # connections at all ports that are over the limit, and are told so
_FROM_ONE = 0.75  # of the connections, where nothing else was asked for


def fitting(limits: Limits, ports: int, pools: int = 0) -> Limits:
    """Return limits that this process can hold at so many ports, after it was allowed what the system lets it have.

    `ports` are all that it listens at, gRPC's too. `pools` is how many listeners of TorchServe's are behind them beside
    the first of each port: what is kept open to one of them stays while the others are asked.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ports = max(1, ports)
    each, others = _EACH * ports + pools, _OTHERS + _TURNED_AWAY
    most = others + (each + ports) * limits.connections  # with room for as many who are turned away
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    if resource.RLIM_INFINITY != soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    connections = min(limits.connections, max(1, (most - others) // each))
    return replace(
        limits,
        connections=connections,
        source_connections=_from_one(limits, connections),
        turned_away=min(limits.turned_away, max(0, most - _OTHERS - each * connections) // ports),
        idle_upstream=min(limits.idle_upstream, connections),
    )


def _from_one(limits: Limits, connections: int) -> int | None:
    """Return how many connections one address may have: not all where there are fewer, unless it was to have all."""
    asked = limits.source_connections
    if asked is None or connections == limits.connections:
        return asked
    return min(asked, max(1, int(connections * min(1.0, max(_FROM_ONE, asked / limits.connections)))))


def shortage(asked: int, held: int, who: str = "each listener") -> str | None:
    """Return what the user is told when fewer connections are held than were asked for, None when there is room."""
    if held >= asked:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"{who} takes {held} connections at a time, not {asked} (`guard.max_connections`): a process may have "
        f"{hard} descriptors here; raise that limit (`ulimit -Hn`, LimitNOFILE of systemd, --ulimit nofile of Docker)"
    )
