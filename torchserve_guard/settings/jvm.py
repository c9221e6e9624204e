"""The JVM arguments: an allow-list over `vmargs`.

A JVM runs code that its command line names (agents, `-XX:OnError`, argument files, class paths) and reads
properties that redirect TorchServe's files; what tunes memory and garbage collection is let through
(hazard H03). Where TorchServe is to log is taken out: it is the guard that tells it.
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
    r"|-XX:[+-](UseLargePages|HeapDumpOnOutOfMemoryError)"
    r"|-Djava\.net\.preferIPv(4Stack|4Addresses|6Addresses)=(true|false)"
    r"|-Dfile\.encoding=(UTF-8|utf-8|UTF8|ISO-8859-1|US-ASCII)"
    r"|-Duser\.timezone=[A-Za-z][A-Za-z0-9_+-]{0,40}(/[A-Za-z0-9_+-]{1,40}){0,2}"
    r"|-XX:[+-](AlwaysPreTouch|DisableExplicitGC|TieredCompilation|ExitOnOutOfMemoryError|CrashOnOutOfMemoryError)"
    r"|-(server|ea|esa|da|dsa)"
)
DUMPS_MEMORY = "-XX:+HeapDumpOnOutOfMemoryError"
LOG = re.compile(r"-Dlog4j2?\.configurationFile=(?:file:(?://)?)?(?P<path>/(?!/)[^,?#%]*)")
REMEDIES = (
    ("-Dlog4j", "use `guard.frontend_log` with a file of this machine"),
    ("-javaagent", "agents run code inside TorchServe"),
    ("-agent", "agents run code inside TorchServe"),
    ("@", "an argument file can hold anything"),
    ("-Djava.io.tmpdir", "the guard gives TorchServe a private temporary folder"),
)


def parse(text: str) -> tuple[str, ...]:
    """Return the arguments but for the log. Raises `ValueError` that names the first one not in the list, and why."""
    arguments = tuple(argument for argument in text.split() if LOG.fullmatch(argument) is None)
    for argument in arguments:
        if ALLOWED.fullmatch(argument) is None:
            why = next(
                (why for prefix, why in REMEDIES if argument.startswith(prefix)),
                "it is not in the list of harmless ones",
            )
            raise ValueError(f"holds `{argument}`, which is refused: {why}; remove it")
    return arguments


def log_configuration(text: str) -> str | None:
    """Return the log4j2 file that the arguments name, the last of several as the JVM takes it; None without one."""
    named = [match["path"] for argument in text.split() if (match := LOG.fullmatch(argument)) is not None]
    return named[-1] if named else None
