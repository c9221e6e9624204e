"""The comparing of two manifests or two archives: what is read for it, and the lines that tell it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_guard.cli import files
from torchserve_guard.cli.progress import Progress
from torchserve_guard.errors import VerificationError

if TYPE_CHECKING:
    from torchserve_guard.archives import Limits, Manifest

Told = tuple[list[str], list[str]]
"""The lines at the head, and those that tell differences: none, where there are none."""


def archives_of(old: Path, new: Path, limits: Limits, progress: Progress) -> Told:
    """Return what one archive changes of another; raise ConfigError or VerificationError."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    with files.names_are_text(old), files.names_are_text(new):
        before, after = (archives.describe(path, limits=limits, progress=progress) for path in (old, new))
        if not archives.changed(before, after):
            return [], []
        texts = (
            archives.collect_texts(old, before, archives.is_text, progress),
            archives.collect_texts(new, after, archives.is_text, progress),
        )
    name = after.name if before.name == after.name else f"{before.name} -> {after.name}"
    return [], list(archives.compare_subjects(name, before, after, texts))


def manifests_of(old: Path, new: Path, stores: tuple[Path, Path] | None, progress: Progress) -> Told:
    """Return what one manifest changes of another, with the texts in these stores; raise our errors."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    before, after = archives.load_manifest(old, None), archives.load_manifest(new, None)
    head = [
        f"version {before.version} -> {after.version}",
        f"expires {before.expires or 'never'} -> {after.expires or 'never'}",
    ]
    texts = _texts(before, after, stores, progress) if stores is not None else None
    return head, list(archives.compare_manifests(before, after, texts))


def _texts(
    old: Manifest, new: Manifest, stores: tuple[Path, Path], progress: Progress
) -> dict[str, tuple[dict[str, bytes | None], dict[str, bytes | None]]]:
    """Return the texts of the archives that are in both manifests and changed; each must be what its manifest lists."""
    from torchserve_guard import archives  # noqa: PLC0415 - heavy, and only needed here

    texts = {}
    complaints: list[str] = []
    for before in old.subjects:
        after = new.subject(before.name)
        if after is None or not archives.changed(before, after):
            continue
        try:
            texts[before.name] = (
                archives.collect_texts(stores[0] / before.name, before, archives.is_text, progress),
                archives.collect_texts(stores[1] / before.name, after, archives.is_text, progress),
            )
        except VerificationError as error:
            complaints += error.complaints
    if complaints:
        raise VerificationError(*complaints)
    return texts
