"""The keys: one table of every key of TorchServe 0.12.0 and of the guard, with what becomes of it.

Types and ranges are those of ConfigManager.java, less the values with which TorchServe was seen to start
and then serve nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1


class Kind(Enum):
    """How a value is read."""

    TEXT = "text"
    BOOL = "true or false"
    INT = "a whole number"
    FLOAT = "a number"
    ADDRESS = "an address"
    PATH = "a path"
    JSON = "a JSON object"
    WORD = "one of"


class Fate(Enum):
    """What becomes of a key: handed on, replaced by the guard's own value, refused, or the guard's own."""

    PASS = "pass"  # noqa: S105 - a fate, not a secret
    PIN = "pin"
    REFUSE = "refuse"
    GUARD = "guard"


@dataclass(frozen=True, slots=True)
class Key:
    """One row: `low` and `high` bound numbers, `words` lists what a WORD may be.

    A refused key says why, and is let through when its value is `harmless` (what TorchServe does without it).
    """

    name: str
    fate: Fate
    kind: Kind = Kind.TEXT
    low: int = 0
    high: int = INT_MAX
    words: tuple[str, ...] = ()
    why: str = ""
    harmless: tuple[str, ...] = ()


def _pass(name: str, kind: Kind = Kind.TEXT, low: int = 0, high: int = INT_MAX, words: tuple[str, ...] = ()) -> Key:
    return Key(name, Fate.PASS, kind, low, high, words)


def _pin(name: str, kind: Kind = Kind.TEXT, low: int = 0, high: int = INT_MAX) -> Key:
    return Key(name, Fate.PIN, kind, low, high)


def _refuse(name: str, why: str, *harmless: str) -> Key:
    return Key(name, Fate.REFUSE, why=why, harmless=harmless)


def _guard(name: str, kind: Kind = Kind.TEXT, low: int = 0, high: int = INT_MAX, words: tuple[str, ...] = ()) -> Key:
    return Key(name, Fate.GUARD, kind, low, high, words)


SEVERITIES = ("critical", "high", "medium", "low")

ROWS: tuple[Key, ...] = (
    # listeners: the guard opens them, TorchServe gets unix sockets
    _pin("inference_address", Kind.ADDRESS),
    _pin("management_address", Kind.ADDRESS),
    _pin("metrics_address", Kind.ADDRESS),
    _pin("grpc_inference_address"),
    _pin("grpc_management_address"),
    _pin("grpc_inference_port", Kind.INT, 0, 65535),
    _pin("grpc_management_port", Kind.INT, 0, 65535),
    _pass("enable_metrics_api", Kind.BOOL),
    _pass("grpc_inference_max_connection_age_ms", Kind.INT, 1, LONG_MAX),
    _pass("grpc_management_max_connection_age_ms", Kind.INT, 1, LONG_MAX),
    _pass("grpc_inference_max_connection_age_grace_ms", Kind.INT, 0, LONG_MAX),
    _pass("grpc_management_max_connection_age_grace_ms", Kind.INT, 0, LONG_MAX),
    _pin("enable_grpc_ssl", Kind.BOOL),
    _pin("keystore", Kind.PATH),
    _pin("keystore_pass"),
    _pin("keystore_type"),
    _pin("certificate_file", Kind.PATH),
    _pin("private_key_file", Kind.PATH),
    _pass("cors_allowed_origin"),
    _pass("cors_allowed_methods"),
    _pass("cors_allowed_headers"),
    # who may
    _pin("disable_token_authorization", Kind.BOOL),
    _pin("token_expiration_min", Kind.FLOAT, 0, 50_000_000),
    _pin("enable_model_api", Kind.BOOL),
    _pin("allowed_urls"),
    _refuse("use_env_allowed_urls", "lets the environment decide what may be downloaded", "false"),
    # what is loaded
    _pin("model_store", Kind.PATH),
    _pin("workflow_store", Kind.PATH),
    _pin("load_models"),
    _pass("models", Kind.JSON),
    _refuse("model_snapshot", "replaces `load_models` and `--models` in silence; name the models in `load_models`"),
    _refuse(
        "install_py_dep_per_model",
        "runs pip, and whatever it downloads, as the server; install what the models need beside TorchServe",
        "false",
    ),
    _refuse(
        "default_service_handler", "runs a handler from outside any verified archive; put the handler into the archive"
    ),
    # how it runs
    _pass("default_workers_per_model", Kind.INT),
    _pass("default_response_timeout", Kind.INT, 1),
    _pass("default_startup_timeout", Kind.INT, 1),
    _pass("unregister_model_timeout", Kind.INT),
    _pass("number_of_netty_threads", Kind.INT),
    _pass("netty_client_threads", Kind.INT),
    _pass("job_queue_size", Kind.INT, 1),
    _pass("number_of_gpu", Kind.INT),
    _pass("max_request_size", Kind.INT, 1),
    _pass("max_response_size", Kind.INT, 1),
    _pass("limit_max_image_pixels", Kind.BOOL),
    _pass("decode_input_request", Kind.BOOL),
    _pass("service_envelope", Kind.WORD, words=("json", "body", "kserve", "kservev2")),
    _pass("prefer_direct_buffer", Kind.BOOL),
    _pass("metrics_mode", Kind.WORD, words=("log", "prometheus", "legacy")),
    _pass("metrics_config", Kind.PATH),
    _pass("model_metrics_auto_detect", Kind.BOOL),
    _pass("disable_system_metrics", Kind.BOOL),
    _pass("metric_time_interval", Kind.INT, 1),
    _pass("async_logging", Kind.BOOL),
    _pass("blacklist_env_vars"),
    _pass("initial_worker_port", Kind.INT, 1, 65535),
    _pass("initial_distribution_port", Kind.INT, 1, 65535),
    # It runs `python` from the PATH, and the first folder of the PATH that TorchServe gets is the interpreter's own.
    _pass("cpu_launcher_enable", Kind.BOOL),
    _pass("ipex_enable", Kind.BOOL),
    _pass("ipex_gpu_enable", Kind.BOOL),
    _refuse("cpp_log_config", "is for C++ workers, which are not run under the guard; remove it"),
    _pass("ts_open_inference_protocol", Kind.BOOL),
    _pass("ts_header_key_sequence_id"),
    _pass("ts_header_key_sequence_start"),
    _pass("ts_header_key_sequence_end"),
    _pass("io_ratio", Kind.INT, 1, 100),
    _pin("use_native_io", Kind.BOOL),
    # what runs code, or lets somebody else decide
    _refuse("system_metrics_cmd", "runs any command, at the start and every minute; remove it"),
    _refuse("cpu_launcher_args", "puts words into the command line of every worker; remove it"),
    _refuse(
        "enable_envvars_config",
        "lets any TS_* variable override this file and the command line; write the values here",
        "false",
    ),
    _refuse(
        "debug",
        "makes TorchServe trust whoever listens on a well-known socket instead of its own worker; remove it",
        "false",
    ),
    _refuse(
        "python",
        "names the program that runs as every worker; install TorchServe beside the guard, its interpreter is used",
    ),
    _refuse("model_server_home", "decides whose `model_service_worker.py` runs; install TorchServe beside the guard"),
    _refuse(
        "plugins_path",
        "loads jars into TorchServe, which may replace its API; remove it, plugins are not verified by this version",
    ),
    _refuse("version", "changes the version that TorchServe reports; remove it"),
    _refuse("tsConfigFile", "is TorchServe's own, and redirects its configuration; remove it"),
    _pin("vmargs"),
    # the guard's own
    _guard("model-control-mode", Kind.WORD, words=("none", "explicit")),
    _guard("model_control_mode", Kind.WORD, words=("none", "explicit")),
    _guard("guard.manifest", Kind.PATH),
    _guard("guard.inference", Kind.WORD, words=("proxy", "direct")),
    _guard("guard.state_dir", Kind.PATH),
    _guard("guard.runtime_dir", Kind.PATH),
    _guard("guard.admin_address", Kind.ADDRESS),
    _guard("guard.frontend_log"),
    _guard("guard.fail_on", Kind.WORD, words=SEVERITIES),
    _guard("guard.scanners"),
    _guard("guard.audit_log", Kind.PATH),
    _guard("guard.pass_environment"),
    _guard("guard.max_request_size", Kind.INT, 1, LONG_MAX),
    _guard("guard.max_connections", Kind.INT, 1, 1_000_000),
    _guard("guard.head_timeout", Kind.INT, 1, 3600),
    _guard("guard.idle_timeout", Kind.INT, 1, 86400),
    _guard("guard.drain_timeout", Kind.INT, 0, 86400),
    _guard("guard.start_timeout", Kind.INT, 1, 86400),
)

# In the contract, and not honoured yet: saying so is better than a setting that protects nothing.
NOT_YET = {
    "guard.trusted_keys": "signatures are not verified by this version; the digests in the manifest decide",
    "guard.signature_threshold": "signatures are not verified by this version",
    "guard.policy": "roles are not known to this version; the key file decides",
    "guard.client_ca": "TLS is not served by this version",
    "guard.waivers": "waivers are not known to this version; use `guard.fail_on`",
    "guard.request_timeout": "is not known to this version; `default_response_timeout` bounds a request in TorchServe",
}

KEYS: dict[str, Key] = {key.name: key for key in ROWS}
