"""What a new archive changes is shown member by member, code line by line, and never without end."""

from __future__ import annotations

import hashlib
import subprocess
import time

import pytest

from torchserve_guard.archives import comparison
from torchserve_guard.archives.manifest import MemberEntry, SubjectEntry
from torchserve_guard.archives.texts import LARGEST, MOST, Texts


def subject(**members: bytes) -> SubjectEntry:
    listed = tuple(
        MemberEntry(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in sorted((name.replace("_", "."), data) for name, data in members.items())
    )
    whole = hashlib.sha256(repr(listed).encode()).hexdigest()
    return SubjectEntry(name="m.mar", kind="mar", size=1, sha256=whole, members=listed)


def rows(old: dict[str, bytes | None], new: dict[str, bytes | None]) -> list[str]:
    before, after = ({name.replace(".", "_"): data or b"" for name, data in side.items()} for side in (old, new))
    texts = tuple({path: data for path, data in side.items() if comparison.is_text(path)} for side in (old, new))
    found = comparison.compare_subjects("m.mar", subject(**before), subject(**after), texts)
    return [row.strip() for row in found]


def test_what_is_the_same_is_not_told():
    assert rows({"a.py": b"x\n"}, {"a.py": b"x\n"}) == []


def test_members_are_told_by_what_became_of_them():
    found = rows({"a.pt": b"1", "b.pt": b"2", "c.pt": b"33"}, {"a.pt": b"1", "c.pt": b"4", "d.pt": b"5"})
    assert [row.split("  ")[0] for row in found] == ["~ m.mar", "- b.pt", "~ c.pt", "+ d.pt"]
    assert "2 -> 1 bytes" in found[2]


def test_code_is_compared_line_by_line():
    found = rows({"a.py": b"import os\nx = 1\n"}, {"a.py": b"import os\nx = 2\n"})
    assert found[2:] == ["--- a/a.py", "+++ b/a.py", "@@ -1,2 +1,2 @@", "import os", "-x = 1", "+x = 2"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a\n", b"b\n"),
        (b"a\nb", b"a\nb\n"),
        (b"a\nb\n", b"a\nc"),
        (b"a\n\n\n", b"a\n"),
        (b"x\n" * 9 + b"y", b"z\n" + b"x\n" * 8 + b"y"),
        (b"@@\n-- \n", b"@@"),
        (b"", b"a"),
        (b"a\n", b""),
    ],
)
def test_it_is_the_difference_that_diff_u_shows(old, new, tmp_path):
    for name, data in (("old", old), ("new", new)):
        (tmp_path / name).write_bytes(data)
    command = ["diff", "-u", "--label", "a/a.py", "--label", "b/a.py", "old", "new"]
    theirs = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert theirs.returncode == 1
    found = comparison.compare_subjects("m.mar", subject(a_py=old), subject(a_py=new), ({"a.py": old}, {"a.py": new}))
    assert [row.removeprefix(" " * 8) for row in found][2:] == theirs.stdout.splitlines()


def test_a_line_end_that_only_some_know_hides_no_line():
    found = rows({"a.py": b"# fine\n"}, {"a.py": b"# fine\rimport os\x0c\xe2\x80\xa8os.system('id')\n"})
    assert "+# fine\rimport os\x0c\u2028os.system('id')" in found


def test_new_code_is_shown_whole_and_so_is_what_went():
    assert "+import os" in rows({"b.pt": b""}, {"a.py": b"import os", "b.pt": b""})
    assert "-import os" in rows({"a.py": b"import os", "b.pt": b""}, {"b.pt": b""})


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (b"\xff\xfe", "(no text: not UTF-8)"),
        (None, "(too large to be compared line by line)"),
        (b"x\n" * 3001, "(more than 3000 lines: not compared line by line)"),
    ],
)
def test_what_is_not_compared_is_said(new, said):
    assert rows({"a.py": b"x = 1\n"}, {"a.py": new})[-1] == said


def test_what_is_left_out_is_counted():
    found = rows({"a.py": b""}, {"a.py": b"\n".join(b"%d" % n for n in range(1000))})
    assert found[-1] == "(503 lines more)"
    assert rows({"a.py": b""}, {"a.py": b"y" * 1000 + b"\n"})[-1].endswith("(501 characters more)")


def test_two_texts_made_to_be_hard_to_compare_take_no_more_than_moments():
    old, new = (b"\n".join(b"%d" % (n * step % 110) for n in range(2990)) for step in (1, 7))
    started = time.monotonic()
    rows({"a.py": old}, {"a.py": new})
    assert time.monotonic() - started < 20


def test_many_texts_have_one_limit_between_them():
    old = {f"a{n}.py": b"x\n" * 2000 for n in range(60)}
    found = rows(old, dict.fromkeys(old, b"y\n" * 2000))
    assert found.count("(more than 100000 lines in all)") == 60 - 24


def test_without_members_there_is_nothing_to_compare():
    old = subject(a_pt=b"1").model_copy(update={"members": (), "size": None})
    found = list(comparison.compare_subjects("m.mar", old, subject(a_pt=b"2")))
    assert found[1:] == ["    its members are not listed on both sides"]


def test_an_entry_that_says_more_of_the_same_bytes_is_no_change():
    whole = subject(a_pt=b"1")
    assert not comparison.changed(whole.model_copy(update={"members": (), "size": None}), whole)


def test_texts_are_kept_within_limits():
    kept = Texts(lambda path: path.endswith(".py"), {})
    for path, data in (
        ("a.py", b"x"),
        ("b.pt", b"y"),
        ("large.py", b"z" * (LARGEST + 1)),
        ("c.py", b""),
        ("d.py/", b""),
    ):
        kept.open(path)
        kept.write(data)
        kept.write(b"!")
        kept.close()
    assert kept.kept == {"a.py": b"x!", "large.py": None, "c.py": b"!"}
    for number in range(2 * MOST // LARGEST):
        kept.open(f"{number}.py")
        kept.write(b"x" * LARGEST)
        kept.close()
    assert sum(len(data or b"") for data in kept.kept.values()) <= MOST
