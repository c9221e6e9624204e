"""Requests that two readers could take for different ones: forwarded as the one that was judged, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import doorway
import pytest
import yaml

from torchserve_guard.wire import Listener

CORPUS = Path(__file__).parents[1] / "corpus" / "smuggling.yaml"
PING = b"GET /ping HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Row:
    """One trick, and what becomes of it."""

    raw: bytes
    answers: list[int]
    opened: bool
    sees: list[tuple[str, bytes]]


def rows():
    for title, group in yaml.safe_load(CORPUS.read_text("utf-8")).items():
        for row in group["rows"]:
            assert row["why"], row
            sees = [(line, body.encode("latin-1")) for line, body in row.get("sees", [])]
            yield pytest.param(
                Row(row["bytes"].encode("latin-1"), row["answers"], row.get("open", False), sees),
                id=f"{title}: {row['name']}",
            )


ROWS = list(rows())


def test_the_catalogue_is_not_small_and_has_no_row_twice():
    assert len(ROWS) >= 250
    assert len({row.values[0].raw for row in ROWS}) == len(ROWS)


def told(tmp_path, row: Row, shared: tuple[Listener, ...], size: int):
    """Say a row in pieces, and a ping behind it; return the statuses, what was heard upstream, the refusals."""
    said = row.raw + PING
    with doorway.opened(tmp_path, shared=shared, linger_time=doorway.TIMEOUT) as door:
        ended = not row.opened and row.answers[-1] < 400  # by the client's own wish, who then went on
        answers = door.say(*[said[at : at + size] for at in range(0, len(said), size)], reset=ended)
        recorded = [entry["status"] for entry in door.entries("refusal")]
    # The door is closed and the upstreams have ended, so nothing is on its way any more.
    statuses = doorway.statuses(answers, to_head=said.startswith(b"HEAD "))
    # A refusal is in TorchServe's shape, and names itself.
    assert answers.count(b"X-Request-Id: ") >= len(statuses) - answers.count(b"HTTP/1.1 100 ")
    assert answers.count(b'"code": ') == len(recorded)
    return [status for status in statuses if status >= 200], door.heard(), recorded


def whole(heard) -> list[tuple[str, bytes]]:
    """Return what upstream heard, each canonical; a body that broke off was never a request, nor run."""
    assert not [one for one in heard if one.broken]
    for one in heard:
        assert one.header("authorization") == [f"Bearer upstream-{one.listener}"]
        assert len(one.header("x-request-id")) == 1
        assert not {"expect", "upgrade", "connection", "te", "trailer", "keep-alive"} & {
            line.partition(b":")[0].decode().lower() for line in one.head.split(b"\r\n")
        }
    assert {one.listener for one in heard} <= {"inference"}
    return [(one.line, one.body) for one in heard if not one.cut]


@pytest.mark.parametrize("row", ROWS)
def test_upstream_hears_what_was_judged_or_nothing_and_each_refusal_is_on_record(tmp_path, row):
    statuses, heard, recorded = told(tmp_path, row, (), 1 << 20)
    assert statuses == [*row.answers, *[200] * row.opened]
    assert whole(heard) == [*row.sees, *[("GET /ping", b"")] * row.opened]
    assert recorded == [status for status in row.answers if status >= 400]


@pytest.mark.parametrize("row", ROWS)
def test_it_is_the_same_on_one_port_and_byte_by_byte(tmp_path, row):
    statuses, heard, recorded = told(tmp_path, row, tuple(Listener), 1)
    # There the change has a path, and is forbidden where it was not found.
    expected = [403 if status == 404 else status for status in row.answers]
    assert statuses == [*expected, *[200] * row.opened]
    assert whole(heard) == [*row.sees, *[("GET /ping", b"")] * row.opened]
    assert recorded == [status for status in expected if status >= 400]
