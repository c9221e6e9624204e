"""Limits: how much one archive may ask of the disk, the memory and the operator's patience. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torchserve_guard.archives.refusal import Fault, Reason

MIB = 1 << 20
GIB = 1 << 30


class Told(Enum):
    """Where limits come from, and so with what they are raised: `{}` is `members`, `unpacked` or `ratio`."""

    NOWHERE = ""
    SETTINGS = "guard.archive_max_{}"
    OPTIONS = "--max-{}"

    def remedy(self, name: str) -> str:
        """Return what raises a limit, in words that end a message."""
        return f"; if it is to be loaded all the same, raise `{self.value.format(name)}`" if self.value else ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold at most; sizes in bytes.

    `ratio` (unpacked to packed, of the whole archive) counts only above `ratio_floor`: small archives of
    zeros are ordinary, and harmless. `told` is named where an archive is over one of the first three.
    """

    members: int = 20_000
    unpacked: int = 256 * GIB
    ratio: int = 200
    ratio_floor: int = 256 * MIB
    directory: int = 16 * MIB
    mar_manifest: int = MIB
    told: Told = Told.NOWHERE

    def fault(self, members: int, unpacked: int, packed: int) -> Fault | None:
        """Return which limit these numbers are over, or None."""
        if members > self.members:
            why = f"has {members} members, more than the limit of {self.members}"
            return Fault(Reason.MANY, why + self.told.remedy("members"))
        if unpacked > self.unpacked:
            why = f"unpacks to {unpacked} bytes, more than the limit of {self.unpacked}"
            return Fault(Reason.LARGE, why + self.told.remedy("unpacked"))
        if unpacked > self.ratio_floor and unpacked > self.ratio * packed:
            why = f"unpacks to {unpacked} bytes from {packed}, more than the limit of {self.ratio} to 1"
            return Fault(Reason.BOMB, why + self.told.remedy("ratio"))
        return None
