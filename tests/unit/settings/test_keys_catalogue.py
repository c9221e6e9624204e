"""The catalogue knows every key of TorchServe, and what overrides it."""

import re
import struct
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from torchserve_guard.settings import values
from torchserve_guard.settings.keys import KEYS, Bad, Fate

# Every key that TorchServe 0.12.0 or its launcher reads.
NAMES = [
    "inference_address", "management_address", "metrics_address", "enable_metrics_api", "grpc_inference_address",
    "grpc_management_address", "grpc_inference_port", "grpc_management_port", "grpc_inference_max_connection_age_ms",
    "grpc_management_max_connection_age_ms", "grpc_inference_max_connection_age_grace_ms",
    "grpc_management_max_connection_age_grace_ms", "enable_grpc_ssl", "keystore", "keystore_pass", "keystore_type",
    "certificate_file", "private_key_file", "cors_allowed_origin", "cors_allowed_methods", "cors_allowed_headers",
    "disable_token_authorization", "token_expiration_min", "enable_model_api", "allowed_urls", "use_env_allowed_urls",
    "model_store", "workflow_store", "load_models", "models", "model_snapshot", "default_workers_per_model",
    "default_response_timeout", "default_startup_timeout", "unregister_model_timeout", "number_of_netty_threads",
    "netty_client_threads", "job_queue_size", "number_of_gpu", "max_request_size", "max_response_size",
    "limit_max_image_pixels", "decode_input_request", "default_service_handler", "service_envelope",
    "model_server_home", "prefer_direct_buffer", "install_py_dep_per_model", "metrics_mode", "metrics_config",
    "model_metrics_auto_detect", "disable_system_metrics", "system_metrics_cmd", "metric_time_interval",
    "async_logging", "blacklist_env_vars", "initial_worker_port", "initial_distribution_port", "cpu_launcher_enable",
    "cpu_launcher_args", "ipex_enable", "ipex_gpu_enable", "cpp_log_config", "ts_open_inference_protocol",
    "ts_header_key_sequence_id", "ts_header_key_sequence_start", "ts_header_key_sequence_end", "debug",
    "use_native_io", "io_ratio", "enable_envvars_config", "python", "version", "tsConfigFile", "vmargs",
    "plugins_path",
]  # fmt: skip
STOCK = [key for key in KEYS.values() if key.fate is not Fate.GUARD]
RELEASES = [
    *("0.1.0", "0.1.1", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "0.4.1", "0.4.2", "0.5.0", "0.5.1", "0.5.2", "0.5.3"),
    *("0.6.0", "0.6.1", "0.7.0", "0.7.1", "0.8.0", "0.8.1", "0.8.2", "0.9.0", "0.10.0", "0.11.0", "0.11.1", "0.12.0"),
]


def constants(data: bytes) -> Iterator[tuple[str, str]]:
    """The static fields of a class that hold a text, and the text (The Java Virtual Machine Specification, 4)."""
    pool: dict[int, object] = {}
    at, number = 10, 1
    while number < struct.unpack_from(">H", data, 8)[0]:
        tag = data[at]
        if tag == 1:
            (length,) = struct.unpack_from(">H", data, at + 1)
            pool[number] = data[at + 3 : at + 3 + length].decode("utf-8", "replace")
            at += 3 + length
        else:
            pool[number] = struct.unpack_from(">H", data, at + 1)[0]
            at += {7: 3, 8: 3, 16: 3, 19: 3, 20: 3, 15: 4, 5: 9, 6: 9}.get(tag, 5)
            number += tag in {5, 6}
        number += 1
    at += 8 + 2 * struct.unpack_from(">H", data, at + 6)[0]
    (fields,) = struct.unpack_from(">H", data, at)
    at += 2
    for _ in range(fields):
        _, name, kind, attributes = struct.unpack_from(">4H", data, at)
        at += 8
        for _ in range(attributes):
            attribute, length = struct.unpack_from(">HI", data, at)
            if pool[attribute] == "ConstantValue" and pool[kind] == "Ljava/lang/String;":
                yield str(pool[name]), str(pool[pool[struct.unpack_from(">H", data, at + 6)[0]]])
            at += 6 + length


@pytest.fixture(scope="module")
def jar() -> dict[str, str]:
    """The constants of ConfigManager in the jar that is installed."""
    home = find_spec("ts").submodule_search_locations[0]
    with zipfile.ZipFile(Path(home) / "frontend/model-server.jar") as archive:
        return dict(constants(archive.read("org/pytorch/serve/util/ConfigManager.class")))


def test_every_key_of_torchserve_is_in_the_table_and_no_other():
    assert len(NAMES) == 76
    assert {key.name for key in STOCK} == set(NAMES)


def test_the_variables_are_those_of_the_jar(jar):
    named = {key: field for field, key in jar.items() if field.startswith("TS_")}
    assert len(named) > 60
    assert {key.name: key.variable for key in STOCK if key.variable is not None} == named


def test_the_flags_are_those_of_the_launcher():
    launcher = Path(find_spec("ts").submodule_search_locations[0]) / "arg_parser.py"
    known = set(re.findall(r'"(--[a-z-]+)"', launcher.read_text("utf-8")))
    flags = {key.flag for key in STOCK if key.flag is not None}
    assert flags <= known
    assert len(flags) == 7


@pytest.mark.parametrize("key", STOCK, ids=lambda key: key.name)
def test_a_row_says_since_when_and_what_a_bad_value_does(key):
    assert key.since in RELEASES
    assert isinstance(key.bad, Bad)


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_a_default_is_a_value_that_the_row_itself_takes(key):
    if key.default is not None:
        values.parse(key, key.default)


def test_the_guards_own_keys_are_of_no_release():
    assert {key.since for key in KEYS.values() if key.fate is Fate.GUARD} == {None}


def test_only_two_variables_are_read_without_leave():
    assert {key.variable for key in STOCK if key.always_read} == {"TS_OPEN_INFERENCE_PROTOCOL", "TS_MODEL_SERVER_HOME"}
