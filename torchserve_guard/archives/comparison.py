"""The comparison: what a new manifest changes, archive by archive and member by member. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from torchserve_guard.archives.ledger import differences
from torchserve_guard.archives.manifest import Manifest, SubjectEntry


def compare(old: Manifest, new: Manifest) -> Iterator[str]:
    """Yield a line for each archive that was added, removed or changed, and below it one for each such member."""
    for name in sorted({one.name for one in (*old.subjects, *new.subjects)}, key=str.encode):
        yield from _lines(name, old.subject(name), new.subject(name))


def _lines(name: str, old: SubjectEntry | None, new: SubjectEntry | None) -> Iterator[str]:
    if old is None or new is None:
        one = old or new
        yield f"{'+' if old is None else '-'} {name}  {one.sha256 if one is not None else ''}"
    elif old != new:
        yield f"~ {name}  {old.sha256} -> {new.sha256}"
        if old.kind != new.kind:
            yield f"    kind {old.kind} -> {new.kind}"
        # Sums and bundles list no members: then there is nothing to compare, and not everything removed.
        for row in differences(old.members, new.members) if old.members and new.members else ():
            yield f"    {row}"
