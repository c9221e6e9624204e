"""Slow clients at the guard's door: what everybody else notices of them.

    python benchmarks/slow_clients.py [--json] [--rounds R] [--seconds S] [--connections C]

Each round loads the door through wrk twice, in peace and under attack: 100 clients whose bodies come a byte at a time,
half-open requests that are opened and left as fast as `--flood` says, and 20 clients that ask a thousand times and
never read. The attack has a process of its own; its CPU is the machine's loss and counts against the door here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import proxy_cpu
from _measure import Load, need, wrk
from idle_connections import door

SLOW, UNREAD, HELD, ASKED = 100, 20, 500, 1000


class Attack:
    """Clients that do harm by doing little; `flood` is how many half-open requests come each second."""

    def __init__(self, port: int, request: bytes, flood: float) -> None:
        self.port = port
        self.request = request
        self.flood = flood
        self.half_open: list[asyncio.StreamWriter] = []

    async def run(self) -> None:
        """Attack until ended."""
        each = [self._slow] * SLOW + [self._unread] * UNREAD + [self._flooding]
        await asyncio.gather(*(self._again(one) for one in each))

    async def _again(self, once: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await once()
            except OSError:
                await asyncio.sleep(0.1)

    async def _opened(self) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        return writer

    async def _slow(self) -> None:
        writer = await self._opened()
        long = b"\r\nContent-Length: 1000000\r\n\r\n"
        writer.write(self.request.replace(b"GET", b"POST").replace(b"\r\n\r\n", long))
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.5)

    async def _unread(self) -> None:
        writer = await self._opened()
        writer.write(self.request * ASKED)
        await writer.wait_closed()

    async def _flooding(self) -> None:
        writer = await self._opened()
        writer.write(self.request[:30])
        self.half_open.append(writer)
        if len(self.half_open) > HELD:
            self.half_open.pop(0).transport.abort()
        await asyncio.sleep(1 / self.flood)


def measured(port: int, key: str, options: argparse.Namespace, folder: Path) -> Load:
    return wrk(port, proxy_cpu.TARGET, options.connections, options.seconds, folder, key)


def run(options: argparse.Namespace) -> dict[str, object]:
    rounds = []
    with tempfile.TemporaryDirectory() as name, door(Path(name)) as (_, port, request):
        key = request.split(b"Bearer ")[1].split(b"\r")[0].decode()
        measured(port, key, argparse.Namespace(connections=options.connections, seconds=1), Path(name))
        for _ in range(options.rounds):
            peace = measured(port, key, options, Path(name))
            command = [sys.executable, __file__, "--attack", str(port), key, "--flood", str(options.flood)]
            with proxy_cpu.running(*command):
                measured(port, key, argparse.Namespace(connections=2, seconds=2), Path(name))
                war = measured(port, key, options, Path(name))
            rounds.append(
                {
                    "rate_ratio": round(war.rate / peace.rate, 3),
                    "p50_ratio": round(war.p50 / peace.p50, 3),
                    "p99_ratio": round(war.p99 / peace.p99, 3),
                    "failed": war.failed,
                    "p99_ms": [round(peace.p99 * 1e3, 3), round(war.p99 * 1e3, 3)],
                }
            )
    medians = {
        name: statistics.median(one[name] for one in rounds) for name in ("rate_ratio", "p50_ratio", "p99_ratio")
    }
    return {"schema": "tsguard/benchmark/slow-clients/1", "rounds": rounds, **medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--flood", type=float, default=50.0, help="half-open requests each second")
    parser.add_argument("--attack", nargs=2, metavar=("PORT", "KEY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        port, key = options.attack
        request = f"GET {proxy_cpu.TARGET} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        asyncio.run(Attack(int(port), request.encode(), options.flood).run())
        return
    need("nginx", "wrk")
    found = run(options)
    if options.json:
        print(json.dumps(found))
        return
    for number, one in enumerate(found["rounds"], 1):  # type: ignore[arg-type]
        peace, war = one["p99_ms"]
        print(
            f"round {number}: rate {one['rate_ratio']:.2f}, p50 {one['p50_ratio']:.2f}, p99 {one['p99_ratio']:.2f} "
            f"of those in peace (p99 {peace:.2f} and {war:.2f} ms), {one['failed']} failed"
        )
    print(
        f"median under attack: rate {found['rate_ratio']:.2f}, p50 {found['p50_ratio']:.2f}, "
        f"p99 {found['p99_ratio']:.2f}"
    )


if __name__ == "__main__":
    main()
