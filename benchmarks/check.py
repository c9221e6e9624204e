"""Speed of `tsguard check`: many configurations in one command, one alone, and the memory of both.

    python benchmarks/check.py [--configurations N] [--rounds N]

Stock has no such check, so there is no peer; what it is held against is one process for each configuration, which is
what a loop in a shell would do. Seconds are of the wall clock, with the CPU seconds of the command and its children
beside them; memory is the peak of the resident set, as the kernel counts it (wait4).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from _measure import SCRIPTS, machine, spread, versions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from corpus.archives import GOOD, archive

VARIANTS = (
    "",
    "enable_modle_api=true\n",
    "management_address=http://0.0.0.0:8081\n",
    "cors_allowed_origin=*\nvmargs=-Xmx1g\n",
)
FORMATS = ("text", "json", "sarif", "junit")


@dataclass(frozen=True)
class Cost:
    """What one command took: seconds, CPU seconds, megabytes at its peak, and how it ended."""

    seconds: float
    cpu: float
    peak: float
    code: int


def run(folder: Path, *arguments: str) -> Cost:
    """Run `tsguard check`, and have the kernel say what it took."""
    command = [str(SCRIPTS / "tsguard"), "check", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    nothing = subprocess.DEVNULL
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=nothing, stderr=nothing)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode)


def made(folder: Path, count: int) -> None:
    """Write a store with one listed archive, and two folders of configurations: without archives, and with that one."""
    (folder / "models").mkdir()
    (folder / "models" / "m.mar").write_bytes(archive(*GOOD))
    create = [str(SCRIPTS / "tsguard"), "manifest", "create", "models"]
    subprocess.run(create, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for name, load in (("bare", ""), ("loading", "m.mar")):
        (folder / name).mkdir()
        for number in range(count):
            (folder / name / f"{number:05}.properties").write_text(
                f"model_store=models\nload_models={load}\njob_queue_size={number + 1}\n"
                f"inference_address=http://127.0.0.1:{10_000 + number % 20_000}\n{VARIANTS[number % len(VARIANTS)]}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configurations", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{machine()}; {versions('torchserve-guard')}; load average {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory(prefix="tsguard-bench-") as name:
        folder = Path(name)
        made(folder, given.configurations)
        for kind, told in (("bare", "no archive"), ("loading", "one archive each")):
            alone = [run(folder, "--config", f"{kind}/00000.properties") for _ in range(given.rounds * 3)]
            many = [run(folder, "--config", kind) for _ in range(given.rounds)]
            assert {cost.code for cost in alone} <= {0}, "a configuration of the benchmark does not pass"
            assert {cost.code for cost in many} <= {0}, "a configuration of the benchmark does not pass"
            print(f"{told}:")
            print(
                f"  one alone: s {spread([c.seconds for c in alone])}, CPU s {spread([c.cpu for c in alone])}, "
                f"peak MB {spread([c.peak for c in alone])}"
            )
            rates = [given.configurations / cost.seconds for cost in many]
            cpu = [1000 * cost.cpu / given.configurations for cost in many]
            loop = statistics.median(c.seconds for c in alone) * statistics.median(rates)
            print(
                f"  {given.configurations} in one command: configurations/s {spread(rates)}, "
                f"CPU ms each {spread(cpu)}, peak MB {spread([c.peak for c in many])}; "
                f"{loop:.0f} times as fast as a command for each"
            )
        for form in FORMATS:
            cost = run(folder, "--config", "loading", "--format", form, "--output", f"report.{form}")
            size = (folder / f"report.{form}").stat().st_size / 1e6
            print(
                f"  {given.configurations} as {form}: {cost.seconds:.2f} s, peak {cost.peak:.0f} MB, "
                f"report {size:.1f} MB"
            )


if __name__ == "__main__":
    main()
