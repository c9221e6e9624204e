"""HTTPS: the rest of an archive in one request, as plain bytes, from the one address that was named."""

from __future__ import annotations

import contextlib
import http.client

from torchserve_guard import __version__
from torchserve_guard.archives.progress import expect
from torchserve_guard.archives.remote import answer
from torchserve_guard.archives.remote.addresses import Resolve, resolve
from torchserve_guard.archives.remote.connection import Connection, connected
from torchserve_guard.archives.remote.errand import Errand
from torchserve_guard.archives.remote.failure import refused, unfetched
from torchserve_guard.archives.remote.quarantine import Note

PIECE = 1 << 18


def transfer(errand: Errand, ask: Resolve = resolve) -> None:
    """Bring the file to its end. Raises `VerificationError`, `Unfetched`, or `GuardError` when it cannot be kept."""
    origin = errand.origin
    asked = answer.Asked(origin, errand.offset, errand.validator, errand.subject.size, errand.terms.largest)
    with contextlib.closing(connected(origin, errand.terms, errand.watch, ask)) as connection:
        try:
            with _asked(connection, asked) as response:
                _take(response, errand, answer.read(response.status, response.headers, asked))
        except (OSError, http.client.HTTPException) as error:
            errand.watch.verify()
            late = isinstance(error, TimeoutError)
            why = "does not go on" if late else f"breaks off ({type(error).__name__}: {error})"
            unfetched(origin, f"the connection {why}; {errand.partial.size} bytes are kept", error)


def _take(response: http.client.HTTPResponse, errand: Errand, body: answer.Body | None) -> None:
    partial = errand.partial
    if body is None:
        partial.forget()
        unfetched(errand.origin, "the host has nothing behind what was fetched before: begun anew")
    if not body.offset:
        partial.begin(Note(str(errand.origin), body.validator, body.total))
    missing = (body.total or partial.size) - partial.size
    partial.verify_room(missing)
    expect(errand.progress, missing, "fetching")
    _receive(response, errand, body.total)


def _asked(connection: Connection, asked: answer.Asked) -> http.client.HTTPResponse:
    headers = {
        "User-Agent": f"tsguard/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    if asked.offset and asked.validator is not None:
        headers |= {"Range": f"bytes={asked.offset}-", "If-Range": asked.validator}
    connection.request("GET", asked.origin.target, headers=headers)
    return connection.getresponse()


def _receive(response: http.client.HTTPResponse, errand: Errand, total: int | None) -> None:
    partial = errand.partial
    # INVARIANT: no more is written than was listed, told or allowed, whatever comes.
    most = total if total is not None else errand.most
    while piece := response.read1(PIECE):
        if partial.size + len(piece) > most:
            refused(errand.origin, f"sends more than {most} bytes, which is all that was listed or may be fetched")
        partial.append(piece)
        errand.came(len(piece))
    errand.watch.verify()
    whole = total if total is not None else errand.subject.size
    if whole is not None and partial.size < whole:
        unfetched(errand.origin, f"ends after {partial.size} of {whole} bytes; they are kept for the next time")
