"""What we were told becomes settings, or one error that tells everything that is wrong."""

import os
import re
from pathlib import Path

import pytest

from torchserve_guard.access import Mode
from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Severity
from torchserve_guard.settings import Address, Flags, LoadItem, Surroundings, load


@pytest.fixture
def told(tmp_path: Path):
    """Load a configuration of these lines; `model_store` is there and named unless the lines name one."""
    (tmp_path / "store").mkdir()

    def read(*lines: str, flags: Flags = Flags(), environment=None):
        config = tmp_path / "config.properties"
        head = () if any("model_store" in line for line in lines) else ("model_store=store",)
        config.write_bytes("\n".join((*lines, *head)).encode("latin-1"))
        config.chmod(0o644)
        return load(config, flags, Surroundings(environment or {}, tmp_path, tmp_path))

    return read


def complaints(error: pytest.ExceptionInfo[ConfigError]) -> str:
    return str(error.value)


def test_an_empty_configuration_has_the_safe_defaults(told):
    settings = told("")
    assert settings.mode is Mode.NONE
    assert settings.keys_required
    assert settings.load == ()
    assert settings.fail_on is Severity.HIGH
    assert str(settings.inference) == "http://127.0.0.1:8080"
    assert str(settings.management) == "http://127.0.0.1:8081"
    assert str(settings.metrics) == "http://127.0.0.1:8082"
    assert settings.frontend_log == "lean"
    assert settings.manifest == settings.model_store / "tsguard-manifest.json"
    assert settings.passthrough == {}


@pytest.mark.parametrize("spelling", ["model-control-mode", "model_control_mode"])
@pytest.mark.parametrize(
    ("value", "mode"), [("none", Mode.NONE), ("explicit", Mode.EXPLICIT), ("EXPLICIT", Mode.EXPLICIT)]
)
def test_the_mode_has_two_spellings(told, spelling, value, mode):
    assert told(f"{spelling}={value}").mode is mode


@pytest.mark.parametrize(
    "line",
    [
        "model-control-mode=poll",
        "model-control-mode=explicit ",
        "model-control-mode=",
        "guard.fail_on=never",
        "guard.inference=direct",
        "guard.frontend_log=/not/there.xml",
        "guard.manfest=x.json",
        "guard.policy=p.yaml",
        "guard.trusted_keys=k.pem,",
        "guard.signature_threshold=1",
        "guard.signature_threshold=many",
        "guard.trusted_identities=alice@example.org https://accounts.example.org",
        "guard.trusted_identities=alice@example.org",
        "guard.sigstore_root=trusted_root.json",
        "guard.client_ca=ca.pem",
        "guard.admin_address=http://127.0.0.1:9",
        "guard.pass_environment=A B",
        "guard.private_copies=../m.mar",
        "guard.private_copies=m.mar n.mar",
        "guard.stream_models=",
        "guard.stream_models=m,*",
        "guard.stream_models=none,m",
        "guard.stream_models=../m",
        "guard.kserve_models=a b",
        "guard.kserve_models=m,,n",
        "guard.stream_model=m",
        "guard.workers=0",
        "guard.workers=65",
        "guard.workers=-1",
        "guard.workers=two",
        "guard.workers=",
        "guard.max_connections=0",
        "guard.max_connections_per_address=0",
        "guard.stall_timeout=0",
        "guard.min_rate=-1",
        "guard.model_concurrency=0",
        "guard.model_queue=many",
        "guard.queue_timeout=0",
        "guard.access_log_format=xml",
        "guard.access_log_size=1000",
        "guard.access_log_files=0",
        "inference_address=https://127.0.0.1:8443",
        "inference_address=http://127.0.0.1:0",
        "inference_address=http://127.0.0.1:8080/",
        "inference_address=http://127.0.0.1:8080 ",
        "inference_address=127.0.0.1:8080",
        "inference_address=http://127.0.0.1:8081",
        "inference_address=http://0.0.0.0:8081",
        "metrics_address=http://localhost:8080",
        "management_address=unix:/" + "x" * 120,
        "plugins_path=/plugins",
        "system_metrics_cmd=-c print(1)",
        "cpu_launcher_args=--x",
        "python=/tmp/python",
        "model_server_home=/tmp",
        "tsConfigFile=/tmp/x",
        "model_snapshot={}",
        "default_service_handler=/tmp/h.py:handle",
        "debug=true",
        "vmargs=-javaagent:/tmp/a.jar",
        "vmargs=-Xmx1g @/tmp/args",
        "vmargs=-XX:OnOutOfMemoryError=/tmp/x",
        "vmargs=-Dlog4j.configurationFile=http://x/",
        "vmargs=-Djava.io.tmpdir=/tmp",
        "vmargs=-cp /tmp",
        "max_request_size=0",
        "max_request_size=1.5",
        "default_response_timeout=-1",
        "default_startup_timeout=0",
        "unregister_model_timeout=abc",
        "token_expiration_min=0",
        "token_expiration_min=NaN",
        "disable_token_authorization=yes",
        "disable_token_authorization=true ",
        "service_envelope=unknown",
        "metrics_config=/not/there.yaml",
        "models=[]",
        "models={",
        'models={"a":{"1.0":{"runtimeType":"LSP"}}}',
        "load_models=http://host/a.mar",
        "load_models=/abs/a.mar",
        "load_models=../a.mar",
        "load_models=a.mar,file:///b.mar",
        "load_models=na/me=a.mar",
        "model_store=/not/there",
        "model_store=$$NOT_SET$$",
        "inference_address=\\u00zz",
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_place_and_its_words(told, line):
    with pytest.raises(ConfigError) as refused:
        told("# first line", line)
    key = re.split("[=]", line)[0]
    assert "config.properties" in complaints(refused)
    assert key in complaints(refused) or "\\u" in line


@pytest.mark.parametrize("key", ["stream_models", "kserve_models", "unary_models"])
def test_models_are_named_by_what_they_are_served_as_and_without_it_are_all(told, key):
    assert (told("").stream_models, told("").kserve_models, told("").unary_models) == (None, None, None)
    others = {"stream_models", "kserve_models", "unary_models"} - {key}
    for value, names in (("*", None), ("none", frozenset()), ("m , n", frozenset({"m", "n"}))):
        settings = told(f"guard.{key}={value}")
        assert getattr(settings, key) == names
        assert {getattr(settings, other) for other in others} == {None}
    with pytest.raises(ConfigError) as refused:
        told("# first line", f"guard.{key}=m n")
    assert f"config.properties:2: `guard.{key}=m n` holds `m n`, which is not the name of a model" in str(refused.value)
    assert str(refused.value).endswith("or write `*` for all or `none`")


def test_every_complaint_is_told_at_once_with_its_line(told):
    with pytest.raises(ConfigError) as refused:
        told("debug=true", "max_request_size=x", "guard.fail_on=never", "vmargs=@x", "load_models=/a", "models=[")
    assert len(refused.value.complaints) == 6
    assert [int(re.search(r":(\d+):", one)[1]) for one in sorted(refused.value.complaints)] == [1, 2, 3, 4, 5, 6]


def test_a_misspelt_key_of_the_guard_is_an_error_that_knows_the_nearest_name(told):
    with pytest.raises(ConfigError, match=r"did you mean `guard\.manifest`"):
        told("guard.manfiest=x")


def test_a_misspelt_key_of_torchserve_is_a_finding_that_knows_the_nearest_name(told):
    (finding,) = told("enable_modle_api=true").findings
    assert (finding.rule, finding.severity) == ("TSG021", Severity.LOW)
    assert "enable_model_api" in finding.message
    assert finding.location.line == 1


def test_the_last_of_two_counts_as_in_java_and_is_a_finding(told):
    settings = told("job_queue_size=1", "job_queue_size=2")
    assert settings.passthrough["job_queue_size"] == "2"
    assert [finding.rule for finding in settings.findings] == ["TSG020"]


def test_a_key_of_the_guard_given_twice_is_refused_under_either_spelling(told):
    with pytest.raises(ConfigError, match="given twice"):
        told("model-control-mode=none", "model_control_mode=explicit")


def test_values_are_read_as_java_reads_them(told):
    settings = told("job_queue\\u005fsize:\\", "   7", "! a comment", "number_of_netty_threads 3")
    assert settings.passthrough == {"job_queue_size": "7", "number_of_netty_threads": "3"}


def test_a_value_may_name_the_environment_as_torchserve_lets_it(told):
    settings = told("inference_address=http://127.0.0.1:$$PORT$$", environment={"PORT": "9001"})
    assert settings.inference == Address("http", "127.0.0.1", 9001)


def test_blanks_around_names_of_models_do_not_lose_a_model(told):
    assert told("load_models=a.mar, second=b.mar ").load == (LoadItem("a.mar"), LoadItem("b.mar", "second"))


@pytest.mark.parametrize("spelling", ["ALL", "all", "ALL "])
def test_all_models_is_all_models_however_it_is_written(told, spelling):
    assert told(f"load_models={spelling}").load is None


def test_a_flag_beats_the_file(told):
    flags = Flags(models=("x=b.mar", "c.mar"), disable_token_auth=True)
    settings = told("load_models=a.mar", "disable_token_authorization=false", flags=flags)
    assert settings.load == (LoadItem("b.mar", "x"), LoadItem("c.mar"))
    assert not settings.keys_required


def test_a_plugin_path_from_the_command_line_is_refused_too(told):
    with pytest.raises(ConfigError, match="--plugins-path"):
        told("", flags=Flags(plugins_path="/plugins"))


def test_torchserve_is_never_handed_a_key_that_the_guard_pins(told):
    settings = told(
        "inference_address=http://127.0.0.1:9",
        "enable_model_api=true",
        "allowed_urls=.*",
        "workflow_store=/w",
        "keystore_pass=secret",
        "use_native_io=false",
        "grpc_management_port=1",
        "job_queue_size=5",
    )
    assert settings.passthrough == {"job_queue_size": "5"}


def test_a_password_is_never_quoted(told):
    with pytest.raises(ConfigError) as refused:
        told("keystore_pass=hunter2\\u00e9", "debug=true", "guard.keystore_pass=hunter2")
    assert "hunter2" not in complaints(refused)


def test_management_beyond_this_host_stops_a_start_only_when_it_can_change_models(told):
    def severities(mode: str):
        settings = told("management_address=http://0.0.0.0:8081", f"model-control-mode={mode}")
        return [finding.severity for finding in settings.findings if finding.rule == "TSG001"]

    assert severities("none") == [Severity.MEDIUM]
    assert severities("explicit") == [Severity.HIGH]


def test_a_configuration_that_everybody_may_write_is_a_finding(told, tmp_path):
    settings = told("")
    settings.config.chmod(0o666)
    again = load(settings.config, Flags(), Surroundings({}, tmp_path, tmp_path))
    assert [(f.rule, f.severity) for f in again.findings] == [("TSG007", Severity.HIGH)]


def test_a_variable_that_runs_code_is_told(told):
    findings = told("", environment={"LD_PRELOAD": "/tmp/x.so"}).findings
    assert [(f.rule, f.key) for f in findings] == [("TSG006", "LD_PRELOAD")]


def test_folders_follow_systemd_and_xdg(told, tmp_path):
    assert told("", environment={"STATE_DIRECTORY": "/var/lib/x:/other"}).state_dir == Path("/var/lib/x")
    assert told("", environment={"XDG_STATE_HOME": "/state"}).state_dir == Path("/state/tsguard")
    assert told("").state_dir == tmp_path / ".local/state/tsguard"
    assert told("", environment={"RUNTIME_DIRECTORY": "/run/x"}).runtime_dir == Path("/run/x")
    assert told("guard.state_dir=here").state_dir == tmp_path / "here"


def _broken(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    match name:
        case "absent":
            pass
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "binary":
            path.write_bytes(bytes(range(256)))
        case "marked":
            path.write_bytes(b"\xef\xbb\xbfmodel_store=store\n")
        case "large":
            with path.open("wb") as file:
                file.truncate(100 * 1024 * 1024)
        case "empty":
            path.touch()
        case "device":
            path = Path("/dev/zero")
    return path


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["absent", "folder", "fifo", "binary", "marked", "large", "empty", "device"])
def test_a_file_that_is_no_configuration_is_a_clear_error_and_no_hang(tmp_path, name):
    path = _broken(tmp_path, name)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load(path, Flags(), Surroundings({}, tmp_path, tmp_path))


@pytest.mark.parametrize("key", ["model_store", "metrics_config", "guard.frontend_log"])
def test_a_path_that_is_too_long_to_look_at_is_a_complaint_about_its_key(told, key):
    with pytest.raises(ConfigError) as error:
        told(f"{key}=" + "a" * 300)
    assert re.search(rf"config\.properties:1: `{re.escape(key)}=a+\.\.\.` is n", complaints(error))


@pytest.mark.parametrize(
    "key", ["model_store", "inference_address", "guard.state_dir", "guard.audit_log", "load_models"]
)
@pytest.mark.parametrize("character", ["\\ud800", "\\udc80", "\\u0000"])
def test_what_is_no_text_is_a_complaint_about_its_key(told, key, character):
    with pytest.raises(ConfigError, match=f"`{key}=.*is no text"):
        told(f"{key}=/x{character}")


@pytest.mark.parametrize("file", ["/dev/null", "config.properties"])
def test_a_runtime_directory_that_is_a_file_is_a_complaint(told, file):
    with pytest.raises(ConfigError, match=r"guard.runtime_dir=.* is not a folder"):
        told(f"guard.runtime_dir={file}")


def test_what_the_environment_put_into_a_value_is_not_quoted(told):
    with pytest.raises(ConfigError, match=r"`job_queue_size=\$\$SECRET\$\$` is not a whole number") as error:
        told("job_queue_size=$$SECRET$$", environment={"SECRET": "hunter2"})
    assert "hunter2" not in complaints(error)


def test_a_variable_that_is_not_set_is_one_complaint(told):
    with pytest.raises(ConfigError) as error:
        told("job_queue_size=$$NOT_SET$$", "inference_address=http://127.0.0.1:$$NOT_SET$$")
    assert len(error.value.complaints) == 2


def test_the_command_that_torchserve_runs_without_being_told_is_let_through(told):
    assert told("system_metrics_cmd=ts/metrics/metric_collector.py --gpu 0").passthrough == {}
    with pytest.raises(ConfigError, match="runs any command"):
        told("system_metrics_cmd=ts/metrics/metric_collector.py --gpu 0 -c x")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("token_expiration_min=1_0", "not a number"),
        ("token_expiration_min=0x1p3", "not a number"),
        ("token_expiration_min=1e999", "above 0"),
        ("grpc_inference_address=a b", "host"),
        ("grpc_management_address=unix:/tmp/x", "host"),
        ("blacklist_env_vars=(", "regular expression"),
        ("blacklist_env_vars=*KEY*", "regular expression"),
        ("allowed_urls=http://a/.*,http://b/[", "`http://b/\\[`"),
        ("cpu_launcher_args=-m pdb", "list of harmless"),
        ('models={"m": {"1": {"minWorkers": 2, "maxWorkers": 1}}}', "more `minWorkers`"),
    ],
)
def test_a_value_that_torchserve_would_choke_on_is_refused(told, line, why):
    with pytest.raises(ConfigError, match=why):
        told(line)


@pytest.mark.parametrize("host", ["", "::1", "localhost", "0.0.0.0"])
def test_a_host_for_grpc_is_what_java_can_resolve(told, host):
    assert told(f"grpc_inference_address={host}").grpc_inference.host == (host or "127.0.0.1")


def test_a_file_that_torchserve_reads_is_named_from_the_root(told, tmp_path):
    (tmp_path / "metrics.yaml").touch()
    assert told("metrics_config=metrics.yaml").passthrough == {"metrics_config": str(tmp_path / "metrics.yaml")}


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused_even_where_flags_would_do(tmp_path, content):
    config = tmp_path / "config.properties"
    config.write_text(content)
    with pytest.raises(ConfigError, match="is empty"):
        load(config, Flags(model_store=str(tmp_path)), Surroundings({}, tmp_path, tmp_path))
    config.write_text("# nothing to say")
    assert load(config, Flags(model_store=str(tmp_path)), Surroundings({}, tmp_path, tmp_path)).load == ()


def test_a_file_of_keys_that_nobody_knows_is_not_taken_for_a_configuration(told):
    assert len(told(*(f"key{number}=1" for number in range(100))).findings) == 100
    with pytest.raises(ConfigError, match="is this the right file"):
        told(*(f"key{number}=1" for number in range(101)))


def test_of_very_many_complaints_the_first_are_told(told):
    with pytest.raises(ConfigError) as error:
        told(*["debug=true"] * 1000)
    assert len(error.value.complaints) == 201
    assert error.value.complaints[-1] == "and 800 complaints more"


def test_an_access_log_is_kept_in_the_state_directory_unless_told_otherwise(told, tmp_path):
    kept = told("guard.state_dir=/s").access_log
    assert (kept.path, kept.form, kept.size, kept.count) == (Path("/s/access.log"), "json", 64 << 20, 5)
    assert told("guard.access_log=off").access_log is None
    named = told("guard.access_log=a.log", "guard.access_log_format=combined", "guard.access_log_files=1").access_log
    assert (named.path.name, named.path.is_absolute(), named.form, named.count) == ("a.log", True, "combined", 1)


def test_the_access_log_is_never_the_record(told):
    with pytest.raises(ConfigError, match=r"guard\.access_log=/x/log` is the audit log too"):
        told("guard.access_log=/x/log", "guard.audit_log=/x/log")


def test_one_address_has_three_quarters_of_the_connections_unless_told_otherwise(told):
    assert told().limits.max_connections_per_address == 7500
    assert told("guard.max_connections=10").limits.max_connections_per_address == 8
    assert told("guard.max_connections_per_address=3").limits.max_connections_per_address == 3
