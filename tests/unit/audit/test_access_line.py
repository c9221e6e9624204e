"""The access line: what is said of a request, and that no request can say it for another."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.access import INFERENCE, Action, Operation, Resource
from torchserve_guard.audit.access_line import LONGEST_PATH, Form, Writer

COMBINED = re.compile(
    r'\S+ - \S+ \[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} \+0000\] "[^"]*" \d+ \d+ "[^"]*" "[^"]*"\n'
)


class Head:
    def __init__(self, method="POST", target=b"/predictions/noop", passed=()):
        self.method, self.target, self.passed = method, target, passed


class Subject:
    def __init__(self, operation: Operation):
        self.operation, self.told = operation, {}


def subject(name="noop", version=None, action=Action.INFER):
    return Subject(Operation(action, Resource("model", name, version), "route"))


def line(form=Form.JSON, *, digests=None, **changed):
    note = {
        "ended": 10.25, "began": 10.0, "listener": "inference", "client": "127.0.0.1:4711", "head": Head(),
        "subject": subject(), "principal": "inference-key", "request_id": b"r-1", "trace": b"a" * 32, "status": 200,
        "came": 3, "went": 5, "rule": "",
    } | changed  # fmt: skip
    writer = Writer(form, 1_000_000_000.0)
    writer.digests = digests or {}
    (found,) = writer.lines([tuple(note.values())])
    return found


def test_a_line_says_who_asked_what_of_which_model_and_how_it_ended():
    assert json.loads(line(digests={"noop": {"1.0": "d1"}})) == {
        "time": "2001-09-09T01:46:50.250000Z",
        "request_id": "r-1",
        "trace_id": "a" * 32,
        "client": "127.0.0.1:4711",
        "listener": "inference",
        "principal": "inference-key",
        "method": "POST",
        "path": "/predictions/noop",
        "operation": "infer",
        "model": "noop",
        "version": "1.0",
        "digest": "d1",
        "status": 200,
        "bytes_in": 3,
        "bytes_out": 5,
        "duration_us": 250000,
    }


def test_of_several_versions_only_a_named_one_is_told():
    digests = {"noop": {"1.0": "d1", "2.0": "d2"}}
    assert "digest" not in json.loads(line(digests=digests))
    assert json.loads(line(digests=digests, subject=subject(version="2.0")))["digest"] == "d2"


def test_what_was_said_of_a_model_is_not_said_of_its_successor():
    writer, same = Writer(Form.JSON, 0.0), subject()
    found = []
    for digests in ({"noop": {"1.0": "old"}}, {"noop": {"1.0": "new"}}):
        writer.digests = digests
        note = (1.0, 0.5, "inference", "unix", Head(), same, "k", b"r", b"t", 200, 0, 0, "")
        found += [json.loads(one)["digest"] for one in writer.lines([note, note])]
    assert found == ["old", "old", "new", "new"]


def test_a_refusal_is_told_with_its_rule_and_what_was_no_request_without_a_path():
    told = json.loads(line(subject=None, head=Head("", b""), status=400, rule="proxy.request-line"))
    assert (told["status"], told["refused_by"]) == (400, "proxy.request-line")
    assert not {"method", "path", "operation", "model"} & told.keys()


@pytest.mark.parametrize("form", Form)
def test_no_query_and_no_credential_is_told(form):
    passed = [b"Authorization: Bearer secret\r\n", b"Referer: http://x/?key=secret\r\n", b"Cookie: secret\r\n"]
    assert "secret" not in line(form, head=Head(target=b"/predictions/noop?key=secret", passed=passed))


HOSTILE = st.text() | st.sampled_from(
    ['"', "\\", "\n", "\r\n", "\x1b[31m", "\u2028", '","status":200,"x":"', '" 200 5 "']
)


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, st.sampled_from(sorted(INFERENCE, key=str)))
def test_nobody_forges_a_line(path, name, principal, agent, action):
    changed = {
        "head": Head(
            target=path.encode("utf-8", "replace"), passed=[b"User-Agent: " + agent.encode("utf-8", "replace")]
        ),
        "subject": subject(name or None, action=action),
        "principal": principal,
        "client": f"{name}:1",
    }
    told = line(**changed)
    assert told.isascii()
    assert told.count("\n") == 1
    assert told[:-1].isprintable()
    assert (json.loads(told)["status"], json.loads(told)["request_id"]) == (200, "r-1")
    combined = line(Form.COMBINED, **changed)
    assert combined.isascii()
    assert COMBINED.fullmatch(combined)


def test_combined_is_as_other_servers_write_it():
    head = Head("GET", b"/ping?x=1", [b"user-agent: curl/8\r\n", b"Referer: http://x/y?z=1\r\n"])
    assert line(Form.COMBINED, head=head) == (
        '127.0.0.1 - inference-key [09/Sep/2001:01:46:50 +0000] "GET /ping HTTP/1.1" 200 5 "http://x/y" "curl/8"\n'
    )
    assert line(Form.COMBINED, client="[::1]:9").startswith("::1 - ")


def test_an_agent_fills_no_disk_and_a_referer_opens_nothing():
    told = line(Form.COMBINED, head=Head(passed=[b"User-Agent: " + b"\xff" * 16_000, b"Referer: " + b"x" * 16_000]))
    assert len(told) < 10 * LONGEST_PATH
    told = line(Form.COMBINED, head=Head(passed=[b"Referer: https://me:SECRET@site.example/page?key=SECRET\r\n"]))
    assert "SECRET" not in told
    assert "site.example/page" in told


def test_a_long_path_is_cut_and_lost_lines_are_told():
    assert len(json.loads(line(head=Head(target=b"/" + b"x" * 4000)))["path"]) == LONGEST_PATH
    assert json.loads(Writer(Form.JSON, 0.0).lost(7, 1.0)) == {"time": "1970-01-01T00:00:01.000000Z", "lines_lost": 7}
    assert COMBINED.fullmatch(Writer(Form.COMBINED, 0.0).lost(7, 1.0))
