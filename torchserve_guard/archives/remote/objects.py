"""Objects: archives in buckets, through fsspec (s3fs and gcsfs are extras), in a process of its own for each.

The service is the one that the machine's own configuration of it names, and so are the credentials; an address names
only the bucket and the key in it. The process is cut and ended like the connection to a host.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import BufferedReader
from typing import Any, NoReturn

from torchserve_guard.archives.progress import expect
from torchserve_guard.archives.remote.bucket import LARGEST, LONGEST_LINE, Order
from torchserve_guard.archives.remote.errand import Errand
from torchserve_guard.archives.remote.failure import refused, unfetched
from torchserve_guard.archives.remote.quarantine import Note
from torchserve_guard.errors import ConfigError
from torchserve_guard.terms import Proxy

PIECE = 1 << 18
EXTRAS = {"s3": "s3", "gs": "gcs"}
_BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from torchserve_guard.archives.remote.bucket import main; main()"
)
# Zonal buckets are spoken to by gRPC, past whatever is judged here, and each other bucket is asked whether it is one.
_ENVIRONMENT = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

Reader = Callable[[Order], AbstractContextManager[socket.socket]]


@contextlib.contextmanager
def reader(
    order: Order,
    python: str = sys.executable,
    path: Sequence[str] = sys.path,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[socket.socket]:
    """Lend the socket of a process that reads an object; it ends with it. Raises `OSError`.

    The environment is the guard's own: the clients look there for their service and credentials.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [python, "-I", "-c", _BEGIN, json.dumps([*path])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # Its clients log what they met with tracebacks and addresses; what is to be said comes by the socket.
                stderr=subprocess.DEVNULL,
                env={**environment, **_ENVIRONMENT},
            )
        try:
            ours.sendall(order.line())
            yield ours
        finally:
            process.kill()
            process.wait()


def transfer(errand: Errand, begun: Reader = reader) -> None:
    """Bring the file to its end. Raises `ConfigError`, `VerificationError` or `Unfetched`."""
    order = _order(errand)
    try:
        with begun(order) as connection, connection.makefile("rb") as answers:
            errand.watch.take(connection)
            _told(errand, answers, "ready")
            errand.watch.take(connection)  # anew: it was the machine that let us wait until now
            _take(errand, order, answers)
    except OSError as error:
        errand.watch.verify()
        unfetched(errand.origin, f"cannot be read ({type(error).__name__}: {error})", error)


def _order(errand: Errand) -> Order:
    terms, origin = errand.terms, errand.origin
    proxy = None if terms.proxy is None else _url(terms.proxy)
    networks = tuple(str(network) for network in terms.networks)
    place = origin.host + origin.path
    held, mark = errand.partial.size, errand.validator
    fewest = errand.subject.size or 0
    return Order(origin.scheme.value, place, mark, held, fewest, errand.most, terms.stall, networks, proxy)


def _url(proxy: Proxy) -> str:
    user = f"{proxy.credentials}@" if proxy.credentials is not None else ""
    return f"http://{user}{proxy.host}:{proxy.port}"


def _take(errand: Errand, order: Order, answers: BufferedReader) -> None:
    partial = errand.partial
    found = _told(errand, answers, "size", "mark")
    size, mark = int(found["size"]), str(found["mark"])
    _verify_size(errand, size)
    if not order.begin(size, mark):
        partial.begin(Note(str(errand.origin), mark, size))
    partial.verify_room(size - partial.size)
    expect(errand.progress, size - partial.size, "fetching")
    while partial.size < size:
        # INVARIANT: no more is written than was said to be there, whatever comes.
        _receive(errand, answers, min(int(_told(errand, answers, "piece")["piece"]), LARGEST, size - partial.size))
    # Of one that changed meanwhile the pieces may be of two: then its digest is not held against it the first time.
    partial.pieced |= _told(errand, answers, "end")["end"] != mark


def _receive(errand: Errand, answers: BufferedReader, count: int) -> None:
    while count:
        piece = answers.read1(min(count, PIECE))
        if not piece:
            _ended(errand)
        errand.partial.append(piece)
        errand.came(len(piece))
        count -= len(piece)


def _told(errand: Errand, answers: BufferedReader, *names: str) -> dict[str, Any]:
    """Return the next line, which has these names; raise what it says instead."""
    line = answers.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        _ended(errand)
    told: dict[str, Any] = json.loads(line)
    if not all(name in told for name in names):
        _failed(errand, told)
    return told


def _failed(errand: Errand, told: dict[str, Any]) -> NoReturn:
    errand.watch.verify()
    if "refused" in told:
        refused(errand.origin, told["refused"])
    if "lacking" in told:
        extra = EXTRAS[errand.origin.scheme.value]
        raise ConfigError(
            f"`{errand.origin.scheme.value}://` needs what is not installed ({told['lacking']}): "
            f"`pip install torchserve-guard[{extra}]`"
        )
    unfetched(errand.origin, f"is not to be had ({told.get('failed')})")


def _ended(errand: Errand) -> NoReturn:
    errand.watch.verify()
    unfetched(errand.origin, f"is told no further than byte {errand.partial.size}, which are kept")


def _verify_size(errand: Errand, size: int) -> None:
    listed = errand.subject.size
    if listed is not None and size != listed:
        refused(errand.origin, f"has {size} bytes, and the manifest lists {listed}")
    if size > errand.terms.largest:
        refused(errand.origin, f"has {size} bytes, more than {errand.terms.largest} (`guard.fetch_max_size`)")
