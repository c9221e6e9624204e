"""Throughput and latency of predictions over gRPC through the guard, against bare stock TorchServe in the same run.

Both servers are up all the time; rounds of load alternate between them, and ratios are taken pair by pair. What the
guard's process takes of the processors for each call is counted beside it. The load is grpcio's own client, in a
process of its own, which takes more of the processors than the guard does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
from _measure import Load, machine, pair, row, servers, spread, versions

IN_FLIGHT = (1, 8, 32)
FIGURES = ("rate", "p50", "p99")

CLIENT = """
import asyncio, json, sys, time
from grpc import aio

async def main(port, path, message, flight, seconds):
    times, failed = [], 0
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(path)
        end = time.perf_counter() + seconds

        async def one():
            nonlocal failed
            while (begun := time.perf_counter()) < end:
                try:
                    await ask(message)
                except aio.AioRpcError:
                    failed += 1
                else:
                    times.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(flight)))
        took = time.perf_counter() - begun
    times.sort()
    at = lambda share: times[int(share * (len(times) - 1))] if times else float("nan")
    print(json.dumps({"rate": len(times) / took, "p50": at(0.5), "p99": at(0.99), "failed": failed}))

port, path, message, flight, seconds = sys.argv[1:]
asyncio.run(main(int(port), path, bytes.fromhex(message), int(flight), float(seconds)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=40, help="seconds of load on each server before any is counted")
    parser.add_argument("--in-flight", type=int, nargs="+", default=list(IN_FLIGHT))
    options = parser.parse_args()
    print(machine(), versions("torchserve", "torch", "uvloop", "grpcio"), sep="; ")
    with servers.folder("tsg-b-") as folder, pair(folder) as (stock, guarded):
        # The JVM compiles for some 20,000 calls; until then it is the compiler that is measured.
        for server in (stock, guarded) * 2:
            asked(server, 8, options.warm_up // 2, folder)
        for flight in options.in_flight:
            compare(stock, guarded, flight, options, folder)


def asked(server: servers.Server, flight: int, seconds: float, folder: Path) -> Load:
    """Ask for predictions for some seconds, so many at a time, on one connection."""
    import messages  # noqa: PLC0415 - it lies with the tests, and needs TorchServe's jar

    path = f"{messages.INFERENCE}Predictions"
    message = messages.request(path, model_name="noop", input={"data": b'{"data": "twelve bytes"}'})
    script = folder / "client.py"
    script.write_text(CLIENT)
    done = subprocess.run(
        [sys.executable, str(script), str(server.grpc[0]), path, message.hex(), str(flight), str(seconds)],
        capture_output=True,
        text=True,
        check=True,
    )
    return Load(**json.loads(done.stdout))


def spent(server: servers.Guarded) -> float:
    """Return the seconds of processor time that the guard's own process has taken."""
    times = psutil.Process(server.process.pid).cpu_times()
    return times.user + times.system


def compare(
    stock: servers.Stock, guarded: servers.Guarded, flight: int, options: argparse.Namespace, folder: Path
) -> None:
    pairs, costs = [], []
    for number in range(options.rounds):
        order = (stock, guarded) if number % 2 == 0 else (guarded, stock)
        seen = {}
        for server in order:
            before = spent(guarded)
            seen[id(server)] = load = asked(server, flight, options.seconds, folder)
            if server is guarded:
                costs.append((spent(guarded) - before) / (load.rate * options.seconds) * 1e6)
        pairs.append((seen[id(stock)], seen[id(guarded)]))
    print(f"{flight} in flight, {options.rounds} rounds of {options.seconds} s each, median (least-most):")
    print(row("stock", [theirs for theirs, _ in pairs]))
    print(row("guarded", [ours for _, ours in pairs]))
    ratios = {what: [getattr(ours, what) / getattr(theirs, what) for theirs, ours in pairs] for what in FIGURES}
    print("  ratio    " + ", ".join(f"{what} {spread(values)}" for what, values in ratios.items()))
    print(f"  guard    {statistics.median(costs):.0f} us of CPU for each call ({min(costs):.0f}-{max(costs):.0f})")
    failed = sum(a.failed + b.failed for a, b in pairs)
    if failed:
        print(f"  FAILED   {failed} calls")


if __name__ == "__main__":
    main()
