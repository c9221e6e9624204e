"""The words of the vigil: what is watched, what was seen of it, and one round of looks. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from torchserve_guard.archives import MemberEntry

SCHEMA = "torchserve_guard/verification/v1"


class Sight(Enum):
    """What one look at a model brought."""

    VERIFIED = "verified"
    DRIFTED = "drifted"
    UNVERIFIED = "unverified"  # nobody could look


@dataclass(frozen=True, slots=True)
class Watched:
    """A model that is served, and the tree that it is served from.

    `writable` says that the tree is the model's own copy. `print` is what the tree looked like when it was verified
    (see `archives.inspector`), None for a copy.
    """

    model: str
    version: str
    archive: str
    digest: str
    tree: Path
    members: tuple[MemberEntry, ...] = field(compare=False, repr=False)
    writable: bool
    print: str | None


@dataclass(frozen=True, slots=True)
class Sighted:
    """What was seen of one model; `size` are the bytes that were read, `closed` is whether its door is."""

    watched: Watched
    sight: Sight
    found: tuple[str, ...]
    size: int
    closed: bool = False

    def document(self) -> dict[str, object]:
        """Return it as it is shown in JSON."""
        watched = self.watched
        return {
            "model": watched.model,
            "version": watched.version,
            "archive": watched.archive,
            "digest": watched.digest,
            "state": self.sight.value,
            "found": list(self.found),
            "bytes": self.size,
            "closed": self.closed,
        }


@dataclass(frozen=True, slots=True)
class Round:
    """One look at everything that is served; `elsewhere` is what belongs to no model. Times are in seconds."""

    sighted: tuple[Sighted, ...]
    elsewhere: tuple[str, ...]
    seconds: float
    processor_seconds: float

    @property
    def clean(self) -> bool:
        """Whether everything is as it was verified, and every door open."""
        return not self.elsewhere and all(one.sight is Sight.VERIFIED and not one.closed for one in self.sighted)

    def document(self) -> dict[str, object]:
        """Return the round as it is shown in JSON."""
        return {
            "schema": SCHEMA,
            "clean": self.clean,
            "models": [one.document() for one in self.sighted],
            "elsewhere": list(self.elsewhere),
            "seconds": round(self.seconds, 3),
            "processor_seconds": round(self.processor_seconds, 3),
        }
