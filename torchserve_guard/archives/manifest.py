"""The manifest: what may be loaded, by name, kind, size and digest, down to the member.

Pure but for `load`, which reads one regular file. `parse` and `render` are inverse of each other. A manifest
comes in our JSON document or as `SHA256SUMS` as sha256sum writes it (see `checksums`); read as well, and never
written, is the bundle that `model_signing sign` made of a model store (see `signing.statement`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StrictInt,
    StrictStr,
    ValidationError,
    model_serializer,
    model_validator,
)

from torchserve_guard.archives import checksums, contents, document, names
from torchserve_guard.errors import ConfigError, VerificationError

JSON: Final = "tsguard-manifest/1"
SHA256SUMS: Final = "sha256sums"
MODEL_SIGNING: Final = "model-signing/1.0"
LARGEST = 32 << 20
"""Bytes of the largest manifest that is read."""
CHUNK = 64 << 20
"""Bytes of a chunk in the manifests that we write; only archives that are larger have any."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def _moment(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        raise ValueError("is not a time like `2030-01-31T12:00:00Z`")
    return datetime.fromisoformat(value)


def _whole_seconds(value: datetime) -> datetime:
    if value.tzinfo is None or value.microsecond:
        raise ValueError("has no time zone, or fractions of a second")
    return value.astimezone(UTC)


def _subject_name(value: str) -> str:
    why = names.subject_fault(value)
    if why is not None:
        raise ValueError(f"`{value}` {why}")
    return value


def _member_path(value: str) -> str:
    why = names.fault(value)
    if why is not None:
        raise ValueError(f"`{value}` {why}")
    return value


Digest = Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[StrictInt, Field(ge=0, lt=1 << 63)]
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    AfterValidator(_whole_seconds),
    # Not by strftime, which writes the year 890 with three digits.
    PlainSerializer(lambda value: f"{value.replace(tzinfo=None).isoformat()}Z", return_type=str),
]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class MemberEntry(_Value):
    """One file of a subject; an empty directory is a path that ends in `/`, of size 0."""

    path: Annotated[StrictStr, AfterValidator(_member_path)]
    size: Size
    sha256: Digest


def unpacked(members: Iterable[MemberEntry]) -> int:
    """Return how many bytes the members have, unpacked."""
    return sum(member.size for member in members)


class Chunks(_Value):
    """The SHA-256 of each chunk of an archive, all of `size` bytes but the last: so all cores can hash one archive."""

    size: Annotated[StrictInt, Field(ge=1 << 20, le=1 << 30, multiple_of=1 << 20)]
    sha256: Annotated[tuple[Digest, ...], FailFast(), Field(min_length=1)]


class SubjectEntry(_Value):
    """One subject: its name in the store, kind, size and SHA-256, its members, and for a large archive its chunks.

    What chunks prove, and what only the digest of the whole does, is said in `promise`.
    Without members (and size) it comes from a `SHA256SUMS` or a bundle: then the digest of the whole is all there is.
    """

    name: Annotated[StrictStr, AfterValidator(_subject_name)]
    kind: Literal["mar", "directory", "tar.gz"]
    size: Size | None
    sha256: Digest
    members: Annotated[tuple[MemberEntry, ...], FailFast()]
    chunks: Chunks | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, render: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `chunks` where there are none, as manifests did before there were any."""
        spelt: dict[str, Any] = render(self)
        if self.chunks is None:
            spelt.pop("chunks", None)
        return spelt

    @model_validator(mode="after")
    def _consistent(self) -> SubjectEntry:
        _as_many_as_fit(self)
        if self.kind == "mar" and not self.name.endswith(".mar"):
            raise ValueError(f"`{self.name}` is of kind `mar` but not called `.mar`, so TorchServe would not unzip it")
        if self.kind == "tar.gz" and not self.name.endswith(".tar.gz"):
            raise ValueError(f"`{self.name}` is of kind `tar.gz` but not called `.tar.gz`, as stock TorchServe asks")
        _sorted_and_unique([member.path for member in self.members])
        return self


class Manifest(_Value):
    """What may be loaded. `version` only grows; `expires` is when it stops to count."""

    schema_: Literal["tsguard-manifest/1", "sha256sums", "model-signing/1.0"] = Field(alias="schema")
    version: Annotated[StrictInt, Field(ge=0, lt=1 << 53)]
    created: Moment | None
    expires: Moment | None = None
    subjects: Annotated[tuple[SubjectEntry, ...], FailFast()]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        _sorted_and_unique([subject.name for subject in self.subjects])
        if self.schema_ == JSON and (self.version < 1 or self.created is None):
            raise ValueError("a manifest has a version from 1 and the time it was created")
        if self.schema_ == JSON and any(subject.size is None for subject in self.subjects):
            raise ValueError("each subject has a size")
        return self

    def subject(self, name: str) -> SubjectEntry | None:
        """Return the subject of this name, or None: then it may not be loaded."""
        return next((subject for subject in self.subjects if subject.name == name), None)


def parse(data: bytes, where: str) -> Manifest:
    """Return the manifest that the bytes spell; raise ConfigError with the file and the place."""
    if len(data) > LARGEST:
        raise ConfigError(f"{where}: is larger than {LARGEST} bytes, which no manifest is")
    if not data.lstrip().startswith(b"{"):
        return _of_checksums(data, where)
    if b'"dsseEnvelope"' in data and (found := _of_bundle(data, where)) is not None:
        return found
    try:
        value = document.parse(data)
    except document.Malformed as error:
        raise ConfigError(f"{where}: the manifest {error}") from error
    if isinstance(value, dict) and value.get("schema") != JSON:
        raise ConfigError(f"{where}: `schema` is not `{JSON}`: this is no manifest, or one of a later version")
    return _validate(value, where)


def render(manifest: Manifest) -> bytes:
    """Return the manifest's one canonical spelling."""
    if manifest.schema_ == SHA256SUMS:
        return checksums.render((subject.sha256, subject.name) for subject in manifest.subjects)
    return document.render(manifest.model_dump(mode="json", by_alias=True))


def load(path: Path, now: datetime | None) -> Manifest:
    """Return the manifest in a regular file; raise ConfigError, or VerificationError when it has expired.

    `now` has its time zone; None is for who only wants to look at it, expired or not.
    """
    manifest = parse(read(path), str(path))
    if now is not None:
        verify_current(manifest, str(path), now)
    return manifest


def read(path: Path) -> bytes:
    """Return the bytes of a manifest's file; raise ConfigError."""
    return contents.read(path, LARGEST, "manifest", "write one with `tsguard manifest create`")


def verify_current(manifest: Manifest, where: str, now: datetime) -> None:
    """Return if the manifest has not expired; raise VerificationError."""
    if manifest.expires is not None and manifest.expires <= now:
        raise VerificationError(
            f"{where}: version {manifest.version} of the manifest expired at {manifest.expires.isoformat()}: "
            "create and sign a new one, or renew this one with `tsguard manifest create --expires-days`"
        )


def next_version(path: Path) -> int:
    """Return the version for the manifest that will stand in the place of this file; raise ConfigError."""
    return load(path, None).version + 1 if os.path.lexists(path) else 1


def subject_entry(data: bytes, where: str) -> SubjectEntry:
    """Return one subject as the store's own record spells it; raise ConfigError."""
    try:
        return SubjectEntry.model_validate(document.parse(data))
    except document.Malformed as error:
        raise ConfigError(f"{where}: the record {error}") from error
    except ValidationError as error:
        raise ConfigError.of(document.complaints(where, error)) from error


def render_subject(subject: SubjectEntry) -> bytes:
    """Return one subject's canonical spelling."""
    return document.render(subject.model_dump(mode="json"))


def _validate(value: Any, where: str) -> Manifest:
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        raise ConfigError.of(document.complaints(where, error)) from error


_NO_ARCHIVE = "no `.mar` archive and no `.tar.gz`, and an empty manifest permits nothing"


def _of_checksums(data: bytes, where: str) -> Manifest:
    """Return the archives of a `SHA256SUMS`; what is not called like one could not be loaded anyway."""
    rows = [row for row in checksums.parse(data, where) if _archive_kind(row[1]) is not None]
    if not rows:
        raise ConfigError(f"{where}: lists {_NO_ARCHIVE}")
    subjects = [
        {"name": name, "kind": _archive_kind(name), "size": None, "sha256": digest, "members": ()}
        for digest, name in sorted(rows, key=lambda row: row[1])
    ]
    return _validate({"schema": SHA256SUMS, "version": 0, "created": None, "subjects": subjects}, where)


def _of_bundle(data: bytes, where: str) -> Manifest | None:
    """Return the archives that a signed statement about a model store lists; whose signature, is for others to say."""
    from torchserve_guard.archives.signing import bundle, statement  # noqa: PLC0415 - heavy, and seldom needed

    if not bundle.looks_like_one(data):
        return None
    try:
        stated = statement.parse(bundle.parse(data).payload)
    except document.Malformed as error:
        raise ConfigError(f"{where}: the bundle {error}") from error
    # What lies in folders of the store is none of TorchServe's archives; nor is what is not called so.
    rows = sorted(
        (row for row in stated.files if "/" not in row[0] and _archive_kind(row[0]) is not None), key=lambda row: row[0]
    )
    if not rows:
        raise ConfigError(f"{where}: the bundle lists {_NO_ARCHIVE}")
    subjects = [
        {"name": name, "kind": _archive_kind(name), "size": None, "sha256": sha256, "members": ()}
        for name, sha256 in rows
    ]
    return _validate({"schema": MODEL_SIGNING, "version": 0, "created": None, "subjects": subjects}, where)


def _archive_kind(name: str) -> str | None:
    """Return the kind of archive that TorchServe would take this name for."""
    return next((kind for kind in ("mar", "tar.gz") if name.endswith(f".{kind}")), None)


def _as_many_as_fit(subject: SubjectEntry) -> None:
    chunks, size = subject.chunks, subject.size
    if chunks is None:
        return
    if subject.kind == "directory" or size is None:
        raise ValueError("only an archive whose size is listed has chunks")
    if len(chunks.sha256) != -(-size // chunks.size):
        raise ValueError(f"{len(chunks.sha256)} chunks of {chunks.size} bytes do not make {size} bytes")


def _sorted_and_unique(keys: list[str]) -> None:
    for left, right in pairwise(keys):
        if left == right:
            raise ValueError(f"`{left}` is listed twice")
        if left.encode() > right.encode():
            raise ValueError(f"`{right}` is listed behind `{left}`: names are sorted by their bytes")
