"""Time from the start command to the first prediction, guarded against stock in the same run.

    python benchmarks/first_prediction.py [--rounds N] [--megabytes N ...] [--weights random|normal]

For archives of 5 MB and of 2 GB, in the archiver's default form (deflated) and as zip-store. Cold: the guard has never
seen the archive. Warm: its store holds it, and both are verified again, byte by byte. Stock unpacks every time. Random
weights do not shrink, as those of most models hardly do; normal ones are drawn from a normal distribution. The page
cache is warm, and what one server wrote is on the disk before the next one starts. Needs room for four archives.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _measure import ROOT, SCRIPTS, machine, servers, spread, verdict, verify_disk, versions

FORMS = {"default": (0.7, 0.3), "zip-store": (0.9, 0.5)}
"""The forms of the archiver, with the targets of a cold and a warm start against stock, for archives that are large."""
SMALL = 100
SMALL_TARGETS = (1.05, 1.0)
MB = 1_000_000
KINDS = ("stock", "guarded cold", "guarded warm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[5, 2000], help="the sizes of the weights")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--weights", choices=("random", "normal"), default="random")
    options = parser.parse_args()
    print(f"{machine()}; {versions('torchserve', 'torch')}; load average {os.getloadavg()[0]:.1f} at the start\n")
    print(
        f"Seconds to the first prediction, {options.rounds} rounds, {options.weights} weights, median (least-most).\n"
    )
    print("| archive | stock | guarded cold | cold/stock | guarded warm | warm/stock |\n|---|---|---|---|---|---|")
    for size in options.megabytes:
        for form in options.forms:
            with servers.folder("tsg-b-") as folder:
                verify_disk(folder, 4 * size * MB)
                store = folder / "store"
                archive(store, size, form, options.weights)
                servers.manifest(store)
                print(row(size, form, compare(folder, store, options.rounds)), flush=True)


def archive(store: Path, megabytes: int, form: str, weights: str) -> None:
    """Make an archive whose weights are so large, in a form of the archiver's."""
    store.mkdir()
    path = store.parent / "weights.bin"
    with path.open("wb") as file:
        file.writelines(pieces(megabytes, weights))
    command = [str(SCRIPTS / "torch-model-archiver"), "--model-name", "noop", "--version", "1.0"]
    command += ["--handler", str(ROOT / "tests/models/noop.py"), "--extra-files", str(path)]
    command += ["--export-path", str(store), "--archive-format", form]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TMPDIR": str(store.parent)})
    path.unlink()


def pieces(megabytes: int, weights: str) -> Iterator[bytes]:
    """Yield so many pieces of a megabyte."""
    drawn = np.random.default_rng(1)
    for _ in range(megabytes):
        yield os.urandom(MB) if weights == "random" else drawn.standard_normal(MB // 4, dtype=np.float32).tobytes()


def compare(folder: Path, store: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each kind of start, one after the other, round by round."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 == 0 else (*KINDS[1:], KINDS[0]):
            os.sync()
            times[kind].append(first_prediction(folder, store, kind))
            # Stock leaves what it unpacked behind; the store of the guard is for the warm start.
            if kind != "guarded cold":
                remove(folder / ("s" if kind == "stock" else "g"))
    return times


def row(megabytes: int, form: str, times: dict[str, list[float]]) -> str:
    """Return the line of the table."""
    told = [f"{megabytes} MB, {form}", spread(times["stock"])]
    targets = SMALL_TARGETS if megabytes < SMALL else FORMS[form]
    for kind, target in zip(KINDS[1:], targets, strict=True):
        ratios = [ours / theirs for ours, theirs in zip(times[kind], times["stock"], strict=True)]
        told += [spread(times[kind]), verdict(ratios, at_most=target)]
    return f"| {' | '.join(told)} |"


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
