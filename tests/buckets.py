"""Buckets for tests: a server of S3's protocol and one of Google's, and what stands before them and can misbehave."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import subprocess
import threading
import time
import tomllib
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import servers

EXTRAS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PACKAGES = (*EXTRAS["s3"], *EXTRAS["gcs"], "moto[server]>=5", "gcp-storage-emulator>=2024.8")
_MOTO = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
_EMULATOR = (
    "import time; from gcp_storage_emulator.server import create_server\n"
    "create_server('127.0.0.1', {port}, in_memory=True, default_bucket='models').start()\n"
    "while True: time.sleep(60)"
)
# moto looks whether a request is signed before something is replaced, not how.
_SIGNED = "AWS4-HMAC-SHA256 Credential=a/20300101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
KEY, SECRET = "AKIAHUNTER2HUNTER2", "hunter2hunter2hunter2"
HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
Behaviour = Callable[["Handler"], None]


@dataclass
class Front:
    """What clients ask: it asks the server behind it, or does what a test tells it to for requests of a kind."""

    port: int
    behind: int
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self) -> list[str]:
        """Return what of an object was asked for, in order."""
        found = [{name.lower(): value for name, value in headers.items()} for _, _, headers in self.asked]
        return [headers["range"] for headers in found if "range" in headers]

    def put(self, path: str, data: bytes = b"", method: str = "PUT", **headers: str) -> bytes:
        """Have the server behind it do something."""
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status < 300, body
            return body


class Handler(http.server.BaseHTTPRequestHandler):
    """One request, of the kind `look` (its size, what it is) or `data`."""

    protocol_version = "HTTP/1.1"
    front: Front

    @property
    def kind(self) -> str:
        return "data" if "Range" in self.headers else "look"

    def do_GET(self) -> None:
        self.front.asked.append((self.command, self.path, dict(self.headers)))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.front.behaviours.get(self.kind, Handler.forward)(self)

    def do_HEAD(self) -> None:
        self.do_GET()

    def forward(self) -> None:
        """Answer as the server behind it does."""
        self.send(*self.fetched())

    def fetched(self) -> tuple[int, dict[str, str], bytes]:
        """Return what the server behind it answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.front.behind, timeout=30)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
            return answer.status, headers | {"Content-Length": length or "0"}, body

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address) -> None:
        """Clients hang up here."""


@contextlib.contextmanager
def front(behind: int) -> Iterator[Front]:
    """What stands before a server on this port."""
    server = _Server(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    standing = Front(server.server_address[1], behind)
    server.RequestHandlerClass = type("Bound", (Handler,), {"front": standing})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield standing
    finally:
        standing.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Store:
    """A service with the bucket `models`, as one scheme has it: how to put an object, and what clients must be told."""

    scheme: str
    front: Front
    variables: dict[str, str]

    def has(self, key: str, data: bytes) -> str:
        """Put an object; return its address."""
        if self.scheme == "s3":
            self.front.put(f"/models/{urllib.parse.quote(key)}", data, Authorization=_SIGNED)
        else:
            name = urllib.parse.quote(key, safe="")
            target = f"/upload/storage/v1/b/models/o?uploadType=media&name={name}"
            self.front.put(target, data, "POST", Content_Type="application/octet-stream")
        return f"{self.scheme}://models/{key}"


@contextlib.contextmanager
def store(scheme: str, python: Path) -> Iterator[Store]:
    """A service of this scheme, run by the interpreter that has it."""
    (port,) = servers.free_ports(1)
    script = (_MOTO if scheme == "s3" else _EMULATOR).format(port=port)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([str(python), "-c", script], **quiet) as process:
        try:
            _wait_for(port, process)
            with front(port) as standing:
                if scheme == "s3":
                    standing.put("/models")
                    variables = {
                        "AWS_ENDPOINT_URL": standing.url,
                        "AWS_ACCESS_KEY_ID": KEY,
                        "AWS_SECRET_ACCESS_KEY": SECRET,
                        "AWS_DEFAULT_REGION": "us-east-1",
                        "AWS_EC2_METADATA_DISABLED": "true",
                    }
                else:
                    variables = {"STORAGE_EMULATOR_HOST": standing.url, "NO_GCE_CHECK": "true"}
                yield Store(scheme, standing, variables)
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        assert process.poll() is None, "the server of buckets ended"
        assert time.monotonic() < deadline, "the server of buckets does not answer"
        time.sleep(0.05)
