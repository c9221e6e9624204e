"""WHAT WE WERE TOLD: `config.properties`, flags and environment become one frozen `Settings`."""

from torchserve_guard.settings.address import Address
from torchserve_guard.settings.certificate_rules import check as check_tls
from torchserve_guard.settings.certificates import Tls
from torchserve_guard.settings.certificates import read as read_tls
from torchserve_guard.settings.load import load
from torchserve_guard.settings.reading import Flags, Surroundings
from torchserve_guard.settings.settings import AccessFile, ArchiveLimits, Limits, LoadItem, Profile, Settings

__all__ = [
    "AccessFile",
    "Address",
    "ArchiveLimits",
    "Flags",
    "Limits",
    "LoadItem",
    "Profile",
    "Settings",
    "Surroundings",
    "Tls",
    "check_tls",
    "load",
    "read_tls",
]
