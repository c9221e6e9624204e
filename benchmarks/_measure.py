"""What the benchmarks share: the machine, the load, and figures that can be compared."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import servers  # noqa: E402 - it lies with the tests

__all__ = [
    "ROOT",
    "SCRIPTS",
    "Load",
    "machine",
    "need",
    "pair",
    "parsed",
    "row",
    "servers",
    "spread",
    "verdict",
    "verify_disk",
    "versions",
    "wrk",
]

SCRIPTS = Path(sys.executable).parent

POST = """
wrk.method = "POST"
wrk.body = "{\\"data\\": \\"twelve bytes\\"}"
wrk.headers["Content-Type"] = "application/json"
"""
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Load:
    """What one round of load saw: requests each second, seconds at the median and the 99th percentile, failures."""

    rate: float
    p50: float
    p99: float
    failed: int


def machine() -> str:
    """Say in one line where this runs."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "?",
    )
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"


def versions(*names: str) -> str:
    """Name the versions of the packages that matter."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def need(*programs: str) -> None:
    """Stop, and say how to get what is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        sys.exit(f"this benchmark needs {', '.join(missing)}: install the packages of that name (nginx: nginx-light)")


@contextmanager
def pair(folder: Path) -> Iterator[tuple[servers.Stock, servers.Guarded]]:
    """Yield a bare TorchServe and a guarded one, both up, both with the model `noop`."""
    store = folder / "store"
    build = [sys.executable, str(ROOT / "tests/models/build.py"), str(store), "noop"]
    subprocess.run(build, check=True, capture_output=True)
    servers.manifest(store)
    load = {"load_models": "noop.mar"}
    stock, guarded = servers.Stock(folder / "s", store, load), servers.Guarded(folder / "g", store, load)
    with servers.serving(stock, ("noop",)), servers.serving(guarded):
        yield stock, guarded


def wrk(  # noqa: PLR0917 - of the load, not of a design
    port: int, target: str, connections: int, seconds: int, folder: Path, key: str | None = None
) -> Load:
    """POST to one target for some seconds, all connections kept alive, with a key when there is one."""
    script = folder / "post.lua"
    script.write_text(POST)
    done = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            str(script),
            *([] if key is None else ["-H", f"Authorization: Bearer {key}"]),
            f"http://127.0.0.1:{port}{target}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return parsed(done.stdout)


def parsed(text: str) -> Load:
    rate = float(re.search(r"Requests/sec:\s+([0-9.]+)", text)[1])
    p50, p99 = (_seconds(re.search(rf"\n\s+{share}%\s+(\S+)", text)[1]) for share in ("50", "99"))
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    failed += sum(int(n) for line in re.findall(r"Socket errors: .*", text) for n in re.findall(r"\d+", line))
    return Load(rate, p50, p99, failed)


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(us|ms|s|m)", text).groups()
    return float(number) * UNITS[unit]


def spread(values: list[float]) -> str:
    """Return the median, with least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def verdict(ratios: list[float], *, at_most: float | None = None, at_least: float | None = None) -> str:
    """Return the ratios with their target, and whether their median meets it."""
    middle = statistics.median(ratios)
    met = middle <= at_most if at_most is not None else middle >= (at_least or 0)
    target = f"at most {at_most}" if at_most is not None else f"at least {at_least}"
    return f"{spread(ratios)}, target {target}: {'met' if met else 'NOT MET'}"


def verify_disk(folder: Path, size: int) -> None:
    """Stop where so many bytes would not fit on the disk."""
    if shutil.disk_usage(folder).free < size:
        sys.exit(f"{folder} has no room for {size} bytes: set TMPDIR, or ask for less")


def row(name: str, loads: list[Load]) -> str:
    """Return the figures of several rounds on one line."""
    rate, p50, p99 = ([getattr(load, what) for load in loads] for what in ("rate", "p50", "p99"))
    milliseconds = [spread([value * 1e3 for value in values]) for values in (p50, p99)]
    return f"  {name:8} requests/s {spread(rate)}, p50 ms {milliseconds[0]}, p99 ms {milliseconds[1]}"
