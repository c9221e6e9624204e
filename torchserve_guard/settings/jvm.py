"""The JVM arguments: an allow-list over `vmargs`.

A JVM runs code that its command line names (agents, `-XX:OnError`, argument files, class paths) and reads
properties that redirect TorchServe's files; what tunes memory and garbage collection is let through
(hazard H03).
"""

from __future__ import annotations

import re

SIZE = r"[0-9]{1,12}[kKmMgGtT]?"
ALLOWED = re.compile(
    rf"-X(ms|mx|mn|ss){SIZE}"
    r"|-XX:[+-]Use(G1|Z|Parallel|Serial|Shenandoah|Epsilon)GC"
    r"|-XX:[+-](UseContainerSupport|UseStringDeduplication|UseCompressedOops|UseNUMA|UseTransparentHugePages|UseLargePages)"
    r"|-XX:[+-](AlwaysPreTouch|ExitOnOutOfMemoryError|CrashOnOutOfMemoryError|DisableExplicitGC|ParallelRefProcEnabled)"
    rf"|-XX:(MaxDirectMemorySize|MetaspaceSize|MaxMetaspaceSize|ReservedCodeCacheSize|G1HeapRegionSize)={SIZE}"
    r"|-XX:(MaxGCPauseMillis|ParallelGCThreads|ConcGCThreads|ActiveProcessorCount|NewRatio|SurvivorRatio)=[0-9]{1,9}"
    r"|-XX:(Initial|Max|Min)RAMPercentage=[0-9]{1,3}(\.[0-9]{1,3})?"
    r"|-server|-ea|-da"
    r"|-Djava\.net\.preferIPv[46](Stack|Addresses)=(true|false)"
    r"|-Dio\.netty\.[A-Za-z.]{1,60}=[0-9A-Za-z]{1,20}"
    r"|-D(user\.timezone|file\.encoding|user\.language)=[A-Za-z0-9_/+-]{1,40}"
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
