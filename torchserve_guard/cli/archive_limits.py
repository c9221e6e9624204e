"""The limits of archives as options, for commands that read archives and no configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torchserve_guard.archives import Limits

# As of the keys `guard.archive_max_*`; a test holds them together, since the table of keys takes long to import.
MEMBERS, UNPACKED, RATIO = 20_000, 256 << 30, 200

Members = Annotated[
    int,
    typer.Option("--max-members", min=1, max=100_000, help="Refuse an archive with more members."),
]
Unpacked = Annotated[
    int,
    typer.Option("--max-unpacked", metavar="BYTES", min=1, max=16 << 40, help="Refuse one that unpacks to more."),
]
Ratio = Annotated[
    int,
    typer.Option("--max-ratio", min=1, max=1032, help="Refuse one that unpacks to so many times its own size."),
]


def told(members: int, unpacked: int, ratio: int) -> Limits:
    """Return the limits that were given; who is over one of them is told the option."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here
    from torchserve_guard.archives.limits import Told  # noqa: PLC0415

    return archives.Limits(members, unpacked, ratio, told=Told.OPTIONS)
