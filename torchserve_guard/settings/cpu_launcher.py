"""The CPU launcher's arguments: an allow-list over `cpu_launcher_args`.

They stand in the command line of every worker, before the program that it runs (WorkerLifeCycle.java): what tunes
cores and memory is let through, what names a program, a module, a file or a library is not. The names are those of
`python -m torch.backends.xeon.run_cpu --help`.
"""

from __future__ import annotations

import re

SWITCHES = frozenset(
    {
        "--disable-iomp",
        "--disable-numactl",
        "--disable-taskset",
        "--enable-jemalloc",
        "--enable-tcmalloc",
        "--latency-mode",
        "--multi-instance",
        "--skip-cross-node-cores",
        "--throughput-mode",
        "--use-default-allocator",
        "--use-logical-core",
    }
)
NUMBERS = frozenset({"--ncores-per-instance", "--ninstances", "--node-id", "--rank"})
CORES = "--core-list"
NUMBER = re.compile(r"[0-9]{1,5}")
LIST = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*")


def parse(text: str) -> tuple[str, ...]:
    """Return the arguments. Raises `ValueError` that names the first one not in the list."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("holds a character that is none of an argument")
    arguments = text.split()
    rest = iter(arguments)
    for argument in rest:
        name, given, value = argument.replace("_", "-").partition("=")
        if name in SWITCHES and not given:
            continue
        pattern = NUMBER if name in NUMBERS else LIST if name == CORES else None
        if pattern is None:
            raise ValueError(
                f"holds `{argument}`, which is not in the list of harmless ones: it may name what every worker runs; "
                "remove it"
            )
        if pattern.fullmatch(value if given else next(rest, "")) is None:
            raise ValueError(f"has no number behind `{name}`")
    return tuple(arguments)
