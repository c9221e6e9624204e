"""TorchServe's own keys: taken from the file that it writes at its start, which is then deleted."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from torchserve_guard.errors import FrontendError

LARGEST = 1 << 16
_KEY = re.compile(r"[A-Za-z0-9_=-]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class UpstreamKeys:
    """What TorchServe wants to see in `Authorization: Bearer`; shown nowhere."""

    inference: str = field(repr=False)
    management: str = field(repr=False)
    api: str = field(repr=False)


def take_keys(path: Path) -> UpstreamKeys | None:
    """Return the keys and delete their file; None as long as it is not there, or not whole.

    TorchServe keeps the keys in memory (util/TokenAuthorization.java) and never reads the file; it writes it
    anew when a key is rotated, which the guard does not forward. Raises FrontendError if it holds no keys.
    """
    text = _read(path)
    document = None if text is None else _parsed(text)
    if document is None:
        return None
    try:
        keys = UpstreamKeys(*(_key(document, kind) for kind in ("inference", "management", "API")))
    except (KeyError, TypeError):
        # From None: the foreign error could quote what it stumbled over.
        raise FrontendError(f"torchserve: `{path}` does not hold the three keys of TorchServe 0.12.0") from None
    path.unlink()
    return keys


def _read(path: Path) -> bytes | None:
    try:
        # TorchServe writes, then sets the mode; the directory is ours alone, so nobody else reads in between.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FrontendError(f"torchserve: `{path}` cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        return file.read(LARGEST)


def _parsed(text: bytes) -> dict[str, object] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _key(document: dict[str, object], kind: str) -> str:
    entry = document[kind]
    key = entry["key"] if isinstance(entry, dict) else None
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise TypeError(kind)
    return key
