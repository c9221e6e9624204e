"""The configuration that TorchServe reads, and the command line that it is started with: both made from a Launch.

Pure: no I/O, no clock, no environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import javaproperties

from torchserve_guard.errors import ConfigError
from torchserve_guard.frontend.rundirectory import RunDirectory

MAIN_CLASS = "org.pytorch.serve.ModelServer"
LEAN = Path(__file__).with_name("lean.xml")
# WorkerThread.java hands each request to its worker in Java's common pool. With two processors or fewer Java has
# none, and starts a thread for each request instead; with more it is one smaller than the processors, and as many
# workers that do not read hold up every model. See docs/adr/0018.
WRITERS = "-Djava.util.concurrent.ForkJoinPool.common.parallelism=256"


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that one TorchServe is started from.

    `models` are pairs of a name (or None: the archive's own) and the file name in `model_store`, which is the
    store as TorchServe sees it. `passed_on` are the user's own keys. `environment` is complete (see
    `frontend.environment`). `frontend_log` is `lean`, `stock`, or the path of a log4j2 file. `native` is where
    netty unpacks its native library, for a run directory that is mounted noexec. `extra_arguments`
    are the guard's own for the JVM, never the user's.
    """

    java: Path
    home: Path
    jars: tuple[Path, ...]
    interpreter: Path
    run: RunDirectory
    model_store: Path
    environment: Mapping[str, str] = field(repr=False)
    models: tuple[tuple[str | None, str], ...] = ()
    enable_model_api: bool = False
    tokens: bool = True
    passed_on: Mapping[str, str] = field(default_factory=dict)
    jvm_arguments: tuple[str, ...] = ()
    frontend_log: str = "lean"
    native: Path | None = None
    extra_arguments: tuple[str, ...] = ()


# The keys of the user's file that TorchServe is told: they say how to serve, not what, where or for whom.
PASSED_ON = frozenset(
    {
        "async_logging",
        "blacklist_env_vars",
        "cors_allowed_headers",
        "cors_allowed_methods",
        "cors_allowed_origin",
        "cpu_launcher_args",
        "cpu_launcher_enable",
        "decode_input_request",
        "default_response_timeout",
        "default_startup_timeout",
        "default_workers_per_model",
        "disable_system_metrics",
        "enable_metrics_api",
        "initial_distribution_port",
        "initial_worker_port",
        "io_ratio",
        "ipex_enable",
        "ipex_gpu_enable",
        "job_queue_size",
        "limit_max_image_pixels",
        "max_request_size",
        "max_response_size",
        "metric_time_interval",
        "metrics_config",
        "metrics_mode",
        "model_metrics_auto_detect",
        "models",
        "netty_client_threads",
        "number_of_gpu",
        "number_of_netty_threads",
        "prefer_direct_buffer",
        "service_envelope",
        "ts_header_key_sequence_end",
        "ts_header_key_sequence_id",
        "ts_header_key_sequence_start",
        "ts_open_inference_protocol",
        "unregister_model_timeout",
    }
)

# INVARIANT: these are said by the guard alone, every time. Left to its defaults TorchServe would listen on TCP
# ports, expire its keys after an hour, and download what a workflow names.
PINNED: Mapping[str, Callable[[Launch], str]] = MappingProxyType(
    {
        "inference_address": lambda launch: f"unix:{launch.run.sockets.inference}",
        "management_address": lambda launch: f"unix:{launch.run.sockets.management}",
        "metrics_address": lambda launch: f"unix:{launch.run.sockets.metrics}",
        "grpc_inference_address": lambda _: "127.0.0.1",
        "grpc_management_address": lambda _: "127.0.0.1",
        # gRPC cannot be turned off, nor listen on a unix socket: the kernel chooses a free port.
        "grpc_inference_port": lambda _: "0",
        "grpc_management_port": lambda _: "0",
        "enable_grpc_ssl": lambda _: "false",
        "disable_token_authorization": lambda _: "false",
        "token_expiration_min": lambda _: "50000000",
        "enable_model_api": lambda launch: "true" if launch.enable_model_api else "false",
        "allowed_urls": lambda _: "(?!)",
        "use_env_allowed_urls": lambda _: "false",
        "enable_envvars_config": lambda _: "false",
        "install_py_dep_per_model": lambda _: "false",
        "use_native_io": lambda _: "true",
        "debug": lambda _: "false",
        "model_store": lambda launch: str(launch.model_store),
        "workflow_store": lambda launch: str(launch.run.workflows),
        "load_models": lambda launch: ",".join(_entry(name, file) for name, file in launch.models),
    }
)

# ModelServer.java splits at `,` and then at the first `=`, and takes a lone `ALL` for the whole store.
_FILE = re.compile(r"(?!all$)[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII | re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
# Any `$$NAME$$` is replaced by the environment's value, wherever it comes from (ConfigManager.resolveEnvVarVals).
_SUBSTITUTED = re.compile(r"\$\$[^$]+\$\$")
# What a value can be without an escape: ASCII that prints, no backslash, no blank at an end.
_PLAIN = re.compile(r"(?:[!-\[\]-~](?:[ -\[\]-~]*[!-\[\]-~])?)?")


def render(launch: Launch) -> str:
    """Return config.properties, which java.util.Properties reads as exactly these keys and values.

    Raises ConfigError for a key that is not handed on, and for a value that TorchServe would read as another.
    """
    complaints = [complaint for key, value in launch.passed_on.items() for complaint in _complaints(key, value)]
    if complaints:
        raise ConfigError.of(complaints)
    pinned = {key: value(launch) for key, value in PINNED.items()}
    lines = {**launch.passed_on, **pinned}
    return "".join(_line(key, lines[key]) for key in sorted(lines))


def _complaints(key: str, value: str) -> list[str]:
    if key in PINNED:
        return [f"config.properties: `{key}` is set by the guard alone; do not pass it on"]
    if key not in PASSED_ON:
        return [f"config.properties: `{key}` is not among the keys that TorchServe is told; remove it"]
    return _unreadable(key, value)


def _unreadable(key: str, value: str) -> list[str]:
    if not value.isprintable():
        return [f"config.properties: `{key}` is {value!r}, which holds characters that do not print; remove them"]
    if _SUBSTITUTED.search(value):
        return [f"config.properties: `{key}` is `{value}`, which TorchServe would take for a variable; write it out"]
    return []


def _line(key: str, value: str) -> str:
    complaints = _unreadable(key, value)
    if complaints:
        raise ConfigError.of(complaints)
    # Plain where it can be: then TorchServe's other reader, which knows no escapes, finds the same value.
    text = value if _PLAIN.fullmatch(value) else javaproperties.join_key_value("", value, separator="")
    return f"{key}={text}\n"


def _entry(name: str | None, file: str) -> str:
    if not _FILE.fullmatch(file) or (name is not None and not _NAME.fullmatch(name)):
        entry = file if name is None else f"{name}={file}"
        raise ConfigError(f"load_models: `{entry}` is not [NAME=]FILE of plain letters, digits, `_`, `.` and `-`")
    return file if name is None else f"{name}={file}"


def log_configuration(choice: str) -> Path | None:
    """Return the log4j2 file of `guard.frontend_log`, or None for the one inside TorchServe's jar."""
    return {"lean": LEAN, "stock": None}.get(choice, Path(choice))


def command(launch: Launch) -> tuple[str, ...]:
    """Return the JVM's command line, absolute throughout.

    There is no `.` on the class path, as stock has; -f together with -ncs keeps TorchServe from looking for a
    snapshot to start from (ConfigManager.java), and from writing one.
    """
    return (
        str(launch.java),
        *_properties(launch),
        *launch.jvm_arguments,
        # No file in /tmp/hsperfdata_USER; nobody loads an agent into the JVM that holds the keys.
        "-XX:-UsePerfData",
        "-XX:+DisableAttachMechanism",
        WRITERS,
        # No beans for whoever could attach; building them is a tenth of the start.
        "-Dlog4j2.disableJmx=true",
        *launch.extra_arguments,
        "-cp",
        _class_path(launch),
        MAIN_CLASS,
        *("--python", str(launch.interpreter)),
        *("-f", str(launch.run.configuration)),
        "-ncs",
    )


def _properties(launch: Launch) -> tuple[str, ...]:
    native = launch.native or launch.run.temporary
    log = log_configuration(launch.frontend_log)
    return (
        f"-Dmodel_server_home={launch.home}",
        f"-Djava.io.tmpdir={launch.run.temporary}",
        f"-Dio.netty.native.workdir={native}",
        f"-Dio.grpc.netty.shaded.io.netty.native.workdir={native}",
        *([] if log is None else [f"-Dlog4j.configurationFile={log.as_uri()}"]),
    )


def _class_path(launch: Launch) -> str:
    for jar in launch.jars:
        # INVARIANT: an empty or relative element would be the working directory, `*` a directory's content.
        if not jar.is_absolute() or re.search("[:*]", str(jar)):
            raise ConfigError(f"torchserve: `{jar}` cannot stand on a class path; install TorchServe elsewhere")
    if not launch.jars:
        raise ConfigError("torchserve: there is no jar to start")
    return ":".join(str(jar) for jar in launch.jars)
