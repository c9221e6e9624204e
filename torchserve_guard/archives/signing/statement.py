"""The statement: files and their digests, as OpenSSF model signing states them in a signature's payload.

Pure. An in-toto Statement v1 with the predicate `https://model_signing/signature/v1.0`, method `files`, SHA-256; its
subject's digest is the SHA-256 of the raw digests in their order. The statement about one file calls it `.`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StrictStr

from torchserve_guard.archives import document
from torchserve_guard.archives.document import Malformed

LONE = "."
DEEPEST = 8
GIT: Final = (".git", ".gitattributes", ".github", ".gitignore")
"""What `model_signing` leaves out unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is stated: the name of the file or folder, and each file's path in it with its SHA-256."""

    name: str
    files: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...] = GIT


def of_file(name: str, data: bytes) -> Statement:
    """Return the statement about exactly these bytes."""
    return Statement(name, ((LONE, hashlib.sha256(data).hexdigest()),))


def of_files(name: str, files: Iterable[tuple[str, str]], left_out: Iterable[str] = ()) -> Statement:
    """Return the statement about the files of a folder, in `model_signing`'s order."""
    ordered = sorted(files, key=lambda row: PurePosixPath(row[0]))
    return Statement(name, tuple(ordered), (*GIT, *sorted(left_out)))


def parse(payload: bytes) -> Statement:
    """Return the statement that the bytes spell; raise `Malformed`."""
    shape = document.shaped(_Statement, document.parse(payload, deepest=DEEPEST))
    (subject,) = shape.subject
    files = tuple((one.name, one.digest) for one in shape.predicate.resources)
    if len({name for name, _ in files}) != len(files):
        raise Malformed("states a file twice")
    if _digest(files) != subject.digest.sha256:
        raise Malformed("contradicts itself: the digest of its subject is not that of its files")
    return Statement(subject.name, files, shape.predicate.serialization.ignore_paths)


def render(statement: Statement) -> bytes:
    """Return the payload that states it."""
    return document.render(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": statement.name, "digest": {"sha256": _digest(statement.files)}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": list(statement.left_out),
                },
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in statement.files
                ],
            },
        }
    )


def _digest(files: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in files)).hexdigest()


Hex = Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[StrictStr, Field(min_length=1, max_length=4096)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # most commands meet no bundle


class _Digest(_Shape):
    sha256: Hex


class _Subject(_Shape):
    name: Name
    digest: _Digest


class _Resource(_Shape):
    name: Name
    algorithm: Literal["sha256"]
    digest: Hex


class _Serialization(_Shape):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: StrictBool
    ignore_paths: Annotated[tuple[StrictStr, ...], FailFast()] = ()


class _Predicate(_Shape):
    serialization: _Serialization
    resources: Annotated[tuple[_Resource, ...], FailFast(), Field(min_length=1)]


class _Statement(_Shape):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Annotated[tuple[_Subject, ...], FailFast(), Field(min_length=1, max_length=1)]
    predicateType: Literal["https://model_signing/signature/v1.0"]  # noqa: N815 - the format's word
    predicate: _Predicate
