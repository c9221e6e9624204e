"""The snapshots: the files that a TorchServe leaves of itself, and which one the next start takes.

FSSnapshotSerializer.java. Pure: the names in the folder are an argument.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta

# SimpleDateFormat("yyyyMMddHHmmssSSS"), lenient: as many digits as there are letters, and what remains is milliseconds.
TIME = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{1,12})(?![0-9])", re.ASCII)


def newest(names: Sequence[str]) -> str | None:
    """Return the snapshot that a start takes, None when there is none.

    A single file is taken whatever its name is. Raises `ValueError` where TorchServe would not start.
    """
    if len(names) <= 1:
        return names[0] if names else None
    return max(names, key=_time)


def _time(name: str) -> timedelta:
    """Return the time in a name, since the year 1; months, days and hours may run over, as Java lets them."""
    match = TIME.match(name.partition("-")[0])
    if match is None:
        raise ValueError(f"`{name}` does not begin with a time, and it is not alone among the snapshots")
    year, month, day, hour, minute, second, milli = (int(part) for part in match.groups())
    years, months = divmod(year * 12 + month - 1, 12)
    first = date(min(max(years, 1), 9999), months + 1, 1).toordinal()
    return timedelta(days=first + day - 1, hours=hour, minutes=minute, seconds=second, milliseconds=milli)
