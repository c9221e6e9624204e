"""The disk as TorchServe sees it from where it is started: what is at a path. Nothing is changed.

A relative path is taken from the working directory, as the launcher and the JVM do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torchserve_guard.settings import properties


class Disk(Protocol):
    """The questions that TorchServe asks of a disk before it has a configuration."""

    def is_file(self, path: str) -> bool:
        """Whether there is a regular file, links followed."""
        ...

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder, links followed."""
        ...

    def files(self, folder: str) -> tuple[str, ...]:
        """Return the names in a folder that are no folders; none when it cannot be listed."""
        ...

    def read(self, path: str) -> bytes:
        """Return the bytes of a properties file. Raises `ConfigError`."""
        ...


@dataclass(frozen=True, slots=True)
class RealDisk:
    """The machine's disk, seen from a working directory."""

    cwd: Path

    def is_file(self, path: str) -> bool:
        """Whether there is a regular file; os.path answers False for what is no path at all."""
        return os.path.isfile(self.cwd / path)  # noqa: PTH113 - pathlib raises where os.path answers

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder; os.path answers False for what is no path at all."""
        return os.path.isdir(self.cwd / path)  # noqa: PTH112 - pathlib raises where os.path answers

    def files(self, folder: str) -> tuple[str, ...]:
        """Return the names in a folder that are no folders; none when it cannot be listed."""
        try:
            with os.scandir(self.cwd / folder) as entries:
                return tuple(sorted(entry.name for entry in entries if not entry.is_dir()))
        except (OSError, ValueError):
            return ()

    def read(self, path: str) -> bytes:
        """Return the bytes of a properties file, within the limit for one. Raises `ConfigError`."""
        return properties.bytes_of(self.cwd / path)
