"""One HTTP request over a unix socket: bounded in time and in size, synchronous, and no more than that."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LIMIT = 16 << 20
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: the status, and the whole body."""

    status: int
    body: bytes


class UnixConnection(http.client.HTTPConnection):
    """An HTTP/1.1 connection whose peer is a path."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the path; a path over 107 bytes is an OSError."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(self.timeout)
        try:
            peer.connect(str(self.path))
        except BaseException:
            peer.close()
            raise
        self.sock = peer


def request(
    path: Path,
    method: str,
    target: str,
    headers: Mapping[str, str],
    timeout: float,
    *,
    body: bytes | None = None,
    limit: int = LIMIT,
) -> Response:
    """Ask once and return the answer; whoever does not answer in HTTP, within `timeout` seconds, is an OSError.

    The body is read until it ends, `limit` bytes at most; more is an OSError too.
    """
    end = time.monotonic() + timeout
    connection = UnixConnection(path, timeout)
    try:
        connection.request(method, target, body=body, headers=dict(headers))
        with connection.getresponse() as response:
            return Response(response.status, _read(connection, response, end, limit))
    except (http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"`{path}` did not answer in HTTP: {error!r}") from error
    finally:
        connection.close()


def _read(connection: UnixConnection, response: http.client.HTTPResponse, end: float, limit: int) -> bytes:
    body = bytearray()
    while chunk := response.read1(CHUNK):
        body += chunk
        if len(body) > limit:
            raise ConnectionError(f"`{connection.path}` answers with more than {limit} bytes")
        remaining = end - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(f"`{connection.path}` did not finish its answer in time")
        if connection.sock is not None:
            connection.sock.settimeout(remaining)
    if response.length:
        raise ConnectionError(f"`{connection.path}` stopped in the middle of its answer")
    return bytes(body)
