"""Idle connections at the guard's door: what one costs in memory, and what they all cost an active client.

    python benchmarks/idle_connections.py [--json] [--connections N] [--seconds S] [--rounds R]

Each idle connection has asked once and is kept alive. An active client asks one thing after the other on a connection
of its own, first alone, then beside the others. Memory is the resident set of the door's process; what the kernel keeps
for a socket is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import proxy_cpu
from _measure import need

_PER_ADDRESS = 20_000  # ephemeral ports of one address


def resident(pid: int) -> int:
    """Return the bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024


def ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    told = b""
    while not told.endswith(b"}"):
        piece = connection.recv(4096)
        if not piece:
            raise SystemExit("the door hung up")
        told += piece
    assert told.startswith(b"HTTP/1.1 200 "), told


def asked(port: int, request: bytes, seconds: float) -> list[float]:
    """Return how long each of an active client's requests took, in milliseconds."""
    took = []
    with socket.create_connection(("127.0.0.1", port)) as active:
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            ask(active, request)
            took.append((time.monotonic() - began) * 1e3)
    return took


def idle(port: int, request: bytes, count: int) -> list[socket.socket]:
    """Return connections that have asked once."""
    held = []
    for number in range(count):
        local = (f"127.0.0.{2 + number // _PER_ADDRESS}", 0)
        held.append(socket.create_connection(("127.0.0.1", port), source_address=local))
        ask(held[-1], request)
    return held


def figures(took: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(took, n=100)
    return {
        "requests": len(took),
        "p50_ms": round(cut[49], 3),
        "p99_ms": round(cut[98], 3),
        "max_ms": round(max(took), 3),
    }


@contextlib.contextmanager
def door(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, bytes]]:
    """Run an upstream and a door in front of it; yield its process, its port, and a request that it answers."""
    port, upstream = proxy_cpu.free_port(), str(folder / "upstream.sock")
    (folder / "upstream.conf").write_text(proxy_cpu.UPSTREAM.format(dir=folder, answer=proxy_cpu.ANSWER))
    with (
        proxy_cpu.running("nginx", "-c", str(folder / "upstream.conf")),
        proxy_cpu.running(
            sys.executable, proxy_cpu.__file__, "--serve", str(port), upstream, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        key = process.stdout.readline().strip()
        proxy_cpu.wait_for(socket.AF_INET, ("127.0.0.1", port))
        target = proxy_cpu.TARGET
        yield process, port, f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


def run(options: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, door(Path(name)) as (process, port, request):
        asked(port, request, 1.0)
        before = resident(process.pid)
        alone = [figures(asked(port, request, options.seconds)) for _ in range(options.rounds)]
        held = idle(port, request, options.connections)
        time.sleep(2)
        each = (resident(process.pid) - before) / options.connections
        beside = [figures(asked(port, request, options.seconds)) for _ in range(options.rounds)]
        memory = resident(process.pid)
        for connection in held:
            connection.close()
    return {
        "schema": "tsguard/benchmark/idle-connections/1",
        "connections": options.connections,
        "resident_before_mib": round(before / 2**20, 1),
        "resident_mib": round(memory / 2**20, 1),
        "bytes_per_idle_connection": round(each),
        "active_alone": alone,
        "active_beside": beside,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    need("nginx")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = run(options)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{found['connections']} idle connections: {found['bytes_per_idle_connection']} bytes each;", end=" ")
    print(f"the door has {found['resident_mib']} MiB in memory, {found['resident_before_mib']} before")
    for name in ("active_alone", "active_beside"):
        for one in found[name]:  # type: ignore[attr-defined]
            print(f"  {name:14} p50 {one['p50_ms']:.3f} ms, p99 {one['p99_ms']:.3f} ms, most {one['max_ms']:.1f} ms")


if __name__ == "__main__":
    main()
