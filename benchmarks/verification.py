"""Speed of verification: `tsguard manifest verify` against the tools that do the same, in the same run.

    python benchmarks/verification.py [--rounds N] [--megabytes N] [--folder FOLDER]

Many archives (8 of 256 MB) and one large (4 GB), or less with --megabytes; all of it in the page cache. The peers are
`sha256sum` (coreutils' own C code), `openssl dgst -sha256` and `model_signing verify` with a key. Everybody is timed as
a command, from start to end, we on one core and on all; `sha256sum` and `openssl` use one core, and get all archives in
one command. What our command takes for next to nothing is measured too, and taken off in the second figure of each
comparison: it weighs much on small archives and little on large ones. Needs room for twice the large archive. Memory is
the peak of the resident set, as the kernel counts it (wait4).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from _measure import ROOT, SCRIPTS, machine, need, spread, verdict, verify_disk, versions
from corpus.archives import HANDLER, manifest

TSGUARD = str(SCRIPTS / "tsguard")
MODEL_SIGNING = SCRIPTS.parent / "interop" / "bin" / "model_signing"
BLOCK = 1_000_000
STARTS = "tsguard starts, one core"
MOST_MEMORY = 100
TARGETS = (
    ("per core, against openssl dgst", "openssl, one core", "tsguard, one core", 1.05),
    ("all cores against one", "tsguard, one core", "tsguard, all cores", 1.8),
    ("all cores, against sha256sum", "sha256sum, one core", "tsguard, all cores", 8.0),
    ("all cores, against model_signing verify", "model_signing, all cores", "tsguard, all cores", 1.5),
)


@dataclass(frozen=True)
class Cost:
    """What one command took: seconds, CPU seconds, and megabytes at its peak."""

    seconds: float
    cpu: float
    peak: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=4096, help="the size of the one large archive")
    parser.add_argument("--folder", type=Path, help="where the archives are made; a temporary folder unless given")
    options = parser.parse_args()
    need("sha256sum", "openssl", "taskset")
    if not MODEL_SIGNING.exists():
        # The tests against it install it, in an environment of its own.
        test = str(ROOT / "tests/integration/test_model_signing.py")
        subprocess.run([sys.executable, "-m", "pytest", "-q", test], cwd=ROOT, check=True, capture_output=True)
    size = options.megabytes * BLOCK
    print(f"{machine()}; {versions('torchserve-guard')}; load average {os.getloadavg()[0]:.1f} at the start")
    for tool in (("openssl", "version"), ("sha256sum", "--version")):
        print(" ", subprocess.run(tool, capture_output=True, text=True, check=True).stdout.splitlines()[0])
    with tempfile.TemporaryDirectory(prefix="tsg-b-", dir=options.folder) as name:
        folder = Path(name)
        verify_disk(folder, 2 * size)
        verify_cache(2 * size)
        key_pair(folder)
        for kind, count, each in (("many", 8, size // 16), ("one", 1, size)):
            compare(folder, kind, count, each, options.rounds)
            shutil.rmtree(folder / kind)
            shutil.rmtree(folder / f"{kind}-alone", ignore_errors=True)


def verify_cache(size: int) -> None:
    """Stop where so many bytes would not stay in memory."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    available = next(int(words[1]) for words in lines if words[0] == "MemAvailable:")
    if available * 1024 < size:
        sys.exit(f"{size} bytes would not stay in the page cache of this machine: use --megabytes")


def key_pair(folder: Path) -> None:
    """Make a key for `model_signing`; our own manifest is not signed: one signature more or less costs nothing."""
    commands = (
        ("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(folder / "key.pem")),
        ("openssl", "ec", "-in", str(folder / "key.pem"), "-pubout", "-out", str(folder / "key.pub")),
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)


def archive(path: Path, size: int, seed: int) -> None:
    """Write an archive whose one large member is stored, and does not repeat itself within a chunk."""
    block = hashlib.shake_256(seed.to_bytes(2)).digest(BLOCK)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("handler.py", HANDLER)
        with file.open("weights.bin", "w", force_zip64=True) as member:
            for number in range(size // BLOCK):
                member.write(number.to_bytes(8) + block[8:])
        file.writestr("MAR-INF/MANIFEST.json", manifest())


def tiny(folder: Path) -> Path:
    """Return a model store of one archive that is hashed in no time."""
    store = folder / "tiny"
    if not store.exists():
        store.mkdir()
        archive(store / "m.mar", 0, 0)
        run(None, TSGUARD, "manifest", "create", str(store))
    return store


def run(cores: int | None, *command: str) -> Cost:
    """Run a command, on so many cores or on all, and have the kernel say what it took."""
    nothing = subprocess.DEVNULL
    usable = sorted(os.sched_getaffinity(0))
    bound = () if cores is None else ("taskset", "-c", ",".join(map(str, usable[-cores:])))
    started = time.perf_counter()
    process = subprocess.Popen((*bound, *command), stdout=nothing, stderr=nothing)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` ended with {process.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def compare(folder: Path, kind: str, count: int, each: int, rounds: int) -> None:
    """Make the archives, and run everybody on them, one after the other, round by round."""
    store = folder / kind
    store.mkdir()
    for number in range(count):
        archive(store / f"m{number}.mar", each, number)
    files = sorted(str(path) for path in store.iterdir())
    total = sum(Path(path).stat().st_size for path in files)
    created = run(None, TSGUARD, "manifest", "create", str(store))
    commands = tools(folder, store, files)
    for command in commands.values():
        run(*command)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in list(commands)[:: 1 if number % 2 == 0 else -1]:
            costs[name].append(run(*commands[name]))
    print(f"\n{count} of {each / 1e6:.0f} MB, {rounds} rounds, median (least-most).", end=" ")
    print(f"`tsguard manifest create`: {created.seconds:.2f} s, peak {created.peak:.0f} MB.\n")
    print("| command | seconds | CPU seconds | MB/s | peak MB |\n|---|---|---|---|---|")
    for name, found in costs.items():
        rate = "" if name == STARTS else spread([total / cost.seconds / 1e6 for cost in found])
        figures = [spread([cost.seconds for cost in found]), spread([cost.cpu for cost in found]), rate]
        print(f"| {name} | {' | '.join(figures)} | {max(cost.peak for cost in found):.0f} |")
    judge(costs)


def tools(folder: Path, store: Path, files: list[str]) -> dict[str, tuple[int | None, *tuple[str, ...]]]:
    """Return the commands by the name they have in the table, each with the number of cores it may use."""
    verify = (TSGUARD, "manifest", "verify", str(store))
    commands: dict[str, tuple[int | None, *tuple[str, ...]]] = {
        "tsguard, one core": (1, *verify),
        "tsguard, all cores": (None, *verify),
        "tsguard --whole, all cores": (None, *verify, "--whole"),
        STARTS: (1, TSGUARD, "manifest", "verify", str(tiny(folder))),
        "openssl, one core": (1, "openssl", "dgst", "-sha256", *files),
        "sha256sum, one core": (1, "sha256sum", *files),
    }
    # Only the archives, or it would have to pass over our manifest.
    alone, signature = folder / f"{store.name}-alone", str(folder / f"{store.name}.sig")
    alone.mkdir()
    for path in files:
        os.link(path, alone / Path(path).name)
    signed = ("key", str(alone), "--signature", signature)
    sign = (str(MODEL_SIGNING), "sign", *signed, "--private_key", str(folder / "key.pem"))
    subprocess.run(sign, check=True, capture_output=True, cwd=ROOT)
    check = (str(MODEL_SIGNING), "verify", *signed, "--public_key", str(folder / "key.pub"))
    commands["model_signing, all cores"] = (None, *check)
    return commands


def judge(costs: dict[str, list[Cost]]) -> None:
    """Say how each ratio stands to its target, pair by pair: of whole commands, and of the work alone."""
    start = Cost(*(statistics.median(getattr(one, of) for one in costs[STARTS]) for of in ("seconds", "cpu", "peak")))
    print("\n| ratio | whole commands | without the start of our command | in CPU seconds |\n|---|---|---|---|")
    for what, peer, ours, target in TARGETS:
        if peer in costs:
            pairs = list(zip(costs[peer], costs[ours], strict=True))
            # Against ourselves, both sides start; against another, only our side's start is taken off.
            begun = start.seconds if peer.startswith("tsguard") else 0.0
            whole = [theirs.seconds / mine.seconds for theirs, mine in pairs]
            work = [
                (theirs.seconds - begun) / (mine.seconds - start.seconds)
                for theirs, mine in pairs
                if mine.seconds > start.seconds
            ]
            alone = verdict(work, at_least=target) if len(work) == len(pairs) else "too little work to tell"
            cpu = spread([theirs.cpu / mine.cpu for theirs, mine in pairs])
            print(f"| {what} | {verdict(whole, at_least=target)} | {alone} | {cpu} |")
    peak = max(cost.peak for name, found in costs.items() if name.startswith("tsguard") for cost in found)
    print(f"\nMemory: {peak:.0f} MB, target below {MOST_MEMORY}: {'met' if peak < MOST_MEMORY else 'NOT MET'}")


if __name__ == "__main__":
    main()
