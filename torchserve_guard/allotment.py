"""The allotment: how much an archive may ask of the disk and of patience, as the settings say."""

from __future__ import annotations

from torchserve_guard import archives
from torchserve_guard.archives.limits import Told
from torchserve_guard.settings import Settings


def limits(settings: Settings) -> archives.Limits:
    """Return the limits of whoever reads an archive for these settings."""
    told = settings.archive_limits
    return archives.Limits(told.members, told.unpacked, told.ratio, told=Told.SETTINGS)
