"""WHAT WE WERE TOLD: `config.properties`, flags and environment become one frozen `Settings`."""

from torchserve_guard.settings.address import Address
from torchserve_guard.settings.load import load
from torchserve_guard.settings.reading import Flags, Surroundings
from torchserve_guard.settings.settings import Limits, LoadItem, Settings

__all__ = ["Address", "Flags", "Limits", "LoadItem", "Settings", "Surroundings", "load"]
