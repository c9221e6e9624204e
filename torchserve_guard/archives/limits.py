"""Limits: how much one archive may ask of the disk, the memory and the operator's patience. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from torchserve_guard.archives.refusal import Fault, Reason

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold at most; sizes in bytes.

    `ratio` (unpacked to packed, of the whole archive) counts only above `ratio_floor`: small archives of
    zeros are ordinary, and harmless.
    """

    members: int = 20_000
    unpacked: int = 256 * GIB
    ratio: int = 200
    ratio_floor: int = 256 * MIB
    directory: int = 16 * MIB
    mar_manifest: int = MIB

    def fault(self, members: int, unpacked: int, packed: int) -> Fault | None:
        """Return which limit these numbers are over, or None."""
        if members > self.members:
            return Fault(Reason.MANY, f"has {members} members, more than the limit of {self.members}")
        if unpacked > self.unpacked:
            return Fault(Reason.LARGE, f"unpacks to {unpacked} bytes, more than the limit of {self.unpacked}")
        if unpacked > self.ratio_floor and unpacked > self.ratio * packed:
            return Fault(
                Reason.BOMB, f"unpacks to {unpacked} bytes from {packed}, more than the limit of {self.ratio} to 1"
            )
        return None
