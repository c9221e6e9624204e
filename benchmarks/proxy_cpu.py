"""CPU per request of the guard's door, everything on, against nginx doing plain proxying: same run, same upstream.

    python benchmarks/proxy_cpu.py [--json] [--rounds N] [--seconds S] [--connections C] [--post BYTES]

Each round loads nginx, then the door, through the same client; a round's ratio is door / nginx. The door classifies
each request, checks the inference key, makes a request id and injects the upstream credential; nginx does none of it.
It makes a trace and writes its access log too.
CPU is user and system time of the proxy's process, from /proc; the load is wrk's where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from _measure import need

KEY = "benchmark-key"
ANSWER = '{"prediction": [0.1, 0.9], "label": "cat"}'
TARGET = "/predictions/noop"
_TICKS = os.sysconf("SC_CLK_TCK")

UPSTREAM = """
daemon off; master_process off; pid {dir}/upstream.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {dir}/u1; proxy_temp_path {dir}/u2; fastcgi_temp_path {dir}/u3;
  uwsgi_temp_path {dir}/u4; scgi_temp_path {dir}/u5; keepalive_requests 100000000; client_max_body_size 0;
  server {{ listen unix:{dir}/upstream.sock; default_type application/json;
    location / {{ return 200 '{answer}'; }} }} }}
"""
_NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {dir}/p1; proxy_temp_path {dir}/p2; fastcgi_temp_path {dir}/p3;
  uwsgi_temp_path {dir}/p4; scgi_temp_path {dir}/p5; keepalive_requests 100000000; client_max_body_size 0;
  upstream plain {{ server unix:{dir}/upstream.sock; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://plain; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
"""


def serve_door(port: int, upstream: str) -> None:
    """Run the door until the process is ended."""
    import enforcing  # noqa: PLC0415 - only the child needs these
    import uvloop  # noqa: PLC0415

    from torchserve_guard.access import ANONYMOUS, Mode  # noqa: PLC0415
    from torchserve_guard.audit import AccessLog, AuditLog  # noqa: PLC0415
    from torchserve_guard.identity import KeyFile  # noqa: PLC0415
    from torchserve_guard.policy import Access  # noqa: PLC0415
    from torchserve_guard.proxy import Door, Limits, ListenerSpec  # noqa: PLC0415
    from torchserve_guard.proxy.memory import spare_what_stays  # noqa: PLC0415
    from torchserve_guard.wire import Listener  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp(dir=Path(upstream).parent))
    keys = KeyFile(folder / "key_file.json", 3600, time.time)
    keys.write()
    key = json.loads(keys.path.read_text())["inference"]["key"]
    assert keys.identify(f"Bearer {key}".encode()) != ANONYMOUS
    print(key, flush=True)

    audit = AuditLog(folder / "audit.log", time.time)
    enforcer = enforcing.enforcer(Access(Mode.NONE, keys_required=True), keys, audit)
    spec = ListenerSpec(f"http://127.0.0.1:{port}", f"unix:{upstream}", b"Authorization: Bearer upstream-token")

    access = AccessLog(folder / "access.log")

    async def main() -> None:
        access.start()
        await Door({Listener.INFERENCE: spec}, enforcer, Limits(body=None, connections=12_000), access=access).open()
        spare_what_stays()
        await asyncio.Event().wait()

    uvloop.run(main())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(*command: str, **kwargs: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, **kwargs)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def wait_for(family: socket.AddressFamily, address: object) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket(family) as probe:
            try:
                probe.connect(address)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def load(port: int, key: str, options: argparse.Namespace, folder: Path) -> int:
    """Put load on a port; return how many requests were answered with 200."""
    if shutil.which("wrk") is None:
        return load_from_here(port, key, options)
    command = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "-H", f"Authorization: Bearer {key}"]
    if options.post:
        script = folder / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = string.rep("x", {options.post})\n'
            'wrk.headers["Content-Type"] = "application/json"\nwrk.headers["Accept"] = "*/*"\n'
            'wrk.headers["User-Agent"] = "python-requests/2.32.3"\nwrk.headers["Accept-Encoding"] = "gzip, deflate"\n'
        )
        command += ["-s", str(script)]
    out = subprocess.run([*command, f"http://127.0.0.1:{port}{TARGET}"], capture_output=True, text=True, check=True)
    if "Non-2xx" in out.stdout or "Socket errors" in out.stdout:
        raise SystemExit(f"the load met with errors:\n{out.stdout}")
    return next(int(line.split()[0]) for line in out.stdout.splitlines() if " requests in " in line)


def load_from_here(port: int, key: str, options: argparse.Namespace) -> int:
    deadline = time.monotonic() + options.seconds
    counts = []

    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        count = 0
        while time.monotonic() < deadline:
            body = b"x" * options.post or None
            connection.request("POST" if body else "GET", TARGET, body, {"Authorization": f"Bearer {key}"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            count += 1
        counts.append(count)
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(options.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def measure(pid: int, port: int, key: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    before = cpu_seconds(pid)
    requests = load(port, key, options, folder)
    used = cpu_seconds(pid) - before
    return {"requests_per_s": round(requests / options.seconds), "cpu_us": round(used / requests * 1e6, 2)}


def run(options: argparse.Namespace) -> dict[str, object]:
    rounds = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = free_port(), free_port()
        for name, text in (("upstream", UPSTREAM), ("nginx", _NGINX)):
            (folder / f"{name}.conf").write_text(text.format(dir=folder, answer=ANSWER, port=ports[0]))
        upstream = str(folder / "upstream.sock")
        stack.enter_context(running("nginx", "-c", str(folder / "upstream.conf")))
        wait_for(socket.AF_UNIX, upstream)
        nginx = stack.enter_context(running("nginx", "-c", str(folder / "nginx.conf")))
        door = stack.enter_context(
            running(sys.executable, __file__, "--serve", str(ports[1]), upstream, stdout=subprocess.PIPE)
        )
        assert door.stdout is not None
        key = door.stdout.readline().strip()
        for port in ports:
            wait_for(socket.AF_INET, ("127.0.0.1", port))
        warm = argparse.Namespace(**{**vars(options), "seconds": 1})
        for port in ports:
            load(port, key, warm, folder)
        for _ in range(options.rounds):
            plain = measure(nginx.pid, ports[0], key, options, folder)
            guarded = measure(door.pid, ports[1], key, options, folder)
            rounds.append({"nginx": plain, "guard": guarded, "ratio": round(guarded["cpu_us"] / plain["cpu_us"], 3)})
    ratios = [round_["ratio"] for round_ in rounds]
    return {"schema": "tsguard/benchmark/proxy-cpu/1", "rounds": rounds, "ratio_median": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--post", type=int, default=0, metavar="BYTES", help="POST a body of this size")
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "UPSTREAM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_door(int(options.serve[0]), options.serve[1])
        return
    need("nginx")
    result = run(options)
    if options.json:
        print(json.dumps(result))
        return
    for number, round_ in enumerate(result["rounds"], 1):  # type: ignore[arg-type]
        nginx, guard = round_["nginx"], round_["guard"]
        print(
            f"round {number}: nginx {nginx['cpu_us']:6.2f} us ({nginx['requests_per_s']}/s)   "
            f"guard {guard['cpu_us']:6.2f} us ({guard['requests_per_s']}/s)   ratio {round_['ratio']:.2f}"
        )
    print(f"median ratio of CPU per request, guard / nginx: {result['ratio_median']:.2f}")


if __name__ == "__main__":
    main()
