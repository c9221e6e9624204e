"""The class archive: TorchServe's classes as Java reads them into memory, so that its JVM starts in half the time.

Java's class data sharing (JEP 310; since Java 10). The file is mapped into the JVM that holds TorchServe's keys, and
one that is torn ends it (SIGBUS). So it lies with the installation, is written by who installs, is believed only where
nobody else may write, and is hashed before each use; it is never made or changed by a guard that serves. Java itself
passes over one that was made by another Java or from other jars.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend.java import Java
from torchserve_guard.frontend.rundirectory import trusted

NAMED = 16  # hexadecimal digits
WRITTEN_WITHIN = 120.0


def folder() -> Path:
    """Return where class archives lie: in the environment that the guard and TorchServe are installed in."""
    return Path(sys.prefix) / "share" / "torchserve_guard"


def stem_of(java: Java, jars: tuple[Path, ...]) -> str:
    """Return how the archive's name begins: another one for another Java, and for other jars."""
    names = [str(java.path), java.version]
    for jar in jars:
        about = jar.stat()
        names += [str(jar), str(about.st_size), str(about.st_mtime_ns)]
    return f"classes-{hashlib.sha256(chr(0).join(names).encode()).hexdigest()[:NAMED]}"


def find(java: Java, jars: tuple[Path, ...], place: Path) -> Path | None:
    """Return the archive in `place` that is whole, and that only root and this user could have written."""
    found = sorted(place.glob(f"{stem_of(java, jars)}-*.jsa"))
    return next((path for path in found if _is_ours(path) and path.name == _name(path.name.split("-")[1], path)), None)


def listing(path: Path) -> tuple[str, ...]:
    """Return what tells a JVM to write the names of the classes that it loads to `path`."""
    return ("-Xshare:off", f"-XX:DumpLoadedClassList={path}")


def dump(java: Java, jars: tuple[Path, ...], names: Path, made: Path) -> None:
    """Have Java write the classes of these names to `made`. Raises `FrontendError`."""
    files = (f"-XX:SharedClassListFile={names}", f"-XX:SharedArchiveFile={made}")
    command = [str(java.path), "-Xshare:dump", *files, "-cp", ":".join(map(str, jars))]
    try:
        done = subprocess.run(
            command, cwd=names.parent, env={}, capture_output=True, timeout=WRITTEN_WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FrontendError(f"java: `{java.path}` does not write its classes: {error}") from error
    if done.returncode or not made.exists():
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise FrontendError(f"java: `{java.path}` does not write its classes: {said[-1] if said else done.returncode}")


def using(java: Java, jars: tuple[Path, ...], place: Path) -> tuple[str, ...]:
    """Return what tells a JVM to read its classes from the archive; nothing if there is none to be believed."""
    path = find(java, jars, place)
    return () if path is None else (f"-XX:SharedArchiveFile={path}",)


def keep(made: Path, stem: str) -> Path:
    """Give what a JVM wrote its name, read-only, in the same folder; return its path. Raises `OSError`."""
    path = made.with_name(_name(stem.removeprefix("classes-"), made))
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.chmod(0o444)
    return made.replace(path)


def _name(key: str, path: Path) -> str:
    with path.open("rb") as file:
        return f"classes-{key}-{hashlib.file_digest(file, 'sha256').hexdigest()}.jsa"


def _is_ours(path: Path) -> bool:
    about = path.lstat()
    ours = about.st_uid in {0, os.geteuid()} and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISREG(about.st_mode) and ours and bool(trusted((path.parent,)))
