"""What stock TorchServe obeys to its harm is obeyed without it, and told."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from torchserve_guard.access import Mode
from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Severity
from torchserve_guard.settings import Flags, LoadItem, Profile, Surroundings, load, ports


@pytest.fixture
def told(tmp_path: Path):
    """Load a configuration of these lines in an environment of these variables."""
    (tmp_path / "store").mkdir()

    def read(*lines: str, flags: Flags = Flags(), **environment: str):
        config = tmp_path / "config.properties"
        config.write_text("\n".join((*lines, "model_store=store")))
        config.chmod(0o644)
        return load(config, flags, Surroundings(environment, tmp_path, tmp_path))

    return read


def of(settings, rule: str):
    return [finding for finding in settings.findings if finding.rule == rule]


# --- the profile ------------------------------------------------------------------------------------------------


def test_without_a_profile_it_is_the_strict_one(told):
    settings = told("enable_model_api=true")
    assert (settings.profile, settings.fail_on, settings.mode) == (Profile.STRICT, Severity.HIGH, Mode.NONE)


def test_the_profile_compat_only_reports_what_is_high_and_follows_the_model_api(told):
    settings = told("guard.profile=compat", "enable_model_api=true")
    assert (settings.profile, settings.fail_on, settings.mode) == (Profile.COMPAT, Severity.CRITICAL, Mode.EXPLICIT)
    assert told("guard.profile=compat").mode is Mode.NONE
    assert told("guard.profile=compat", "enable_model_api=false").mode is Mode.NONE


def test_in_the_profile_compat_what_is_said_counts(told):
    settings = told("guard.profile=compat", "enable_model_api=true", "model-control-mode=none", "guard.fail_on=low")
    assert (settings.mode, settings.fail_on) == (Mode.NONE, Severity.LOW)


def test_a_flag_gives_profile_and_mode(told):
    flags = Flags(profile="compat", model_control_mode="explicit")
    settings = told("guard.profile=strict", "model_control_mode=none", flags=flags)
    assert (settings.profile, settings.mode) == (Profile.COMPAT, Mode.EXPLICIT)


def test_a_bad_flag_is_told_as_it_is_spelt(told):
    with pytest.raises(ConfigError, match=r"^--profile: `guard\.profile=lax` is not one of strict, compat"):
        told("", flags=Flags(profile="lax"))


@pytest.mark.parametrize(
    ("lines", "keyless"),
    [
        (("guard.profile=compat", "disable_token_authorization=true"), True),
        (("guard.profile=compat", "disable_token_authorization=true", "management_address=unix:/tmp/m"), True),
        (("guard.profile=compat", "disable_token_authorization=true", "management_address=http://0.0.0.0:8081"), False),
        (("guard.profile=compat",), False),
        (("disable_token_authorization=true",), False),
    ],
)
def test_a_change_without_a_key_takes_three_things(told, lines, keyless):
    assert told(*lines).keyless_management is keyless


def test_a_manifest_is_named_only_by_its_key(told):
    assert not told("").manifest_named
    assert told("guard.manifest=store/tsguard-manifest.json").manifest_named


# --- TS_* variables ---------------------------------------------------------------------------------------------


def test_without_leave_no_variable_counts(told):
    settings = told("job_queue_size=5", TS_JOB_QUEUE_SIZE="7")
    assert settings.passthrough == {"job_queue_size": "5"}
    assert of(settings, "TSG030") == []


def test_with_leave_a_variable_beats_the_file_and_the_flags(told):
    flags = Flags(models=("a.mar",), disable_token_auth=True)
    settings = told(
        "enable_envvars_config=true",
        "job_queue_size=5",
        "load_models=b.mar",
        flags=flags,
        TS_JOB_QUEUE_SIZE="7",
        TS_LOAD_MODELS="c.mar",
        TS_DISABLE_TOKEN_AUTHORIZATION="false",
    )
    assert settings.passthrough == {"job_queue_size": "7"}
    assert settings.load == (LoadItem("c.mar"),)
    assert settings.keys_required


def test_the_finding_names_the_variables_and_the_line_that_lets_them_in(told):
    settings = told("# first", "enable_envvars_config=true", TS_JOB_QUEUE_SIZE="7", TS_ALLOWED_URLS=".*", TS_X="y")
    (finding,) = of(settings, "TSG030")
    assert (finding.severity, finding.location.line) == (Severity.HIGH, 2)
    assert "TS_JOB_QUEUE_SIZE" in finding.message
    assert "TS_ALLOWED_URLS" not in finding.message


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TS_JOB_QUEUE_SIZE", "0"),
        ("TS_MANAGEMENT_ADDRESS", "http://127.0.0.1:8080"),
        ("TS_LOAD_MODELS", "http://host/a.mar"),
        ("TS_MODEL_STORE", "/not/there"),
        ("TS_DEFAULT_SERVICE_HANDLER", "/tmp/h.py:handle"),
        ("TS_DEBUG", "true"),
        ("TS_CPU_LAUNCHER_ARGS", "-m pdb"),
        ("TS_TOKEN_EXPIRATION_TIME_MIN", "0"),
        ("TS_CORS_ALLOWED_ORIGIN", "\udcff"),
    ],
)
def test_what_a_variable_says_is_held_against_every_rule(told, variable, text):
    with pytest.raises(ConfigError, match=f"environment variable {variable}: `"):
        told("enable_envvars_config=true", **{variable: text})


def test_what_a_variable_repeats_of_the_defaults_is_let_through(told):
    assert told("enable_envvars_config=true", TS_DEBUG="false", TS_INSTALL_PY_DEP_PER_MODEL="False").passthrough == {}


def test_what_torchserve_reads_in_any_case_is_not_for_the_file_to_let_in(told):
    settings = told("enable_envvars_config=true", TS_OPEN_INFERENCE_PROTOCOL="oip", TS_MODEL_SERVER_HOME="/x")
    assert settings.passthrough == {}
    assert "no variable does so" in of(settings, "TSG030")[0].message


def test_addresses_for_downloads_are_never_taken_from_the_environment(told):
    settings = told("enable_envvars_config=true", "use_env_allowed_urls=true", TS_ALLOWED_URLS="((")
    assert [finding.severity for finding in of(settings, "TSG031")] == [Severity.HIGH]


# --- vmargs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["log4j", "log4j2"])
@pytest.mark.parametrize("scheme", ["file://", "file:", ""])
def test_the_log_that_the_jvm_is_told_is_the_log_of_the_frontend(told, tmp_path, name, scheme):
    (tmp_path / "log.xml").touch()
    settings = told(f"vmargs=-Xmx1g -D{name}.configurationFile={scheme}{tmp_path}/log.xml")
    assert settings.frontend_log == str(tmp_path / "log.xml")
    assert settings.jvm_arguments == ("-Xmx1g",)
    assert [finding.severity for finding in of(settings, "TSG032")] == [Severity.LOW]


def test_a_log_that_is_named_to_the_guard_beats_that_of_the_jvm(told, tmp_path):
    settings = told(f"vmargs=-Dlog4j.configurationFile={tmp_path}/not-there.xml", flags=Flags(log_config="stock"))
    assert settings.frontend_log == "stock"
    assert "overrides" in of(settings, "TSG032")[0].message


@pytest.mark.parametrize(
    "value", ["/not/there.xml", "http://x/log.xml", "file://host/log.xml", "log.xml", "/a.xml,/b.xml", "/a?override=x"]
)
def test_a_log_of_the_jvm_that_is_no_file_of_this_machine_is_refused(told, value):
    with pytest.raises(ConfigError, match="`vmargs="):
        told(f"vmargs=-Dlog4j.configurationFile={value}")


def test_a_dump_of_memory_is_let_through_and_told(told):
    settings = told("vmargs=-XX:+HeapDumpOnOutOfMemoryError")
    assert settings.jvm_arguments == ("-XX:+HeapDumpOnOutOfMemoryError",)
    assert [finding.severity for finding in of(settings, "TSG033")] == [Severity.LOW]


# --- models -----------------------------------------------------------------------------------------------------


def test_what_torchserve_does_not_know_of_a_model_is_told_with_the_nearest_name(told):
    settings = told('models={"m":{"1.0":{"minWorker":1,"maxWorkers":2}}}')
    (finding,) = of(settings, "TSG034")
    assert "did you mean `minWorkers`" in finding.message
    assert "`maxWorkers`" not in finding.message


def test_an_archive_that_is_not_in_the_store_is_told(told, tmp_path):
    (tmp_path / "store/there.mar").touch()
    settings = told('models={"m":{"1.0":{"marName":"gone.mar"},"2.0":{"marName":"there.mar"}}}')
    (finding,) = of(settings, "TSG035")
    assert "`gone.mar`" in finding.message


def test_of_many_such_members_a_few_are_named(told):
    members = ",".join(f'"x{number}":1' for number in range(50))
    (finding,) = of(told(f'models={{"m":{{"1.0":{{{members}}}}}}}'), "TSG034")
    assert "`x4`" in finding.message
    assert "`x5`" not in finding.message
    assert "and 45 more" in finding.message


# --- ports ------------------------------------------------------------------------------------------------------


def test_a_port_that_somebody_has_is_told_with_who_it_is(told):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (finding,) = ports.check(
            told(
                f"inference_address=http://127.0.0.1:{port}",
                "management_address=unix:/tmp/none",
                "enable_metrics_api=false",
                "grpc_inference_port=0",
                "grpc_management_port=0",
            )
        )
    assert (finding.rule, finding.key) == ("TSG036", "inference_address")
    assert f"process {os.getpid()} (" in finding.message


def test_a_port_that_nobody_has_is_not_told(told):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    settings = told(
        f"inference_address=http://127.0.0.1:{port}",
        "management_address=unix:/tmp/none",
        "enable_metrics_api=false",
        "grpc_inference_port=0",
        "grpc_management_port=0",
    )
    assert ports.check(settings) == ()


# --- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model_store", "metrics_config", "guard.frontend_log"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user's place")
def test_what_this_user_may_not_read_is_a_complaint(key):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "closed"
        path.mkdir(0o700) if key == "model_store" else path.touch(0o600)
        config = folder / "config.properties"
        config.write_text(f"{key}={path}\n" + ("" if key == "model_store" else f"model_store={folder}\n"))
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match=rf"`{key}=.*this user"):
                load(config, Flags(), Surroundings({}, folder, folder))
        finally:
            os.seteuid(0)


def test_packages_of_models_are_not_installed_and_that_is_told(told):
    settings = told("install_py_dep_per_model=true")
    (finding,) = of(settings, "TSG037")
    assert (finding.severity, finding.key, finding.location.line) == (Severity.HIGH, "install_py_dep_per_model", 1)
    assert "install_py_dep_per_model" not in settings.passthrough
    assert not of(told("install_py_dep_per_model=false"), "TSG037")


@pytest.mark.parametrize("text", ["yes", "1", "2", "true\\ ", ""])
def test_a_boolean_that_is_none_is_false_and_that_is_told(told, text):
    settings = told(f"async_logging={text}")
    (finding,) = of(settings, "TSG038")
    assert (finding.severity, finding.key, finding.location.line) == (Severity.HIGH, "async_logging", 1)
    assert settings.passthrough["async_logging"] == "false"


def test_a_metrics_listener_that_is_switched_on_with_yes_is_off_as_in_torchserve(told):
    assert told("enable_metrics_api=yes").metrics is None
    assert told("enable_metrics_api=TRUE").metrics is not None


@pytest.mark.parametrize("key", ["disable_token_authorization", "enable_model_api", "enable_grpc_ssl"])
def test_a_boolean_on_which_safety_rests_is_refused_when_it_is_none(told, key):
    with pytest.raises(ConfigError, match="neither true nor false"):
        told(f"{key}=yes")
