"""A look at a path that finds nothing where this user may not look, or where no path can be."""

from __future__ import annotations

import os
from pathlib import Path


def is_folder(path: Path | str) -> bool:
    """Whether there is a folder, as far as this user can see."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises PermissionError, OSError for a name too long


def is_file(path: Path | str) -> bool:
    """Whether there is a regular file, as far as this user can see."""
    return os.path.isfile(path)  # noqa: PTH113 - likewise


def is_there(path: Path | str) -> bool:
    """Whether there is anything, as far as this user can see."""
    return os.path.exists(path)  # noqa: PTH110 - likewise
