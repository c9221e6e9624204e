"""Leftovers: files that a stock TorchServe would find and obey where it is started."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from torchserve_guard import looks
from torchserve_guard.findings import Severity
from torchserve_guard.settings.hardening.rule import Hit, Rule, Told

# `.` is the first element of stock's class path (ts/model_server.py), and log4j2 looks for these on it.
LOG4J = re.compile(
    r"log4j2(-test)?[^/]*\.(properties|ya?ml|jsn|json|xml)|log4j2\.(component|system)\.properties", re.IGNORECASE
)
# Folders that hold the classes of TorchServe and of its libraries; one of the same name comes before them.
PACKAGES = ("org", "io", "com", "ch", "net", "javax", "jakarta")
MOST_LOOKED_AT = 1000
MOST_READ = 10
SECURITY = re.compile(rb"^\s*(enable_model_api|disable_token_authorization)\s*[=:\s]\s*true\s*$", re.MULTILINE)


def _obeyed_by_stock(told: Told) -> Iterator[Hit]:
    cwd = told.around.cwd
    for path, what in (*_classes(cwd), *_configurations(cwd, told.settings.config)):
        yield Hit(f"{path} is in the working directory: stock TorchServe {what}", path.name, path=path)


def _classes(cwd: Path) -> Iterator[tuple[Path, str]]:
    for name in _names(cwd):
        if name.endswith(".class"):
            yield cwd / name, "has it on its class path, and runs it in place of its own"
        elif LOG4J.fullmatch(name):
            yield cwd / name, "takes its logging from it"
    if _names(cwd / "META-INF/services"):
        yield cwd / "META-INF/services", "loads the classes that it names"
    for package in PACKAGES:
        if _holds_classes(cwd / package):
            yield cwd / package, "has it on its class path, and runs it in place of its own"


def _holds_classes(folder: Path) -> bool:
    names = (name for _, _, files in os.walk(folder) for name in files)
    return any(name.endswith(".class") for name in islice(names, MOST_LOOKED_AT))


def _configurations(cwd: Path, used: Path) -> Iterator[tuple[Path, str]]:
    other = cwd / "config.properties"
    if looks.is_file(other) and not (looks.is_there(used) and other.samefile(used)):
        yield other, "reads it when it is started without --ts-config; the guard reads another"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _snapshots(told: Told) -> Iterator[Hit]:
    folder = told.settings.log_location / "config"
    names = [name for name in _names(folder) if looks.is_file(folder / name)]
    if names:
        brings = sorted({key for name in names[-MOST_READ:] for key in _security_keys(folder / name)})
        also = f"; they bring {' and '.join(f'`{key}=true`' for key in brings)} back" if brings else ""
        yield Hit(
            f"{folder} holds {len(names)} snapshots, such as {names[-1]}: the newest becomes the configuration of a "
            f"stock TorchServe that is started without --ts-config and --ncs{also}",
            "LOG_LOCATION",
            path=folder / names[-1],
        )


def _security_keys(path: Path) -> set[str]:
    try:
        with path.open("rb") as file:
            return {match[1].decode() for match in SECURITY.finditer(file.read(65536))}
    except OSError:
        return set()


RULES = (
    Rule(
        "TSG047",
        Severity.LOW,
        "a stock TorchServe that is started here, by habit or as a fallback, runs or obeys it",
        "remove it, or start in an empty folder",
        ("H07",),
        _obeyed_by_stock,
    ),
    Rule(
        "TSG048",
        Severity.LOW,
        "a stock TorchServe that is started here brings models and flags back that nobody asked for",
        "remove the folder; the guard neither writes nor reads snapshots",
        ("H08", "H10", "L01"),
        _snapshots,
    ),
)
