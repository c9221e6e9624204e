"""The JVM arguments: an allow-list over `vmargs`.

A JVM runs code that its command line names (agents, `-XX:OnError`, argument files, class paths) and reads
properties that redirect TorchServe's files; what tunes memory and garbage collection is let through
(hazard H03).
"""

from __future__ import annotations

import re

SIZE = r"[0-9]{1,12}[kKmMgGtT]?"
NUMBER = r"[0-9]{1,15}(\.[0-9]{1,6})?"
ALLOWED = re.compile(
    rf"-X(ms|mx|mn|ss){SIZE}"
    rf"|-XX:(MaxDirectMemorySize|MetaspaceSize|MaxMetaspaceSize|ReservedCodeCacheSize|G1HeapRegionSize)={SIZE}"
    rf"|-XX:(Initial|Max|Min)RAMPercentage={NUMBER}"
    rf"|-XX:(ActiveProcessorCount|ParallelGCThreads|ConcGCThreads|MaxGCPauseMillis|CICompilerCount)={NUMBER}"
    rf"|-XX:(NewRatio|SurvivorRatio|InitiatingHeapOccupancyPercent|TieredStopAtLevel)={NUMBER}"
    r"|-XX:[+-]Use(G1|Z|Parallel|Serial|Shenandoah)GC"
    r"|-XX:[+-](UseContainerSupport|UseStringDeduplication|UseCompressedOops|UseNUMA|UseTransparentHugePages)"
    r"|-XX:[+-](AlwaysPreTouch|DisableExplicitGC|TieredCompilation|ExitOnOutOfMemoryError|CrashOnOutOfMemoryError)"
    r"|-(server|ea|esa|da|dsa)"
)
REMEDIES = (
    ("-Dlog4j", "use `guard.frontend_log`"),
    ("-javaagent", "agents run code inside TorchServe"),
    ("-agent", "agents run code inside TorchServe"),
    ("@", "an argument file can hold anything"),
    ("-Djava.io.tmpdir", "the guard gives TorchServe a private temporary folder"),
)


def parse(text: str) -> tuple[str, ...]:
    """Return the arguments. Raises `ValueError` that names the first one not in the list, and why."""
    arguments = tuple(text.split())
    for argument in arguments:
        if ALLOWED.fullmatch(argument) is None:
            why = next(
                (why for prefix, why in REMEDIES if argument.startswith(prefix)),
                "it is not in the list of harmless ones",
            )
            raise ValueError(f"holds `{argument}`, which is refused: {why}; remove it")
    return arguments
