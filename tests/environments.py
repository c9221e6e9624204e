"""Environments beside this one, for peers that want packages of their own; the first run that wants one makes it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

# Compiling what is imported once takes longer than installing it.
INSTALL = ("install", "--quiet", "--disable-pip-version-check", "--no-compile")


def made(name: str, packages: tuple[str, ...], *, ours_too: bool = False) -> Path:
    """Return the interpreter of an environment with these packages, and with what is installed here as well.

    Skips the test where they are not to be had.
    """
    folder = Path(sys.prefix) / name
    python, stamp = folder / "bin" / "python", folder / ".set-up"
    told = " ".join(packages)
    with (Path(sys.prefix) / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != told:
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
            install = [sys.executable, "-m", "pip", "--python", str(python), *INSTALL, *packages]
            done = subprocess.run(install, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"{told} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
            if ours_too:
                beside = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix) / "beside.pth"
                beside.write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
            stamp.write_text(told)
    return python
