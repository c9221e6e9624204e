"""The history: the version of a manifest that was last started, so that an older one is not taken for news.

One small file in the state directory for each configuration and manifest, written whole or not at all. Both are known
by the paths that were told, links not followed: a link turned back to an older release is what this is to notice.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from torchserve_guard import draft
from torchserve_guard.archives import contents, document
from torchserve_guard.errors import ConfigError, VerificationError

LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Version:
    """One manifest: its version (0 for one that has none), and the SHA-256 of its bytes."""

    number: int
    sha256: str


def place(state_dir: Path, config: Path, manifest: Path) -> Path:
    """Return where the last version of this configuration's manifest is remembered."""
    told = os.fsencode(config.absolute()) + b"\0" + os.fsencode(manifest.absolute())
    return state_dir / "manifests" / f"{hashlib.sha256(told).hexdigest()[:32]}.json"


def last(path: Path) -> Version | None:
    """Return the version that was last started, None for the first time; raise VerificationError if unreadable."""
    if not os.path.lexists(path):
        return None
    try:
        shape = document.shaped(_Record, document.parse(contents.read(path, LARGEST, "record of versions"), deepest=2))
    except (ConfigError, document.Malformed) as error:
        raise VerificationError(
            f"{path}: the version that was last started cannot be told ({error}); once you have looked at the manifest "
            "yourself, start with --allow-rollback, which is put on record"
        ) from error
    return Version(shape.version, shape.sha256)


def verify_not_older(last: Version | None, found: Version, where: str, *, signed: bool) -> None:
    """Return if the manifest is the last one or a newer one; raise VerificationError.

    Of a signed manifest there is one of each version: two are a mistake, or somebody choosing between them.
    """
    if last is None:
        return
    if found.number < last.number:
        raise VerificationError(
            f"{where}: version {found.number} of the manifest is older than version {last.number}, which was started "
            f"last; {_REMEDY}"
        )
    if signed and found.number == last.number > 0 and found.sha256 != last.sha256:
        raise VerificationError(
            f"{where}: version {found.number} of the manifest was started before with other contents (sha256 "
            f"{last.sha256}, now {found.sha256}); give the new one the next version and sign that; {_REMEDY}"
        )


def remember(path: Path, version: Version) -> None:
    """Write the version down, whole or not at all, and on the disk when this returns; raise ConfigError."""
    data = document.render({"schema": "tsguard-started/1", "version": version.number, "sha256": version.sha256})
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.replace(path, data, durable=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: the version that was started cannot be remembered ({error.strerror}); free or repair the disk"
        ) from error


_REMEDY = "to load it all the same, start with --allow-rollback, which is put on record"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["tsguard-started/1"] = Field(alias="schema")
    version: Annotated[StrictInt, Field(ge=0, lt=1 << 53)]
    sha256: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]
