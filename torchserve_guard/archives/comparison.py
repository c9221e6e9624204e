"""The comparison: what a new manifest or archive changes, archive by archive and member by member. Pure.

Texts are compared line by line, within limits: what is not shown is said to be left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from torchserve_guard.archives.manifest import Manifest, MemberEntry, SubjectEntry

TEXT: Final = (".py", ".pyi", ".json", ".yaml", ".yml", ".txt", ".md", ".toml", ".cfg", ".ini", ".sh", ".xml")
"""What is compared line by line, by the end of its name."""
MOST_LINES: Final = 3000
"""Lines of a text that are compared; the time it takes grows faster than they do."""
MOST_LINES_IN_ALL: Final = 100_000
"""Lines that are compared of one archive."""
MOST_ROWS: Final = 500
"""Lines of a difference that are shown of one member."""
LONGEST_ROW: Final = 500
_NAMES: Final = 2
"""Rows at the front of a difference: the names of both sides."""

Texts = Mapping[str, bytes | None]
"""The texts of a subject by their paths; None stands for one that is too large to be compared."""


def is_text(path: str) -> bool:
    """Whether a member is one that is compared line by line."""
    return path.lower().endswith(TEXT)


def compare(old: Manifest, new: Manifest, texts: Mapping[str, tuple[Texts, Texts]] | None = None) -> Iterator[str]:
    """Yield a line for each archive that was added, removed or changed, and below it one for each such member.

    `texts` are those of the archives that changed, by their names, the old ones and the new.
    """
    for name in sorted({one.name for one in (*old.subjects, *new.subjects)}, key=str.encode):
        yield from compare_subjects(name, old.subject(name), new.subject(name), (texts or {}).get(name))


def compare_subjects(
    name: str, old: SubjectEntry | None, new: SubjectEntry | None, texts: tuple[Texts, Texts] | None = None
) -> Iterator[str]:
    """Yield what becomes of one subject, and nothing where both are the same."""
    if old is None or new is None:
        one = old or new
        yield f"{'+' if old is None else '-'} {name}  {one.sha256 if one is not None else ''}"
    elif changed(old, new):
        yield f"~ {name}  {old.sha256} -> {new.sha256}"
        if old.kind != new.kind:
            yield f"    kind {old.kind} -> {new.kind}"
        if old.members and new.members:
            yield from _members(old.members, new.members, texts or ({}, {}))
        else:
            # Sums and bundles list no members: then there is nothing to compare, and not everything removed.
            yield "    its members are not listed on both sides"


def changed(old: SubjectEntry, new: SubjectEntry) -> bool:
    """Whether two entries are about different bytes; one that says more about the same is no change."""
    if (old.sha256, old.kind) != (new.sha256, new.kind):
        return True
    return bool(old.members and new.members) and old.members != new.members


def _members(old: tuple[MemberEntry, ...], new: tuple[MemberEntry, ...], texts: tuple[Texts, Texts]) -> Iterator[str]:
    left, right = ({member.path: member for member in members} for members in (old, new))
    budget = MOST_LINES_IN_ALL
    for path in sorted(left.keys() | right.keys(), key=str.encode):
        before, after = left.get(path), right.get(path)
        if before == after:
            continue
        yield f"    {_member(path, before, after)}"
        if path in texts[0] or path in texts[1]:
            one, other = (side.get(path, b"") for side in texts)
            budget -= (one or b"").count(b"\n") + (other or b"").count(b"\n")
            for row in _lines(path, one, other) if budget > 0 else [f"(more than {MOST_LINES_IN_ALL} lines in all)"]:
                yield f"        {row}"


def _member(path: str, old: MemberEntry | None, new: MemberEntry | None) -> str:
    if old is None or new is None:
        one = old or new
        sign = "+" if old is None else "-"
        return f"{sign} {path}  {one.size} bytes  {one.sha256}" if one is not None else path
    size = f"{old.size} -> {new.size} bytes" if old.size != new.size else f"{new.size} bytes"
    return f"~ {path}  {size}  {old.sha256} -> {new.sha256}"


def _lines(path: str, old: bytes | None, new: bytes | None) -> Iterator[str]:
    """Yield the difference of two texts as `diff -u` shows it, no row longer and no more rows than there may be."""
    if old is None or new is None:
        yield "(too large to be compared line by line)"
        return
    try:
        before, after = (_split(data.decode("utf-8")) for data in (old, new))
    except UnicodeDecodeError:
        yield "(no text: not UTF-8)"
        return
    if max(len(before), len(after)) > MOST_LINES:
        yield f"(more than {MOST_LINES} lines: not compared line by line)"
        return
    rows = difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm="")
    for number, row in enumerate(islice(rows, MOST_ROWS)):
        line = row.removesuffix("\n")
        yield line if len(line) <= LONGEST_ROW else f"{line[:LONGEST_ROW]} ({len(line) - LONGEST_ROW} characters more)"
        if line == row and number >= _NAMES and not row.startswith("@@"):
            yield "\\ No newline at end of file"
    left_out = sum(1 for _ in rows)
    if left_out:
        yield f"({left_out} lines more)"


def _split(text: str) -> list[str]:
    """Return the lines with their ends; the last has none where the text ends without one.

    Only the line end that everybody knows ends a line: the others are shown, escaped, where they stand.
    """
    *lines, last = text.split("\n")
    return [f"{line}\n" for line in lines] + ([last] if last else [])
