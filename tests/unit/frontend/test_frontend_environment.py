"""TorchServe's environment: built from nothing, and deaf to what would run code."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.errors import ConfigError
from torchserve_guard.frontend.environment import ALLOWED, build_environment, path_candidates

OURS = {"PATH", "TMPDIR", "TEMP", "LOG_LOCATION", "METRICS_LOCATION", "PYTHONDONTWRITEBYTECODE"}
LOADERS = [
    "LD_PRELOAD", "LD_AUDIT", "LD_DEBUG", "GLIBC_TUNABLES", "GCONV_PATH",
    "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_HOME", "CLASSPATH",
    "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONINSPECT", "PYTHON_ANYTHING",
    "LOG4J_CONFIGURATION_FILE", "log4j2.configurationFile", "TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME", "TS_MODEL_STORE",
    "TS_BENCHMARK", "PATH", "TMPDIR", "TEMP", "LOG_LOCATION", "BASH_ENV", "BASH_FUNC_x%%", "LOCAL_RANK", "RANK",
    "WORLD_SIZE", "OMP_TOOL_LIBRARIES", "CUDA_INJECTION64_PATH",
    "TSGUARD_ROSTER", "TSGUARD_UNVERIFIED", "A=B", "", "A\0B",
]  # fmt: skip


def build(source, wanted=()):
    return build_environment(
        source,
        path=(Path("/venv/bin"), Path("/usr/bin")),
        temporary=Path("/run/guard/tmp"),
        log_location=Path("/logs"),
        metrics_location=Path("/metrics"),
        wanted=wanted,
    )


names = st.one_of(st.sampled_from([*LOADERS, *sorted(ALLOWED)]), st.from_regex(r"[A-Z_]{1,12}", fullmatch=True))


@given(st.dictionaries(names, st.just("0")))
def test_only_what_the_table_allows_comes_from_outside(source):
    source.pop("TS_OPEN_INFERENCE_PROTOCOL", None)
    built = build(source)
    assert all(name in ALLOWED or name in OURS or name.startswith("LC_") for name in built)
    assert built["TMPDIR"] == built["TEMP"] == "/run/guard/tmp"
    assert built["PATH"] == "/venv/bin:/usr/bin"


@pytest.mark.parametrize("name", LOADERS)
def test_a_variable_that_loads_code_is_refused_even_when_asked_for(name):
    with pytest.raises(ConfigError) as caught:
        build({name: "/evil"}, wanted=[name])
    assert "/evil" not in str(caught.value)


def test_a_variable_that_is_asked_for_is_handed_on_and_one_that_is_not_is_not():
    source = {"AWS_SECRET_ACCESS_KEY": "k", "MODEL_HINT": "v"}
    built = build(source, wanted=["MODEL_HINT", "NOT_THERE"])
    assert built["MODEL_HINT"] == "v"
    assert not {"AWS_SECRET_ACCESS_KEY", "NOT_THERE"} & built.keys()


@pytest.mark.parametrize("devices", ["", "0", "0,1", "-1", "3,10"])
def test_device_numbers_are_handed_on(devices):
    assert build({"CUDA_VISIBLE_DEVICES": devices})["CUDA_VISIBLE_DEVICES"] == devices


@pytest.mark.parametrize("devices", ["GPU-8f2", "0, 1", "0,", ",", "MIG-1", "0,-1", "٣", "0\n"])
def test_devices_that_would_end_torchserves_start_are_refused_with_the_reason(devices):
    with pytest.raises(ConfigError, match="device numbers"):
        build({"CUDA_VISIBLE_DEVICES": devices})


def test_library_directories_are_handed_on_only_when_asked_for_and_absolute():
    source = {"LD_LIBRARY_PATH": "/usr/local/cuda/lib64:/opt/lib"}
    assert "LD_LIBRARY_PATH" not in build(source)
    assert build(source, wanted=["LD_LIBRARY_PATH"])["LD_LIBRARY_PATH"] == "/usr/local/cuda/lib64:/opt/lib"


@pytest.mark.parametrize("value", ["", "/a:", ":/a", "lib", "/a::/b", "./x"])
def test_library_directories_that_depend_on_where_a_worker_stands_are_refused(value):
    with pytest.raises(ConfigError, match="empty or relative"):
        build({"LD_LIBRARY_PATH": value}, wanted=["LD_LIBRARY_PATH"])


def test_a_language_is_always_there_so_that_java_can_name_files():
    assert build({})["LANG"] == "C.UTF-8"
    assert build({"LANG": "de_DE.UTF-8"})["LANG"] == "de_DE.UTF-8"
    assert "LANG" not in build({"LC_ALL": "C"})


def test_all_complaints_come_at_once():
    with pytest.raises(ConfigError) as caught:
        build({"CUDA_VISIBLE_DEVICES": "x"}, wanted=["LD_PRELOAD", "PYTHONPATH"])
    assert len(caught.value.complaints) == 3


def test_the_interpreters_own_directory_comes_first_on_the_path():
    assert path_candidates(Path("/venv/bin/python"), Path("/usr/bin/java"))[0] == Path("/venv/bin")


def test_where_handlers_find_what_was_verified_only_the_guard_says():
    places = {name: Path("/p") for name in ("temporary", "log_location", "metrics_location")}
    told = {"TSGUARD_ROSTER": "/evil", "TSGUARD_UNVERIFIED": "warn"}
    built = build_environment(told, path=(), roster=Path("/run/roster.json"), **places)
    assert built["TSGUARD_ROSTER"] == "/run/roster.json"
    assert "TSGUARD_UNVERIFIED" not in built
    assert "TSGUARD_ROSTER" not in build_environment(told, path=(), **places)
