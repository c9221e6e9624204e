"""The access line: what is said of one request that came to its end.

There is no I/O here, and no clock. Never in it: bodies, queries, credentials. Always ASCII without quotes, backslashes
or line ends of a client's: no request can forge a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from torchserve_guard.access import Operation
from torchserve_guard.origin import redacted

LONGEST_PATH = 1024  # and agent, and referer: a client decides how long they are, not how fast the disk fills
_MOST_MEMOS = 64
_MOST_CLIENTS = 1024


class Form(Enum):
    """How a line is written: an object of JSON, or as Apache's and nginx's `combined`."""

    JSON = "json"
    COMBINED = "combined"


class Head(Protocol):
    """What a line needs of a request's head; `passed` are whole header lines."""

    @property
    def method(self) -> str:
        """The method, empty for what was no request."""

    @property
    def target(self) -> bytes:
        """The target, as it came."""

    @property
    def passed(self) -> Sequence[bytes]:
        """The header lines that went on."""


class Subject(Protocol):
    """What was asked for, understood. `told` is the line's to keep what it said of it before."""

    @property
    def operation(self) -> Operation:
        """The operation."""

    @property
    def told(self) -> dict[tuple[str, str], tuple[object, str]]:
        """What was said before, by listener and principal."""


# When it ended and began (seconds), the listener, the client's address, the head, what was asked for (None when that
# was not understood), who asked, the request's id and the trace's, the status, the bytes of the bodies in and out, and
# the rule that refused it, or what cut it short (empty for neither). A tuple: one is made for each request.
Note = tuple[float, float, str, str, Head, Subject | None, str, bytes, bytes, int, int, int, str]

Digests = Mapping[str, Mapping[str, str]]
"""What is served: by a model's name, the digest of each of its versions."""
NO_DIGESTS: Digests = {}


class Writer:
    """Notes to lines, in one form. `wall` is what makes seconds since the epoch of a note's; it may change."""

    def __init__(self, form: Form, wall: float) -> None:
        self.digests: Digests = NO_DIGESTS
        self.lines: Callable[[list[Note]], list[str]] = self._json if form is Form.JSON else self._combined
        self.lost: Callable[[int, float], str] = self._lost_json if form is Form.JSON else self._lost_combined
        self.wall = wall
        self._second = -1
        self._shown = ""
        self._clients: dict[str, str] = {}

    def _json(self, notes: list[Note]) -> list[str]:
        """Return lines of JSON. One loop, measured: it costs each request a microsecond."""
        lines: list[str] = []
        wall, digests, clients = self.wall, self.digests, self._clients
        for (
            ended,
            began,
            listener,
            client,
            head,
            subject,
            principal,
            request_id,
            trace,
            status,
            came,
            went,
            rule,
        ) in notes:
            second, micros = divmod(int((ended + wall) * 1e6), 1_000_000)
            if second != self._second:
                self._tick(second)
            told = subject.told.get((listener, principal)) if subject is not None else None
            about = (
                told[1] if told is not None and told[0] is digests else self._about(listener, principal, head, subject)
            )
            name = str(request_id, "ascii")
            lines.append(
                f'{{"time":"{self._shown}.{micros:06d}Z","request_id":"{name}",'
                f'"trace_id":"{name if trace is request_id else str(trace, "ascii")}",'
                f'"client":{clients.get(client) or self._client(client)},{about},"status":{status},'
                f'"bytes_in":{came},"bytes_out":{went},"duration_us":{int((ended - began) * 1e6)}'
                f"{_refused(rule) if rule else ''}}}\n"
            )
        return lines

    def _tick(self, second: int) -> None:
        self._second = second
        self._shown = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")

    def _client(self, client: str) -> str:
        if len(self._clients) >= _MOST_CLIENTS:
            self._clients.clear()
        return self._clients.setdefault(client, _quoted(client))

    def _about(self, listener: str, principal: str, head: Head, subject: Subject | None) -> str:
        """Return the middle of a line, which is the same for all requests of one kind."""
        if subject is None:
            return _middle(listener, principal, head, {})
        # INVARIANT: two targets are two subjects, so that no path is told for another.
        middle = _middle(listener, principal, head, self._model(subject.operation))
        if len(subject.told) >= _MOST_MEMOS:
            subject.told.clear()
        subject.told[listener, principal] = self.digests, middle
        return middle

    def _model(self, operation: Operation) -> dict[str, str | None]:
        """Return what is known of the model; of several versions, which one is the default is TorchServe's to know."""
        resource = operation.resource
        if resource.kind != "model" or resource.name is None:
            named = None if resource.name is None else str(resource)
            return {"operation": operation.action.value, "resource": named}
        versions = self.digests.get(resource.name, {})
        version = resource.version or (next(iter(versions)) if len(versions) == 1 else None)
        digest = versions.get(version) if version is not None else None
        return {"operation": operation.action.value, "model": resource.name, "version": version, "digest": digest}

    def _lost_json(self, count: int, now: float) -> str:
        self._tick(int(now + self.wall))
        return f'{{"time":"{self._shown}.000000Z","lines_lost":{count}}}\n'

    def _combined(self, notes: list[Note]) -> list[str]:
        return [self._combine(note) for note in notes]

    def _combine(self, note: Note) -> str:
        ended, _, _, client, head, _, principal, _, _, status, _, went, _ = note
        agent, referer = _header(head, b"user-agent:"), redacted(_header(head, b"referer:")).partition("?")[0]
        asked = f"{head.method} {_path(head)} HTTP/1.1" if head.method else "-"
        return (
            f"{_word(_host(client))} - {_word(principal)} [{self._clf(ended)}] "
            f'"{_masked(asked)}" {status} {went} "{_masked(referer) or "-"}" "{_masked(agent) or "-"}"\n'
        )

    def _lost_combined(self, count: int, now: float) -> str:
        return f'- - - [{self._clf(now)}] "{count} lines lost" 0 0 "-" "-"\n'

    def _clf(self, at: float) -> str:
        moment = datetime.fromtimestamp(at + self.wall, UTC)
        return f"{moment.day:02d}/{_MONTHS[moment.month - 1]}/{moment:%Y:%H:%M:%S} +0000"


# Not `%b`: that speaks the language of the machine.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSAFE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


def _middle(listener: str, principal: str, head: Head, model: Mapping[str, str | None]) -> str:
    fields = {"listener": listener, "principal": principal, "method": head.method, "path": _path(head), **model}
    return json.dumps({name: value for name, value in fields.items() if value}, separators=(",", ":"))[1:-1]


def _path(head: Head) -> str:
    """Return the target without its query: keys are put there."""
    return head.target.partition(b"?")[0][:LONGEST_PATH].decode("latin-1")


def _refused(rule: str) -> str:
    return f',"refused_by":{_quoted(rule)}'


def _quoted(text: str) -> str:
    return json.dumps(text)


def _masked(text: str) -> str:
    """Return the text as Apache and nginx write it: what could end a field or line becomes its number."""
    return _UNSAFE.sub(lambda one: "".join(f"\\x{byte:02X}" for byte in one[0].encode("utf-8", "replace")), text)


def _word(text: str) -> str:
    return _masked(text).replace(" ", "\\x20") or "-"


def _host(client: str) -> str:
    return client.rpartition(":")[0].strip("[]") or client


def _header(head: Head, name: bytes) -> str:
    for line in head.passed:
        if line[: len(name)].lower() == name:
            return line[len(name) :].strip()[:LONGEST_PATH].decode("latin-1")
    return ""
