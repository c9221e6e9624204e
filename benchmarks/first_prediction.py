"""Time from the start command to the first prediction, guarded against stock in the same run.

For a 5 MB and a 1 GB archive. Cold: the guard has never seen the archive. Warm: its store holds it, and it is
verified again. Stock unpacks every time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _measure import ROOT, SCRIPTS, machine, servers, spread, versions

SIZES = {"5 MB": 5_000_000, "1 GB": 1_000_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    print(machine(), versions("torchserve", "torch"), sep="; ")
    for size in options.sizes:
        with servers.folder("tsg-b-") as folder:
            store = folder / "store"
            archive(store, SIZES[size])
            servers.manifest(store)
            compare(folder, store, size, options.rounds)


def archive(store: Path, size: int) -> None:
    """Make an archive whose weights are `size` random bytes, in the archiver's default form."""
    store.mkdir()
    weights = store.parent / "weights.bin"
    with weights.open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))
    subprocess.run(
        [
            str(SCRIPTS / "torch-model-archiver"),
            "--model-name",
            "noop",
            "--version",
            "1.0",
            "--handler",
            str(ROOT / "tests/models/noop.py"),
            "--extra-files",
            str(weights),
            "--export-path",
            str(store),
        ],
        check=True,
        capture_output=True,
    )
    weights.unlink()


def compare(folder: Path, store: Path, size: str, rounds: int) -> None:
    times: dict[str, list[float]] = {"stock": [], "guarded cold": [], "guarded warm": []}
    for number in range(rounds):
        if (folder / "g").exists():
            remove(folder / "g")
        order = (
            ["stock", "guarded cold", "guarded warm"] if number % 2 == 0 else ["guarded cold", "guarded warm", "stock"]
        )
        for kind in order:
            times[kind].append(first_prediction(folder, store, kind))
    print(f"{size} archive, {rounds} rounds, seconds to the first prediction, median (least-most):")
    for kind, seconds in times.items():
        ratios = [ours / theirs for ours, theirs in zip(seconds, times["stock"], strict=True)]
        print(f"  {kind:13} {spread(seconds)}   ratio to stock {spread(ratios)}")


def remove(path: Path) -> None:
    """Remove a guard's folder, read-only trees and all."""
    for parent, _, _ in os.walk(path):
        Path(parent).chmod(0o700)
    shutil.rmtree(path)


def first_prediction(folder: Path, store: Path, kind: str) -> float:
    load = {"load_models": "noop.mar"}
    server = servers.Stock(folder / "s", store, load) if kind == "stock" else servers.Guarded(folder / "g", store, load)
    began = time.perf_counter()
    server.launch()
    try:
        while True:
            try:
                if server.ask("POST", "/predictions/noop", b"x", timeout=10).status == 200:
                    return time.perf_counter() - began
            except OSError:
                pass
            if server.process.poll() is not None:
                sys.exit(f"{kind} ended:\n{server.output()}")
            time.sleep(0.005)
    finally:
        servers.end(server)


if __name__ == "__main__":
    main()
