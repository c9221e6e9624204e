"""Places: who but root and this user may change, replace or read what lies at a path.

Modes and owners decide. Access lists beyond them (POSIX ACLs) are seen as far as they show in the group's bits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

EVERYONE = "every user of this machine"
MOST_PLACES = 1000


def writer(path: Path) -> tuple[Path, str] | None:
    """Return through which place others may change or replace `path`, and who; None when nobody may."""
    for place, status in _on_the_way(path):
        who = _who_writes(status)
        if who is not None:
            return Path(place), who
    return None


def chooser(path: Path) -> tuple[Path, str] | None:
    """Return who may decide what lies at or in `path`: as `writer`, and who may put something where nothing is.

    In a sticky folder, that is everybody who may write there.
    """
    real = Path(os.path.realpath(path))
    there = next(place for place in (real, *real.parents) if os.path.lexists(place))
    status = _status(str(there))
    who = _who_may(status) if status is not None and stat.S_ISDIR(status.st_mode) else None
    return (there, who) if who is not None else writer(path)


def reader(path: Path) -> str | None:
    """Return who else may read the file at `path`; None when nobody may, or when a folder above shuts them out."""
    try:
        status = path.stat()
        above = [folder.stat().st_mode for folder in Path(os.path.realpath(path)).parents]
    except (OSError, ValueError):
        return None
    if status.st_mode & stat.S_IROTH and all(mode & stat.S_IXOTH for mode in above):
        return EVERYONE
    foreign = status.st_gid not in {0, os.getegid()}
    if foreign and status.st_mode & stat.S_IRGRP and all(mode & (stat.S_IXOTH | stat.S_IXGRP) for mode in above):
        return f"group {status.st_gid}"
    return None


def _on_the_way(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what is there of a path and of every folder that leads to it, links and where they lead too."""
    ahead, seen = [str(path.absolute())], set[str]()
    while ahead:
        place = ahead.pop(0)
        while place not in seen and len(seen) < MOST_PLACES:
            seen.add(place)
            status = _status(place)
            if status is not None:
                yield place, status
                if stat.S_ISLNK(status.st_mode):
                    ahead.append(os.path.join(*_target(place)))  # noqa: PTH118 - `..` behind a link is not to be resolved
            place = os.path.dirname(place)  # noqa: PTH120 - `..` behind a link is not to be resolved


def _status(place: str) -> os.stat_result | None:
    try:
        return os.lstat(place)
    except (OSError, ValueError):
        return None


def _target(place: str) -> tuple[str, str]:
    folder = os.path.dirname(place)  # noqa: PTH120 - see `_on_the_way`
    try:
        return folder, os.readlink(place)  # noqa: PTH115 - see `_on_the_way`
    except OSError:
        return folder, ""


def _who_writes(status: os.stat_result) -> str | None:
    if status.st_uid in {0, os.geteuid()} and stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None  # in a sticky folder (/tmp) others may add names, and neither replace nor remove ours
    if stat.S_ISLNK(status.st_mode):
        # A link's mode says nothing; who owns it can replace it, even in a sticky folder.
        return f"user {status.st_uid}" if status.st_uid not in {0, os.geteuid()} else None
    return _who_may(status)


def _who_may(status: os.stat_result) -> str | None:
    if status.st_uid not in {0, os.geteuid()}:
        return f"user {status.st_uid}"
    if status.st_mode & stat.S_IWOTH:
        return EVERYONE
    if status.st_mode & stat.S_IWGRP and status.st_gid not in {0, os.getegid()}:
        return f"group {status.st_gid}"
    return None
