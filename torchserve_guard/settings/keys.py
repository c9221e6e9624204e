"""The keys: one table of every key of TorchServe 0.12.0 and of the guard, with what becomes of it.

Types and ranges are those of ConfigManager.java, less the values with which TorchServe was seen to start
and then serve nothing. Defaults and variables are those of the released jar of 0.12.0; `since` was found in
the tagged sources.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
PORT_MAX = 65535


class Kind(Enum):
    """How a value is read."""

    TEXT = "text"
    BOOL = "true or false"
    INT = "a whole number"
    FLOAT = "a number"
    ADDRESS = "an address"
    HOST = "a host name or address"
    PATH = "a path"
    FILE = "a file"
    JSON = "a JSON object"
    WORD = "one of"
    REGEX = "a regular expression"
    REGEXES = "regular expressions with commas between"
    LAUNCHER = "arguments of the CPU launcher"


class Fate(Enum):
    """What becomes of a key: handed on, replaced by the guard's own value, refused, or the guard's own."""

    PASS = "pass"  # noqa: S105 - a fate, not a secret
    PIN = "pin"
    REFUSE = "refuse"
    GUARD = "guard"


class Bad(StrEnum):
    """What stock TorchServe makes of a value that it cannot use."""

    DIES = "refuses to start"
    FALSE = "silently false"
    DEFAULT = "silently the default"
    MUTE = "starts and serves nothing"
    LATE = "fails when it is first needed"
    TAKEN = "takes it as it is"
    IGNORED = "ignores it"


BAD: dict[Kind, Bad] = {
    Kind.TEXT: Bad.TAKEN,
    Kind.BOOL: Bad.FALSE,
    Kind.INT: Bad.DIES,
    Kind.FLOAT: Bad.DEFAULT,
    Kind.ADDRESS: Bad.DIES,
    Kind.HOST: Bad.DIES,
    Kind.PATH: Bad.TAKEN,
    Kind.FILE: Bad.DIES,
    Kind.JSON: Bad.DIES,
    Kind.WORD: Bad.DEFAULT,
    Kind.REGEX: Bad.DIES,
    Kind.REGEXES: Bad.MUTE,
    Kind.LAUNCHER: Bad.IGNORED,
}


@dataclass(frozen=True, slots=True)
class Key:
    """One row: `low` and `high` bound numbers, `words` lists what a WORD may be.

    A refused key says why, and is let through when its value is `harmless` (what TorchServe does without it).
    `default` is what TorchServe (or the guard, of its own keys) takes when nobody gives one; None when it has no
    text for it. `variable` overrides file and flags, of TorchServe's keys with `enable_envvars_config=true` unless
    it is `always_read`. `flag` sets the key; one that is `only_on` can only make it true. `since` is the first
    TorchServe release that knew the key, None for the guard's own. `bad` is what stock makes of a bad value.
    """

    name: str
    fate: Fate
    kind: Kind = Kind.TEXT
    low: int = 0
    high: int = INT_MAX
    words: tuple[str, ...] = ()
    why: str = ""
    harmless: tuple[str, ...] = ()
    default: str | None = None
    variable: str | None = None
    always_read: bool = False
    flag: str | None = None
    only_on: bool = False
    since: str | None = None
    bad: Bad = Bad.DIES


# Set only in the file: their constants in ConfigManager.java do not begin with TS_, or the launcher alone reads them.
NO_VARIABLE = frozenset(
    {
        "enable_envvars_config",
        "io_ratio",
        "metric_time_interval",
        "model_snapshot",
        "models",
        "plugins_path",
        "python",
        "system_metrics_cmd",
        "tsConfigFile",
        "use_env_allowed_urls",
        "use_native_io",
        "version",
        "vmargs",
    }
)
# Elsewhere a variable is TS_ and the key in capitals; these are named after other constants (ConfigManager.java).
VARIABLES = {
    "token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN",
    "ts_header_key_sequence_id": "TS_HEADER_KEY_SEQUENCE_ID",
    "ts_header_key_sequence_start": "TS_HEADER_KEY_SEQUENCE_START",
    "ts_header_key_sequence_end": "TS_HEADER_KEY_SEQUENCE_END",
    "ts_open_inference_protocol": "TS_OPEN_INFERENCE_PROTOCOL",
}
ALWAYS_READ = frozenset({"model_server_home", "ts_open_inference_protocol"})
FLAGS = {
    "model_store": "--model-store",
    "workflow_store": "--workflow-store",
    "load_models": "--models",
    "plugins_path": "--plugins-path",
    "cpp_log_config": "--cpp-log-config",
    "disable_token_authorization": "--disable-token-auth",
    "enable_model_api": "--enable-model-api",
    "guard.frontend_log": "--log-config",
    "guard.profile": "--profile",
    "model-control-mode": "--model-control-mode",
}
ONLY_ON = frozenset({"disable_token_authorization", "enable_model_api"})


def _variable(name: str) -> str | None:
    return None if name in NO_VARIABLE else VARIABLES.get(name, f"TS_{name.upper()}")


def _stock(fate: Fate, name: str, kind: Kind, *, default: str | None, since: str, bad: Bad | None) -> Key:
    return Key(
        name,
        fate,
        kind,
        default=default,
        variable=_variable(name),
        always_read=name in ALWAYS_READ,
        flag=FLAGS.get(name),
        only_on=name in ONLY_ON,
        since=since,
        bad=bad or BAD[kind],
    )


def _bounded(key: Key, low: int, high: int, words: tuple[str, ...]) -> Key:
    return replace(key, low=low, high=high, words=words)


def _pass(
    name: str,
    kind: Kind = Kind.TEXT,
    low: int = 0,
    high: int = INT_MAX,
    *,
    words: tuple[str, ...] = (),
    default: str | None = None,
    since: str = "0.1.0",
    bad: Bad | None = None,
) -> Key:
    return _bounded(_stock(Fate.PASS, name, kind, default=default, since=since, bad=bad), low, high, words)


def _pin(
    name: str,
    kind: Kind = Kind.TEXT,
    low: int = 0,
    high: int = INT_MAX,
    *,
    default: str | None = None,
    since: str = "0.1.0",
    bad: Bad | None = None,
) -> Key:
    return _bounded(_stock(Fate.PIN, name, kind, default=default, since=since, bad=bad), low, high, ())


def _refuse(
    name: str,
    why: str,
    *harmless: str,
    default: str | None = None,
    since: str = "0.1.0",
    bad: Bad = Bad.TAKEN,
) -> Key:
    return replace(
        _stock(Fate.REFUSE, name, Kind.TEXT, default=default, since=since, bad=bad), why=why, harmless=harmless
    )


def _guard(
    name: str,
    kind: Kind = Kind.TEXT,
    low: int = 0,
    high: int = INT_MAX,
    *,
    words: tuple[str, ...] = (),
    default: str | None = None,
) -> Key:
    return Key(name, Fate.GUARD, kind, low, high, words, default=default, flag=FLAGS.get(name), bad=Bad.IGNORED)


SEVERITIES = ("critical", "high", "medium", "low")
MODES = ("none", "explicit")
NO_LIMIT = str(LONG_MAX)

ROWS: tuple[Key, ...] = (
    # listeners: the guard opens them, TorchServe gets unix sockets
    _pin("inference_address", Kind.ADDRESS, default="http://127.0.0.1:8080"),
    _pin("management_address", Kind.ADDRESS, default="http://127.0.0.1:8081"),
    _pin("metrics_address", Kind.ADDRESS, default="http://127.0.0.1:8082", since="0.2.0"),
    _pin("grpc_inference_address", Kind.HOST, default="127.0.0.1", since="0.11.0"),
    _pin("grpc_management_address", Kind.HOST, default="127.0.0.1", since="0.11.0"),
    _pin("grpc_inference_port", Kind.INT, 0, PORT_MAX, default="7070", since="0.3.0"),
    _pin("grpc_management_port", Kind.INT, 0, PORT_MAX, default="7071", since="0.3.0"),
    _pass("enable_metrics_api", Kind.BOOL, default="true", since="0.2.0"),
    _pin("grpc_inference_max_connection_age_ms", Kind.INT, 1, LONG_MAX, default=NO_LIMIT, since="0.11.0"),
    _pin("grpc_management_max_connection_age_ms", Kind.INT, 1, LONG_MAX, default=NO_LIMIT, since="0.11.0"),
    _pin("grpc_inference_max_connection_age_grace_ms", Kind.INT, 0, LONG_MAX, default=NO_LIMIT, since="0.11.0"),
    _pin("grpc_management_max_connection_age_grace_ms", Kind.INT, 0, LONG_MAX, default=NO_LIMIT, since="0.11.0"),
    _pin("enable_grpc_ssl", Kind.BOOL, default="false", since="0.3.0"),
    _pin("keystore", Kind.FILE),
    _pin("keystore_pass", default="changeit"),
    _pin("keystore_type", default="PKCS12", bad=Bad.DIES),
    _pin("certificate_file", Kind.FILE),
    _pin("private_key_file", Kind.FILE),
    _pass("cors_allowed_origin"),
    _pass("cors_allowed_methods"),
    _pass("cors_allowed_headers"),
    # who may
    _pin("disable_token_authorization", Kind.BOOL, default="false", since="0.11.1"),
    _pin("token_expiration_min", Kind.FLOAT, 0, 50_000_000, default="60", since="0.10.0"),
    _pin("enable_model_api", Kind.BOOL, default="false", since="0.11.1"),
    _pin("allowed_urls", Kind.REGEXES, default="file://.*|http(s)?://.*", since="0.3.0"),
    _pin("use_env_allowed_urls", Kind.BOOL, default="false", since="0.9.0"),
    # what is loaded
    _pin("model_store", Kind.PATH, bad=Bad.DIES),
    _pin("workflow_store", Kind.PATH, since="0.4.0"),
    _pin("load_models", bad=Bad.MUTE),
    _pass("models", Kind.JSON, default="{}"),
    _refuse(
        "model_snapshot",
        "replaces `load_models` and `--models` in silence; name the models in `load_models`",
        bad=Bad.MUTE,
    ),
    _pin("install_py_dep_per_model", Kind.BOOL, default="false", since="0.2.0", bad=Bad.FALSE),
    _refuse(
        "default_service_handler", "runs a handler from outside any verified archive; put the handler into the archive"
    ),
    # how it runs
    _pass("default_workers_per_model", Kind.INT, default="0"),
    _pass("default_response_timeout", Kind.INT, 1, default="120"),
    _pass("default_startup_timeout", Kind.INT, 1, default="120", since="0.12.0"),
    _pass("unregister_model_timeout", Kind.INT, default="120", bad=Bad.LATE),
    _pass("number_of_netty_threads", Kind.INT, default="0"),
    _pass("netty_client_threads", Kind.INT, default="0"),
    _pass("job_queue_size", Kind.INT, 1, default="100"),
    _pass("number_of_gpu", Kind.INT),
    _pass("max_request_size", Kind.INT, 1, default="6553500"),
    _pass("max_response_size", Kind.INT, 1, default="6553500", bad=Bad.MUTE),
    _pass("limit_max_image_pixels", Kind.BOOL, default="true", since="0.5.0"),
    _pass("decode_input_request", Kind.BOOL, default="true"),
    _pass("service_envelope", Kind.WORD, words=("json", "body", "kserve", "kservev2"), since="0.3.0", bad=Bad.MUTE),
    _pass("prefer_direct_buffer", Kind.BOOL, default="false", since="0.1.1"),
    _pass("metrics_mode", Kind.WORD, words=("log", "prometheus", "legacy"), default="log", since="0.8.0"),
    _pass("metrics_config", Kind.FILE, default="ts/configs/metrics.yaml", since="0.6.1", bad=Bad.MUTE),
    _pass("model_metrics_auto_detect", Kind.BOOL, default="false", since="0.10.0"),
    _pass("disable_system_metrics", Kind.BOOL, default="false", since="0.8.0"),
    _pass("metric_time_interval", Kind.INT, 1, default="60"),
    _pass("async_logging", Kind.BOOL, default="false"),
    _pass("blacklist_env_vars", Kind.REGEX, default=""),
    _pass("initial_worker_port", Kind.INT, 1, PORT_MAX, default="9000", since="0.3.0"),
    _pass("initial_distribution_port", Kind.INT, 1, PORT_MAX, default="29500", since="0.8.0"),
    # It runs `python` from the PATH, and the first folder of the PATH that TorchServe gets is the interpreter's own.
    _pass("cpu_launcher_enable", Kind.BOOL, default="false", since="0.5.1"),
    _pass("cpu_launcher_args", Kind.LAUNCHER, since="0.5.1"),
    _pass("ipex_enable", Kind.BOOL, default="false", since="0.5.1"),
    _pass("ipex_gpu_enable", Kind.BOOL, default="false", since="0.11.1"),
    _refuse("cpp_log_config", "is for C++ workers, which are not run under the guard; remove it", since="0.10.0"),
    _pass("ts_open_inference_protocol", Kind.BOOL, default="false", since="0.10.0"),
    _pass("ts_header_key_sequence_id", default="ts_request_sequence_id", since="0.11.0"),
    _pass("ts_header_key_sequence_start", default="ts_request_sequence_start", since="0.11.0"),
    _pass("ts_header_key_sequence_end", default="ts_request_sequence_end", since="0.11.0"),
    _pass("io_ratio", Kind.INT, 1, 100, default="50", bad=Bad.IGNORED),
    _pin("use_native_io", Kind.BOOL, default="true"),
    # what runs code, or lets somebody else decide
    _refuse(
        "system_metrics_cmd",
        "runs any command, at the start and every minute; remove it",
        "ts/metrics/metric_collector.py --gpu 0",  # what it runs without being told (MetricCollector.java)
        default="",
        since="0.10.0",
    ),
    # TorchServe is told `false`: the guard itself applies the variables, and checks what comes of it.
    _pin("enable_envvars_config", Kind.BOOL, default="false"),
    _refuse(
        "debug",
        "makes TorchServe trust whoever listens on a well-known socket instead of its own worker; remove it",
        "false",
        default="false",
        bad=Bad.FALSE,
    ),
    _refuse(
        "python",
        "names the program that runs as every worker; install TorchServe beside the guard, its interpreter is used",
        default="python",
    ),
    _refuse(
        "model_server_home",
        "decides whose `model_service_worker.py` runs; install TorchServe beside the guard",
        bad=Bad.IGNORED,
    ),
    _refuse(
        "plugins_path",
        "loads jars into TorchServe, which may replace its API; remove it, plugins are not verified by this version",
        bad=Bad.IGNORED,
    ),
    _refuse("version", "changes the version that TorchServe reports; remove it", since="0.1.1"),
    _refuse("tsConfigFile", "is TorchServe's own, and redirects its configuration; remove it"),
    _pin("vmargs", bad=Bad.DIES),
    # the guard's own
    _guard("model-control-mode", Kind.WORD, words=MODES, default="none"),
    _guard("model_control_mode", Kind.WORD, words=MODES),
    _guard("guard.profile", Kind.WORD, words=("strict", "compat"), default="strict"),
    _guard("guard.manifest", Kind.PATH),
    _guard("guard.trusted_keys"),
    _guard("guard.trusted_identities"),
    _guard("guard.sigstore_root", Kind.PATH),
    _guard("guard.signature_threshold"),
    _guard("guard.inference", Kind.WORD, words=("proxy", "direct"), default="proxy"),
    _guard("guard.state_dir", Kind.PATH),
    _guard("guard.runtime_dir", Kind.PATH),
    _guard("guard.admin_address", Kind.ADDRESS),
    _guard("guard.client_ca", Kind.PATH),
    _guard("guard.frontend_log", default="lean"),
    _guard("guard.fail_on", Kind.WORD, words=SEVERITIES, default="high"),
    _guard("guard.scanners"),
    _guard("guard.waivers", Kind.PATH),
    # A central directory of 16 MiB has room for so many members with paths of the usual length.
    _guard("guard.archive_max_members", Kind.INT, 1, 100_000, default="20000"),
    _guard("guard.archive_max_unpacked", Kind.INT, 1, 16 << 40, default=str(256 << 30)),
    # Deflate makes at most 1032 bytes of one.
    _guard("guard.archive_max_ratio", Kind.INT, 1, 1032, default="200"),
    _guard("guard.fetch_networks"),
    _guard("guard.fetch_ca", Kind.PATH),
    _guard("guard.fetch_proxy", default="none"),
    _guard("guard.fetch_max_size", Kind.INT, 1, LONG_MAX, default=str(64 << 30)),
    _guard("guard.fetch_timeout", Kind.INT, 1, 604800, default="3600"),
    _guard("guard.fetch_stall_timeout", Kind.INT, 1, 3600, default="30"),
    _guard("guard.audit_log", Kind.PATH),
    _guard("guard.pass_environment"),
    _guard("guard.private_copies"),
    _guard("guard.stream_models", default="*"),
    _guard("guard.kserve_models", default="*"),
    _guard("guard.unary_models", default="*"),
    _guard("guard.workers", default="1"),
    _guard("guard.max_request_size", Kind.INT, 1, LONG_MAX),
    _guard("guard.access_log", Kind.PATH),
    _guard("guard.access_log_format", Kind.WORD, words=("json", "combined"), default="json"),
    _guard("guard.access_log_size", Kind.INT, 65_536, LONG_MAX, default="67108864"),
    _guard("guard.access_log_files", Kind.INT, 1, 1000, default="5"),
    _guard("guard.max_connections", Kind.INT, 1, 1_000_000, default="10000"),
    _guard("guard.max_connections_per_address", Kind.INT, 1, 1_000_000),
    _guard("guard.stall_timeout", Kind.INT, 1, 86400, default="60"),
    _guard("guard.min_rate", Kind.INT, 0, 1_000_000_000, default="500"),
    _guard("guard.model_concurrency", Kind.INT, 1, 1_000_000),
    _guard("guard.model_queue", Kind.INT, 0, 1_000_000, default="100"),
    _guard("guard.queue_timeout", Kind.INT, 1, 86400, default="30"),
    _guard("guard.head_timeout", Kind.INT, 1, 3600, default="60"),
    _guard("guard.idle_timeout", Kind.INT, 1, 86400, default="600"),
    _guard("guard.drain_timeout", Kind.INT, 0, 86400, default="30"),
    _guard("guard.start_timeout", Kind.INT, 1, 86400, default="300"),
    _guard("guard.verify_interval", Kind.INT, 0, 86400, default="300"),
)

# In the contract, and not honoured yet: saying so is better than a setting that protects nothing.
NOT_YET = {
    "guard.policy": "roles are not known to this version; the key file decides",
    "guard.request_timeout": "is not known to this version; `default_response_timeout` bounds a request in TorchServe",
}

KEYS: dict[str, Key] = {key.name: key for key in ROWS}
