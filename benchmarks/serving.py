"""Throughput and latency of the no-op model through the guard, against bare stock TorchServe in the same run.

Both servers are up all the time; rounds of load alternate between them, and ratios are taken pair by pair.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _measure import machine, need, pair, row, servers, spread, versions, wrk

CONNECTIONS = (1, 8, 32)
FIGURES = ("rate", "p50", "p99")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, help="how many at a time")
    parser.add_argument("--warm-up", type=int, default=40, help="seconds of load on each server before any is counted")
    options = parser.parse_args()
    need("wrk")
    print(machine(), versions("torchserve", "torch", "uvloop", "httptools"), sep="; ")
    with servers.folder("tsg-b-") as folder, pair(folder) as (stock, guarded):
        # The JVM compiles for some 20,000 requests; until then it is the compiler that is measured.
        for server in (stock, guarded) * 2:
            wrk(server.inference, "/predictions/noop", 8, options.warm_up // 2, folder)
        for connections in options.connections:
            compare(stock, guarded, connections, options, folder)


def compare(
    stock: servers.Stock, guarded: servers.Guarded, connections: int, options: argparse.Namespace, folder: Path
) -> None:
    pairs = []
    for number in range(options.rounds):
        order = (stock, guarded) if number % 2 == 0 else (guarded, stock)
        seen = {}
        for server in order:
            seen[id(server)] = wrk(server.inference, "/predictions/noop", connections, options.seconds, folder)
        pairs.append((seen[id(stock)], seen[id(guarded)]))
    print(f"{connections} connections, {options.rounds} rounds of {options.seconds} s each, median (least-most):")
    print(row("stock", [theirs for theirs, _ in pairs]))
    print(row("guarded", [ours for _, ours in pairs]))
    ratios = {what: [getattr(ours, what) / getattr(theirs, what) for theirs, ours in pairs] for what in FIGURES}
    print("  ratio    " + ", ".join(f"{what} {spread(values)}" for what, values in ratios.items()))
    failed = sum(a.failed + b.failed for a, b in pairs)
    if failed:
        print(f"  FAILED   {failed} requests")


if __name__ == "__main__":
    main()
