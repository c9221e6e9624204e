"""The files that commands write: whole or not at all, and under names that can be spelt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from torchserve_guard.errors import ConfigError

MANIFEST = "tsguard-manifest.json"


def replace(path: Path, data: bytes, otherwise: str = "--output") -> None:
    """Write a file whole or not at all, through no link: others may write in the folder of a manifest."""
    from torchserve_guard import draft  # noqa: PLC0415 - what only reads does without

    try:
        draft.replace(path, data, 0o644, exactly=True, durable=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); name another file with {otherwise}"
        ) from error


@contextlib.contextmanager
def names_are_text(model_store: Path) -> Iterator[None]:
    """Turn a name that is not UTF-8, which a manifest cannot spell, into a `ConfigError` that shows it."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{model_store}: the name {error.object!a} is not UTF-8, which a manifest cannot list; rename it"
        ) from error
