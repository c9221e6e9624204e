"""Large bodies through the guard's door, each way: throughput, the CPU and the peak memory of the guard's own process.

    python benchmarks/large_bodies.py [--json] [--gib N]

The upstream is a plain one, and like the door it runs in a process of its own; the client is this process. The same
bytes pass through nginx in the same run where it is installed, buffering off: what a proxy in C does here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy_cpu import cpu_seconds, free_port, running, wait_for

PIECE = b"x" * (1 << 20)
CHUNK = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
GIB = 1 << 30

_NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path {dir}/p1; proxy_temp_path {dir}/p2; fastcgi_temp_path {dir}/p3;
  uwsgi_temp_path {dir}/p4; scgi_temp_path {dir}/p5; client_max_body_size 0; client_body_buffer_size 256k;
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://unix:{dir}/upstream.sock:; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_buffering off; proxy_buffer_size 256k; proxy_buffers 8 256k; }} }} }}
"""


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise EOFError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def take(connection: socket.socket, left: int, buffer: bytearray) -> None:
    view = memoryview(buffer)
    while left > 0:
        count = connection.recv_into(view[: min(left, len(view))])
        if not count:
            raise EOFError
        left -= count


def give(connection: socket.socket, left: int) -> None:
    while left > 0:
        piece = PIECE if left >= len(PIECE) else PIECE[:left]
        connection.sendall(piece)
        left -= len(piece)


def give_chunks(connection: socket.socket, size: int) -> None:
    for _ in range(size // len(PIECE)):
        connection.sendall(CHUNK)
    connection.sendall(b"0\r\n\r\n")


def take_chunks(connection: socket.socket, rest: bytes, buffer: bytearray) -> int:
    """Read a chunked body; return its length."""
    view = memoryview(buffer)
    view[: len(rest)] = rest
    at, end = 0, len(rest)
    total = 0
    while True:
        # `buffer[at:end]` is what has come and is not read yet.
        line_end = buffer.find(b"\r\n", at, end)
        if line_end < 0:
            view[: end - at] = bytes(view[at:end])
            at, end = 0, end - at
            end += received(connection, view[end:])
            continue
        size = int(buffer[at:line_end], 16)
        total += size
        at = line_end + 2
        here = min(size + 2, end - at)
        at += here
        if here < size + 2:
            take(connection, size + 2 - here, buffer)
            at = end = 0
        if not size:
            return total


def received(connection: socket.socket, view: memoryview) -> int:
    count = connection.recv_into(view)
    if not count:
        raise EOFError
    return count


def serve(connection: socket.socket, size: int) -> None:
    """Answer POST with the length of its body, GET with a body of `size`, `/predictions/chunked` in chunks."""
    buffer = bytearray(len(PIECE))
    with connection, contextlib.suppress(EOFError, OSError):
        while True:
            head, rest = read_head(connection)
            lower = head.lower()
            if head.startswith(b"GET /predictions/chunked"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                give_chunks(connection, size)
                continue
            if head.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                give(connection, size)
                continue
            if b"transfer-encoding" in lower:
                length = take_chunks(connection, rest, buffer)
            else:
                length = int(lower.partition(b"content-length:")[2].split()[0])
                take(connection, length - len(rest), buffer)
            body = str(length).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def serve_upstream(path: str, size: int) -> None:
    """Serve until the process is ended; one connection is loaded at a time."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0], size), daemon=True).start()


def upload(connection: socket.socket, auth: bytes, size: int) -> int:
    connection.sendall(b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\n" + auth + b"Content-Length: %d\r\n\r\n" % size)
    give(connection, size)
    return int(read_head(connection)[1])


def upload_chunked(connection: socket.socket, auth: bytes, size: int) -> int:
    connection.sendall(b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\n" + auth + b"Transfer-Encoding: chunked\r\n\r\n")
    give_chunks(connection, size)
    return int(read_head(connection)[1])


def download(connection: socket.socket, auth: bytes, size: int) -> int:
    connection.sendall(b"GET /predictions/noop HTTP/1.1\r\nHost: x\r\n" + auth + b"\r\n")
    head, rest = read_head(connection)
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    assert length == size
    take(connection, length - len(rest), bytearray(len(PIECE)))
    return length


def download_chunked(connection: socket.socket, auth: bytes, size: int) -> int:
    connection.sendall(b"GET /predictions/chunked HTTP/1.1\r\nHost: x\r\n" + auth + b"\r\n")
    assert size
    return take_chunks(connection, read_head(connection)[1], bytearray(len(PIECE)))


Way = Callable[[socket.socket, bytes, int], int]
WAYS: dict[str, Way] = {
    "upload": upload,
    "download": download,
    "upload, chunked": upload_chunked,
    "download, chunked": download_chunked,
}


@dataclass(frozen=True)
class Proxy:
    """What is measured: its name, process and port, and the header line that its clients send."""

    name: str
    pid: int
    port: int
    auth: bytes = b""


@contextlib.contextmanager
def proxies(folder: Path) -> Iterator[list[Proxy]]:
    """Run the door, and nginx where it is installed, before the same upstream."""
    with contextlib.ExitStack() as stack:
        script, port = Path(__file__).with_name("proxy_cpu.py"), free_port()
        command = (sys.executable, str(script), "--serve", str(port), str(folder / "upstream.sock"))
        door = stack.enter_context(running(*command, stdout=subprocess.PIPE))
        assert door.stdout is not None
        auth = b"Authorization: Bearer " + door.stdout.readline().strip().encode() + b"\r\n"
        found = [Proxy("guard", door.pid, port, auth)]
        if shutil.which("nginx") is not None:
            port = free_port()
            (folder / "nginx.conf").write_text(_NGINX.format(dir=folder, port=port))
            nginx = stack.enter_context(running("nginx", "-c", str(folder / "nginx.conf")))
            found.append(Proxy("nginx", nginx.pid, port))
        for proxy in found:
            wait_for(socket.AF_INET, ("127.0.0.1", proxy.port))
        yield found


def measured(proxy: Proxy, name: str, size: int) -> dict[str, object]:
    used = cpu_seconds(proxy.pid)
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        started = time.monotonic()
        passed = WAYS[name](connection, proxy.auth, size)
        took = time.monotonic() - started
    assert passed == size, (name, passed, size)
    return {
        "way": name,
        "proxy": proxy.name,
        "gib_per_s": round(size / GIB / took, 2),
        "cpu_s_per_gib": round((cpu_seconds(proxy.pid) - used) * GIB / size, 2),
        "peak_mib": round(peak_mib(proxy.pid), 1),
    }


def run(size: int) -> dict[str, object]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = str(folder / "upstream.sock")
        stack.enter_context(running(sys.executable, __file__, "--upstream", path, str(size)))
        wait_for(socket.AF_UNIX, path)
        found = stack.enter_context(proxies(folder))
        idle = {proxy.name: round(peak_mib(proxy.pid), 1) for proxy in found}
        rows = [measured(proxy, name, size) for name in WAYS for proxy in found]
    return {"schema": "tsguard/benchmark/large-bodies/1", "gib": size / GIB, "idle_mib": idle, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--upstream", nargs=2, metavar=("PATH", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        serve_upstream(options.upstream[0], int(options.upstream[1]))
        return
    result = run(int(options.gib * GIB) // len(PIECE) * len(PIECE))
    if options.json:
        print(json.dumps(result))
        return
    print(f"peak before: {result['idle_mib']} MiB")
    for row in result["rows"]:  # type: ignore[attr-defined]
        print(
            f"{result['gib']:.2f} GiB {row['way']:18} {row['proxy']:6} {row['gib_per_s']:6.2f} GiB/s "
            f"{row['cpu_s_per_gib']:6.2f} s of CPU per GiB   peak {row['peak_mib']} MiB"
        )


if __name__ == "__main__":
    main()
