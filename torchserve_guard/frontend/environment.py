"""The environment of TorchServe and its workers: built from nothing, by a table.

Pure: no I/O, no clock; the environment to choose from is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from torchserve_guard.errors import ConfigError

ROSTER = "TSGUARD_ROSTER"
SYSTEM_DIRECTORIES = (Path("/usr/local/bin"), Path("/usr/bin"), Path("/bin"))

# What is taken over when it is there: words about language, user, processors, devices and caches.
ALLOWED = frozenset(
    {
        "LANG",
        "LANGUAGE",
        "TZ",
        "HOME",
        "USER",
        "LOGNAME",
        "OMP_NUM_THREADS",
        "OMP_DYNAMIC",
        "OMP_PLACES",
        "OMP_PROC_BIND",
        "OMP_SCHEDULE",
        "OMP_STACKSIZE",
        "OMP_THREAD_LIMIT",
        "OMP_WAIT_POLICY",
        "MKL_NUM_THREADS",
        "MKL_DYNAMIC",
        "MKL_DOMAIN_NUM_THREADS",
        "MKL_ENABLE_INSTRUCTIONS",
        "MKL_CBWR",
        "KMP_AFFINITY",
        "KMP_BLOCKTIME",
        "KMP_SETTINGS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMEXPR_MAX_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "CUDA_LAUNCH_BLOCKING",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "NVIDIA_REQUIRE_CUDA",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "HF_HOME",
        "TORCH_HOME",
        "XDG_CACHE_HOME",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_OFFLINE",
        "TS_OPEN_INFERENCE_PROTOCOL",
    }
)
ALLOWED_FAMILIES = re.compile(r"LC_[A-Z]+", re.ASCII)

# What is refused even when it is asked for: each loads code, moves a file, or changes what was decided. The
# first pattern that fits gives the reason.
DENIED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.ASCII), reason)
    for pattern, reason in (
        (r"TS_OPEN_INFERENCE_PROTOCOL|LD_LIBRARY_PATH", ""),  # read, but no code: see CHECKED
        (
            r"LD_\w*|GLIBC_TUNABLES|GCONV_PATH|LOCPATH|NLSPATH|MALLOC_\w*",
            "it steers the dynamic loader or the C library",
        ),
        (r"_?JAVA_\w*|JDK_\w*|CLASSPATH|IBM_JAVA_OPTIONS|OPENJ9_\w*", "it adds options to the JVM, which can run code"),
        (r"PYTHON\w*", "it changes what code the workers import or run"),
        (r"LOG4J\w*|log4j.*", "it replaces the log's configuration"),
        (r"TS_\w*|SM_TELEMETRY_LOG", "it overrides TorchServe's configuration"),
        (r"PATH|TMPDIR|TEMP|TMP|LOG_LOCATION|METRICS_LOCATION|TSGUARD_\w*", "the guard sets it"),
        (r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)", "torchrun sets it for each worker"),
        (r"BASH_ENV|ENV|SHELLOPTS|BASHOPTS|PS4|IFS|BASH_FUNC.*", "a shell runs it"),
        (r"OMP_TOOL_LIBRARIES|CUDA_INJECTION\w*|NVTX_INJECTION\w*|KINETO_\w*", "it names a library to load"),
    )
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_DEVICES = re.compile(r"(-1|\d{1,4}(,\d{1,4})*)?", re.ASCII)
_LANGUAGE = "C.UTF-8"


def _devices(value: str) -> str | None:
    # SystemInfo.java takes each part for a number: GPU-UUIDs and blanks end the start with an exception.
    return (
        None
        if _DEVICES.fullmatch(value)
        else "TorchServe reads it as device numbers, such as `0,1`; UUIDs end its start"
    )


def _libraries(value: str) -> str | None:
    absolute = all(part.startswith("/") for part in value.split(":"))
    return None if absolute else "an empty or relative entry is whatever directory a worker stands in"


def _protocol(value: str) -> str | None:
    return None if value in {"", "oip"} else "TorchServe knows `oip`, and nothing for off"


CHECKED: Mapping[str, Callable[[str], str | None]] = {
    "CUDA_VISIBLE_DEVICES": _devices,
    "LD_LIBRARY_PATH": _libraries,
    "TS_OPEN_INFERENCE_PROTOCOL": _protocol,
}


def build_environment(
    source: Mapping[str, str],
    *,
    path: Sequence[Path],
    temporary: Path,
    log_location: Path,
    metrics_location: Path,
    roster: Path | None = None,
    wanted: Iterable[str] = (),
) -> dict[str, str]:
    """Return the environment for the JVM and its workers.

    Of `source` come the allowed variables and those `wanted` by name; `path` are the directories of PATH, which
    the caller trusts, and `roster` is where handlers find what was verified. Raises ConfigError for a variable that is
    refused, with the reason.
    """
    asked = tuple(wanted)
    chosen = {name: value for name, value in source.items() if _is_allowed(name) or name in asked}
    complaints = [*_refused(asked), *_unacceptable(chosen)]
    if complaints:
        raise ConfigError.of(complaints)
    language = {} if {"LANG", "LC_ALL"} & chosen.keys() else {"LANG": _LANGUAGE}
    # INVARIANT: what the guard sets comes last, so nothing chosen can stand in for it.
    told = {} if roster is None else {ROSTER: str(roster)}
    return {**language, **chosen, **_ours(path, temporary, log_location, metrics_location), **told}


def path_candidates(interpreter: Path, java: Path) -> tuple[Path, ...]:
    """Return the directories that PATH should hold, before it is asked who may write into them.

    The interpreter's comes first: `python` and `torchrun` are then the ones that the guard runs with. The
    interpreter is not resolved, since the link in a virtual environment is what makes it one.
    """
    return tuple(dict.fromkeys((interpreter.parent, java.parent, *SYSTEM_DIRECTORIES)))


def _ours(path: Sequence[Path], temporary: Path, log_location: Path, metrics_location: Path) -> dict[str, str]:
    return {
        "PATH": ":".join(str(directory) for directory in path),
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),
        "LOG_LOCATION": str(log_location),
        "METRICS_LOCATION": str(metrics_location),
        # A worker of root writes its compiled modules even into a tree that is read-only, and so changes it.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _is_allowed(name: str) -> bool:
    return name in ALLOWED or bool(ALLOWED_FAMILIES.fullmatch(name))


def _refused(asked: Iterable[str]) -> list[str]:
    return [f"environment: `{name}` is not handed to TorchServe: {why}" for name in asked if (why := _reason(name))]


def _reason(name: str) -> str:
    if not _NAME.fullmatch(name):
        return "it is not the name of a variable"
    return next((reason for pattern, reason in DENIED if pattern.fullmatch(name)), "")


def _unacceptable(chosen: Mapping[str, str]) -> list[str]:
    reasons = {name: CHECKED[name](value) for name, value in chosen.items() if name in CHECKED}
    return [f"environment: `{name}` is `{chosen[name]}`: {why}" for name, why in reasons.items() if why]
