"""The history: the version of a manifest that was last started, so that an older one is not taken for news.

Small files in the state directory, each written whole or not at all. A manifest is remembered in two places: under its
path as it was told, links not followed, and under the path that it leads to. A link turned back to an older release is
known by the first, another spelling of the same file by the second. Which configuration named it makes no difference.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from torchserve_guard import draft
from torchserve_guard.archives import document
from torchserve_guard.archives.locks import verify_private
from torchserve_guard.archives.sources import open_file
from torchserve_guard.errors import ConfigError, VerificationError

LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Version:
    """One manifest: its version (0 for one that has none), and the SHA-256 of its bytes."""

    number: int
    sha256: str


def places(state_dir: Path, manifest: Path) -> tuple[Path, ...]:
    """Return where the last version of a manifest is remembered: by its path as told, and by the one it leads to."""
    told = os.path.abspath(manifest)  # noqa: PTH100 - Path.absolute leaves `..` in, and that spells one path in many ways
    spelt = dict.fromkeys((told, os.path.realpath(manifest)))
    return tuple(_file(state_dir, path) for path in spelt)


def last(paths: Iterable[Path]) -> tuple[Version, ...]:
    """Return the versions that were last started, none for the first time.

    Raises VerificationError for one that cannot be read, ConfigError for a folder that is not ours alone.
    """
    return tuple(_read(path) for path in paths if _kept(path))


def verify_not_older(last: Iterable[Version], found: Version, where: str, *, signed: bool) -> None:
    """Return if the manifest is not older than the newest of those last started; raise VerificationError.

    Of a signed manifest there is one of each version: two are a mistake, or somebody choosing between them.
    """
    known = tuple(last)
    newest = max((one.number for one in known), default=0)
    if found.number < newest:
        raise VerificationError(
            f"{where}: version {found.number} of the manifest is older than version {newest}, which was started "
            f"last; {_REMEDY}"
        )
    others = [one.sha256 for one in known if one.number == found.number > 0 and one.sha256 != found.sha256]
    if signed and others:
        raise VerificationError(
            f"{where}: version {found.number} of the manifest was started before with other contents (sha256 "
            f"{others[0]}, now {found.sha256}); give the new one the next version and sign that; {_REMEDY}"
        )


def remember(paths: Iterable[Path], version: Version) -> None:
    """Write the version down, whole or not at all, and on the disk when this returns; raise ConfigError."""
    data = document.render({"schema": "tsguard-started/1", "version": version.number, "sha256": version.sha256})
    for path in paths:
        try:
            path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            verify_private(path.parent, _FOLDER)
            draft.replace(path, data, durable=True)
        except OSError as error:
            raise ConfigError(
                f"{path}: the version that was started cannot be remembered ({error.strerror}); free or repair the disk"
            ) from error


_FOLDER = "the folder of the versions that were started"
_REMEDY = "to load it all the same, start with --allow-rollback, which is put on record"


def _file(state_dir: Path, manifest: str) -> Path:
    return state_dir / "manifests" / f"{hashlib.sha256(os.fsencode(manifest)).hexdigest()[:32]}.json"


def _kept(path: Path) -> bool:
    """Whether anything is remembered there; a folder that is a link, or that others may fill, is refused."""
    if not os.path.lexists(path.parent):
        return False
    verify_private(path.parent, _FOLDER)
    return os.path.lexists(path)


def _read(path: Path) -> Version:
    try:
        with open_file(path, str(path)) as file:
            data = file.read(0, min(file.size, LARGEST))
        shape = document.shaped(_Record, document.parse(data, deepest=2))
    except (VerificationError, document.Malformed) as error:
        raise VerificationError(
            f"{path}: the version that was last started cannot be told ({error}); once you have looked at the manifest "
            "yourself, start with --allow-rollback, which is put on record"
        ) from error
    return Version(shape.version, shape.sha256)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["tsguard-started/1"] = Field(alias="schema")
    version: Annotated[StrictInt, Field(ge=0, lt=1 << 53)]
    sha256: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]
