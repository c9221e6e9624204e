"""A refusal: the archive or tree that is not believed, the member, and why."""

from __future__ import annotations

from typing import NoReturn

from torchserve_guard.errors import VerificationError
from torchserve_guard.findings import Location


def refuse(archive: str, member: str | None, why: str) -> NoReturn:
    """Raise VerificationError that names the archive and the member."""
    raise VerificationError(f"{Location(archive, member=_shown(member))}: {why}")


def _shown(member: str | None) -> str | None:
    """Return the name with everything invisible spelt out: it was chosen by whoever made the archive."""
    return member if member is None or member.isprintable() else ascii(member)[1:-1]
