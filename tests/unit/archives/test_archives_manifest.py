"""The manifest: one spelling, read strictly; and SHA256SUMS as sha256sum writes it."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard import archives
from torchserve_guard.archives.manifest import JSON, LARGEST
from torchserve_guard.errors import ConfigError, VerificationError

DIGEST = "ab" * 32
NOW = datetime(2030, 1, 1, tzinfo=UTC)

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
sizes = st.integers(0, 2**63 - 1)
letters = st.text("abcXYZ019_-.", min_size=1, max_size=12).filter(lambda text: text.strip(".") and ".." not in text)
paths = st.lists(letters.filter(lambda text: text != ".tsguard"), min_size=1, max_size=3).map("/".join)
moments = st.datetimes(datetime(1, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)


@st.composite
def subjects(draw, name):
    members = draw(st.dictionaries(paths, st.tuples(sizes, digests), max_size=4))
    entries = tuple(
        archives.MemberEntry(path=path, size=members[path][0], sha256=members[path][1]) for path in sorted(members)
    )
    return archives.SubjectEntry(name=name, kind="mar", size=draw(sizes), sha256=draw(digests), members=entries)


@st.composite
def manifests(draw):
    stems = draw(st.sets(letters.filter(lambda text: text[0] not in ".-" and text[-1] != "."), max_size=4))
    names = sorted(f"{stem}.mar" for stem in stems)
    return archives.Manifest(
        schema=JSON,
        version=draw(st.integers(1, 2**53 - 1)),
        created=draw(moments),
        expires=draw(st.none() | moments),
        subjects=tuple(draw(subjects(name)) for name in names),
    )


@given(manifests())
def test_parse_is_the_inverse_of_render(manifest):
    data = archives.render_manifest(manifest)
    assert archives.parse_manifest(data, "m") == manifest
    assert archives.render_manifest(archives.parse_manifest(data, "m")) == data


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_manifest_or_a_complaint(data):
    try:
        archives.parse_manifest(data, "m")
    except ConfigError as error:
        complaint = str(error)
    else:
        complaint = "m: none"
    assert complaint.startswith("m:")


def member(**changes):
    return {"path": "handler.py", "size": 1, "sha256": DIGEST} | changes


def subject(**changes):
    return {"name": "a.mar", "kind": "mar", "size": 1, "sha256": DIGEST, "members": [member()]} | changes


def document(**changes):
    value = {"schema": JSON, "version": 1, "created": "2030-01-01T00:00:00Z", "expires": None, "subjects": [subject()]}
    return json.dumps(value | changes).encode()


def test_the_document_that_the_complaints_are_made_from_is_good():
    assert archives.parse_manifest(document(), "m").subject("a.mar").members[0].path == "handler.py"


COMPLAINTS = {
    "not json": (b"{", "is not JSON"),
    "key twice": (document().replace(b'"version"', b'"version": 9, "version"'), "the key `version` twice"),
    "nan": (document().replace(b'"size": 1', b'"size": NaN'), "contains `NaN`"),
    "deep": (b'{"a":' * 100_000, "nested too deeply"),
    "not utf-8": (document().replace(b"a.mar", b"\xff.mar"), "is not UTF-8"),
    "another schema": (document(schema="other/2"), "`schema` is not"),
    "unknown field": (document(more=1), "`more`: Extra inputs"),
    "version as text": (document(version="1"), "`version`"),
    "version as boolean": (document(version=True), "`version`"),
    "version zero": (document(version=0), "version from 1"),
    "huge version": (document(version=1 << 60), "`version`"),
    "time without zone": (document(created="2030-01-01T00:00:00"), "`created`: is not a time like"),
    "time as number": (document(created=1), "`created`"),
    "no such day": (document(created="2030-02-31T00:00:00Z"), "`created`"),
    "subject twice": (document(subjects=[subject(), subject()]), "is listed twice"),
    "subjects unsorted": (document(subjects=[subject(name="b.mar"), subject()]), "`a.mar` is listed behind `b.mar`"),
    "members unsorted": (document(subjects=[subject(members=[member(), member(path="a")])]), "listed behind"),
    "name with path": (document(subjects=[subject(name="x/a.mar")]), "is not a bare file name"),
    "name with dots": (document(subjects=[subject(name="a..mar")]), "contains `..`"),
    "hidden name": (document(subjects=[subject(name=".a.mar")]), "is not a bare file name"),
    "not called mar": (document(subjects=[subject(name="a.zip")]), "not called `.mar`"),
    "unknown kind": (document(subjects=[subject(kind="war")]), "`subjects[0].kind`"),
    "upper case digest": (document(subjects=[subject(sha256=DIGEST.upper())]), "`subjects[0].sha256`"),
    "digest with newline": (document(subjects=[subject(sha256=DIGEST + "\n")]), "`subjects[0].sha256`"),
    "negative size": (document(subjects=[subject(size=-1)]), "`subjects[0].size`"),
    "no size": (document(subjects=[subject(size=None)]), "each subject has a size"),
    "member above": (document(subjects=[subject(members=[member(path="../x")])]), "`..` component"),
    "too large": (b"{" + b" " * LARGEST, "is larger than"),
    "nothing": (b"", "neither JSON nor a line of SHA256SUMS"),
    "sums of a path": (f"{DIGEST}  x/a.mar\n".encode(), "m:1: is neither JSON nor a line"),
    "sums in upper case": (f"{DIGEST.upper()}  a.mar\n".encode(), "m:1: is neither"),
    "sums of nothing to load": (f"{DIGEST}  README\n".encode(), "no `.mar` archive"),
    "sums, a name twice": (f"{DIGEST}  a.mar\n{DIGEST}  a.mar\n".encode(), "is listed twice"),
}


@pytest.mark.parametrize("case", COMPLAINTS)
def test_what_is_malformed_is_a_complaint_with_its_place(case):
    data, complaint = COMPLAINTS[case]
    with pytest.raises(ConfigError) as refused:
        archives.parse_manifest(data, "m")
    assert complaint in str(refused.value)
    assert str(refused.value).startswith("m:")


@pytest.mark.parametrize("mode", ["--text", "--binary"])
def test_sums_are_read_as_sha256sum_writes_them(mode, tmp_path):
    (tmp_path / "a.mar").write_bytes(b"a")
    (tmp_path / "b.mar").write_bytes(b"b")
    (tmp_path / "README").write_bytes(b"c")
    names = ["a.mar", "./b.mar", "README"]
    sums = subprocess.run(["sha256sum", mode, *names], cwd=tmp_path, check=True, capture_output=True).stdout
    manifest = archives.parse_manifest(sums, "SHA256SUMS")
    assert [subject.name for subject in manifest.subjects] == ["a.mar", "b.mar"]
    rendered = archives.render_manifest(manifest)
    assert archives.parse_manifest(rendered, "again") == manifest
    subprocess.run(["sha256sum", "--check", "--strict"], cwd=tmp_path, input=rendered, check=True, capture_output=True)


def test_a_manifest_counts_until_it_expires(tmp_path):
    path = tmp_path / "m.json"
    path.write_bytes(document(expires="2030-01-01T00:00:00Z"))
    assert archives.load_manifest(path, NOW - timedelta(seconds=1)).version == 1
    assert archives.load_manifest(path, None).version == 1
    with pytest.raises(VerificationError, match="expired at 2030-01-01"):
        archives.load_manifest(path, NOW)


def test_the_manifest_may_be_a_link_to_a_regular_file_and_nothing_else(tmp_path):
    (tmp_path / "real.json").write_bytes(document())
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert archives.load_manifest(tmp_path / "link.json", NOW).version == 1
    os.mkfifo(tmp_path / "pipe.json")
    for name, complaint in {
        "pipe.json": "not a regular file",
        "no.json": "there is no manifest",
        ".": "not a regular",
    }.items():
        with pytest.raises(ConfigError, match=complaint):
            archives.load_manifest(tmp_path / name, NOW)


def test_the_next_version_is_one_more_than_the_one_that_is_there(tmp_path):
    path = tmp_path / "m.json"
    assert archives.next_version(path) == 1
    path.write_bytes(document(version=41))
    assert archives.next_version(path) == 42
