"""Large bodies through the guard's door, each way: throughput and the peak memory of the guard's own process.

    python benchmarks/large_bodies.py [--json] [--gib N]

The upstream is a plain one in this process, as is the client; the door runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from proxy_cpu import free_port, running, wait_for

PIECE = b"x" * 262144


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
    while left > 0:
        count = connection.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise EOFError
        left -= count


def give(connection: socket.socket, left: int) -> None:
    while left > 0:
        piece = PIECE if left >= len(PIECE) else PIECE[:left]
        connection.sendall(piece)
        left -= len(piece)


def take_chunks(connection: socket.socket, rest: bytes, buffer: bytearray) -> int:
    """Read a chunked body; return its length."""
    total = 0
    while True:
        while b"\r\n" not in rest:
            rest += connection.recv(64)
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        total += size
        if len(rest) < size + 2:
            take(connection, size + 2 - len(rest), buffer)
            rest = b""
        else:
            rest = rest[size + 2 :]
        if not size:
            return total


def serve(connection: socket.socket, size: int) -> None:
    """Answer POST with the length of its body, GET with a body of `size`, `/predictions/chunked` in chunks."""
    buffer = bytearray(len(PIECE))
    with connection, contextlib.suppress(EOFError, OSError):
        while True:
            head, rest = read_head(connection)
            lower = head.lower()
            if head.startswith(b"GET /predictions/chunked"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(size // len(PIECE)):
                    connection.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                connection.sendall(b"0\r\n\r\n")
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


def upload(connection: socket.socket, auth: bytes, size: int) -> int:
    connection.sendall(b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\n" + auth + b"Content-Length: %d\r\n\r\n" % size)
    give(connection, size)
    return int(read_head(connection)[1])


def upload_chunked(connection: socket.socket, auth: bytes, size: int) -> int:
    connection.sendall(b"POST /predictions/noop HTTP/1.1\r\nHost: x\r\n" + auth + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(size // len(PIECE)):
        connection.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
    connection.sendall(b"0\r\n\r\n")
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


def run(size: int) -> dict[str, object]:
    rows = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path, port = str(folder / "upstream.sock"), free_port()
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(16)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0], size), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        script = Path(__file__).with_name("proxy_cpu.py")
        door = stack.enter_context(
            running(sys.executable, str(script), "--serve", str(port), path, stdout=subprocess.PIPE)
        )
        assert door.stdout is not None
        auth = b"Authorization: Bearer " + door.stdout.readline().strip().encode() + b"\r\n"
        wait_for(socket.AF_INET, ("127.0.0.1", port))
        idle = peak_mib(door.pid)
        for name, way in WAYS.items():
            with socket.create_connection(("127.0.0.1", port)) as connection:
                started = time.monotonic()
                passed = way(connection, auth, size)
                took = time.monotonic() - started
            assert passed == size, (name, passed, size)
            rows.append(
                {"way": name, "gib_per_s": round(size / 2**30 / took, 2), "peak_mib": round(peak_mib(door.pid), 1)}
            )
        listener.shutdown(socket.SHUT_RDWR)
    return {"schema": "tsguard/benchmark/large-bodies/1", "gib": size / 2**30, "idle_mib": round(idle, 1), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--gib", type=float, default=4.0)
    options = parser.parse_args()
    result = run(int(options.gib * 2**30) // len(PIECE) * len(PIECE))
    if options.json:
        print(json.dumps(result))
        return
    print(f"guard before: peak {result['idle_mib']} MiB")
    for row in result["rows"]:  # type: ignore[attr-defined]
        print(f"{result['gib']:.2f} GiB {row['way']:18} {row['gib_per_s']:6.2f} GiB/s   peak {row['peak_mib']} MiB")


if __name__ == "__main__":
    main()
