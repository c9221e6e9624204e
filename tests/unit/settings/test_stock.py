"""What stock TorchServe would use, as modelled; tests/e2e/test_precedence.py holds the model against the real one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.errors import ConfigError
from torchserve_guard.settings import Address, values
from torchserve_guard.settings.keys import KEYS, Fate
from torchserve_guard.settings.stock import Chain, CommandLine, Origin, RealDisk, Step, Stock, model
from torchserve_guard.settings.stock.launcher import class_path, load_properties, vm_arguments
from torchserve_guard.settings.stock.snapshots import newest
from torchserve_guard.settings.stock.substitution import substitute


@dataclass(frozen=True)
class Paper:
    """A disk that is written down."""

    texts: dict[str, str | bytes] = field(default_factory=dict)
    folders: tuple[str, ...] = ("store", "tmp")

    def is_file(self, path: str) -> bool:
        return path in self.texts

    def is_folder(self, path: str) -> bool:
        return path in self.folders

    def files(self, folder: str) -> tuple[str, ...]:
        return tuple(sorted(path.rpartition("/")[2] for path in self.texts if path.rpartition("/")[0] == folder))

    def read(self, path: str) -> bytes:
        if path not in self.texts:
            raise ConfigError(f"{path}: not there")
        text = self.texts[path]
        return text.encode("latin-1") if isinstance(text, str) else text


def told(config: str | bytes = "", environment: dict[str, str] | None = None, **flags) -> Stock:
    given_flags = {"ts_config": "c", "model_store": "store", **flags}
    return model(CommandLine(**given_flags), environment or {}, Paper({"c": config}))


def origins(chain: Chain) -> list[Origin]:
    return [step.origin for step in chain.steps]


@pytest.mark.parametrize("key", [key for key in KEYS.values() if key.fate is not Fate.GUARD], ids=lambda key: key.name)
def test_a_key_that_nobody_gives_has_torchserves_own_value_and_says_so(key):
    chain = told().chain(key.name)
    assert chain.steps[0] == Step(Origin.DEFAULT, "TorchServe", key.default)
    assert chain.told is (key.name == "model_store")  # it cannot be left out


def test_a_chain_names_every_step_from_the_default_to_the_variable():
    stock = told(
        "enable_envvars_config=true\njob_queue_size=1\njob_queue_size=$$SIZE$$\n",
        {"SIZE": "2", "TS_JOB_QUEUE_SIZE": "3"},
    )
    chain = stock.chain("job_queue_size")
    assert [(step.origin, step.where, step.value) for step in chain.steps] == [
        (Origin.DEFAULT, "TorchServe", "100"),
        (Origin.FILE, "c:2", "1"),
        (Origin.FILE, "c:3", "$$SIZE$$"),
        (Origin.EXPANSION, "the environment", "2"),
        (Origin.ENVIRONMENT, "TS_JOB_QUEUE_SIZE", "3"),
    ]
    assert chain.value == "3"


def test_what_does_not_count_stands_in_the_chain_with_the_reason():
    chain = told("job_queue_size=1\n", {"TS_JOB_QUEUE_SIZE": "3"}).chain("job_queue_size")
    assert chain.value == "1"
    assert (chain.steps[-1].counts, chain.steps[-1].note) == (False, "not read: `enable_envvars_config` is not true")


@pytest.mark.parametrize("key", [key for key in KEYS.values() if key.variable], ids=lambda key: key.name)
def test_a_variable_beats_file_and_flag_where_it_is_let(key):
    text = f"enable_envvars_config=true\nuse_env_allowed_urls=true\n{key.name}=1\n"
    value = "oip" if key.name == "ts_open_inference_protocol" else "7"
    found = told(text, {str(key.variable): value}, models=("a",)).chain(key.name).value
    assert found == ("true" if value == "oip" else "7")


@pytest.mark.parametrize("name", ["models", "vmargs", "use_native_io", "system_metrics_cmd", "enable_envvars_config"])
def test_a_key_without_a_variable_is_not_moved_by_one_of_its_name(name):
    environment = {f"TS_{name.upper()}": "x"}
    assert told(f"enable_envvars_config=true\n{name}=y\n", environment).chain(name).value == "y"


@pytest.mark.parametrize(
    ("flag", "value", "key", "becomes"),
    [
        ("models", ("a.mar", "b=c.mar"), "load_models", "a.mar,b=c.mar"),
        ("models", ('"a.mar"', 'b"c'), "load_models", 'a.mar,b"c'),
        ("enable_model_api", True, "enable_model_api", "true"),
        ("disable_token_auth", True, "disable_token_authorization", "true"),
        ("workflow_store", "tmp", "workflow_store", "tmp"),
        ("cpp_log_config", "c", "cpp_log_config", "c"),
    ],
)
def test_a_flag_beats_the_file(flag, value, key, becomes):
    assert told(f"{key}=false\n", **{flag: value}).chain(key).value == becomes


def test_a_switch_that_is_not_given_leaves_the_file_alone():
    assert told("enable_model_api=true\n").chain("enable_model_api").value == "true"


def test_the_store_is_what_the_launcher_reads_even_where_java_reads_another():
    stock = told("model_store=store\nmodel_st\\u006fre=other\n", model_store=None)
    assert stock.launched.store == "store"
    assert stock.chain("model_store").value == "store"


def test_the_flag_beats_the_store_that_the_launcher_reads():
    assert told("model_store=tmp\n").launched.store == "store"


@pytest.mark.parametrize(
    ("said", "visible", "there", "number"),
    [
        (None, None, None, None),
        ("2", None, None, "2"),
        ("2", None, 0, "0"),
        ("-1", None, 0, "-1"),
        (None, "0,1,2", None, "3"),
        ("2", "0,1,2", 8, "2"),
        ("9", "0,1,2", 8, "3"),
        (None, "", 4, "4"),
    ],
)
def test_there_are_no_more_gpus_than_there_are(said, visible, there, number):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    disk = Paper({"c": "" if said is None else f"number_of_gpu={said}"})
    stock = model(CommandLine(ts_config="c", model_store="store"), environment, disk, there)
    assert stock.chain("number_of_gpu").value == number


def test_what_is_always_read_is_not_said_to_be_left_out():
    steps = told("", {"TS_OPEN_INFERENCE_PROTOCOL": "oip"}).chain("ts_open_inference_protocol").steps
    assert [(step.origin, step.value, step.counts) for step in steps[1:]] == [(Origin.ENVIRONMENT, "true", True)]


def test_the_workflow_store_stays_where_the_model_store_was_before_the_variables():
    stock = told("enable_envvars_config=true\n", {"TS_MODEL_STORE": "tmp"})
    assert (stock.chain("model_store").value, stock.chain("workflow_store").value) == ("tmp", "store")


def test_vmargs_are_the_launchers_and_count_where_java_sees_none():
    stock = told("models={}\\\nvmargs=-Xmx1g -Da=b\n")
    assert stock.launched.options == ("-Xmx1g", "-Da=b")
    assert stock.chain("vmargs").value == "-Xmx1g -Da=b"
    assert stock.launched.system["a"] == "b"


def test_javas_reading_of_vmargs_counts_for_nothing():
    chain = told("vmargs: -Xmx1g\n").chain("vmargs")
    assert chain.value is None
    assert origins(chain) == [Origin.DEFAULT, Origin.FILE]


def test_plugins_of_file_and_flag_are_both_on_the_class_path():
    assert told("plugins_path=a:b\n", plugins_path="c/*.jar").launched.plugins == ("a:b/*", "c/*.jar")


@pytest.mark.parametrize(
    ("flags", "environment", "reason"),
    [
        ({"ts_config": "nowhere"}, {}, "--ts-config file not found: nowhere"),
        ({"ts_config": "c"}, {"TS_CONFIG_FILE": "nowhere"}, "--ts-config file not found: nowhere"),
        ({"model_store": None}, {}, "Missing mandatory parameter --model-store"),
        ({"model_store": "nowhere"}, {}, "--model-store directory not found: nowhere"),
        ({"workflow_store": "nowhere"}, {}, "--workflow-store directory not found: nowhere"),
        ({"log_config": "nowhere"}, {}, "--log-config file not found: nowhere"),
        ({"cpp_log_config": "nowhere"}, {}, "--cpp-log-config file not found: nowhere"),
        ({}, {"TEMP": "nowhere"}, "Invalid temp directory (TEMP): nowhere"),
        ({}, {"TS_MODEL_SERVER_HOME": "nowhere"}, "TS_MODEL_SERVER_HOME: Model server home not exist: nowhere"),
        ({}, {"CUDA_VISIBLE_DEVICES": "GPU-1"}, "CUDA_VISIBLE_DEVICES: `GPU-1` is no number"),
    ],
)
def test_what_stock_would_not_start_with_is_said(flags, environment, reason):
    assert told("", environment, **flags).refusals == (reason,)


@pytest.mark.parametrize(
    "text", ["x=$$ABSENT$$\n", "vmargs=$$ABSENT$$\n", "number_of_gpu=many\n", "x=\\u00zz\n", b"#\xe9\n"]
)
def test_what_stock_would_not_read_is_said_and_the_rest_explained(text):
    stock = told(text, {"TS_JOB_QUEUE_SIZE": "1"})
    assert len(stock.refusals) == 1
    assert stock.chain("job_queue_size").told


@pytest.mark.parametrize(
    ("config", "environment", "ncs", "source"),
    [
        ("c", {}, False, "c"),
        ("c", {"TS_CONFIG_FILE": "d"}, False, "d"),
        (None, {"TS_CONFIG_FILE": ""}, False, None),
        (None, {}, False, "logs/config/20260101000000000"),
        (None, {"LOG_LOCATION": "here"}, False, "here/config/x"),
        (None, {}, True, "config.properties"),
        (None, {"LOG_LOCATION": "empty"}, False, "config.properties"),
        (None, {"JAVA_TOOL_OPTIONS": "-DtsConfigFile=d"}, True, "d"),
    ],
)
def test_one_file_is_the_source(config, environment, ncs, source):
    names = ("c", "d", "config.properties", "logs/config/20260101000000000", "here/config/x")
    line = CommandLine(ts_config=config, model_store="store", no_config_snapshots=ncs)
    stock = model(line, environment, Paper({name: f"load_models={name}" for name in names}))
    assert stock.source == source
    assert stock.chain("load_models").value == source


def test_a_snapshot_of_models_takes_the_place_of_what_is_named_and_the_chain_says_it():
    stock = told("model_snapshot={}\n", models=("a.mar",))
    chain = stock.chain("load_models")
    assert chain.value == "a.mar"
    assert "model_snapshot" in chain.steps[-1].where
    assert not chain.steps[-1].counts


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ("plain", "plain"),
        ("a.b", "a.b"),
        (r"a\.b", "a.b"),
        (r"a\\b", r"a\b"),
        ("a$1", "aNAME"),
        ("a$0", "a$$NAME$$"),
        ("a$01", "aNAME"),
        ("a$12", "aNAME2"),
        ("$$NAME$$", None),
        ("cost$", None),
        ("${NAME}", None),
        ("$2", None),
        ("end\\", None),
    ],
)
def test_a_variables_value_is_read_as_javas_matcher_reads_a_replacement(value, becomes):
    if becomes is None:
        with pytest.raises(ValueError, match="NAME"):
            substitute("<$$NAME$$>", {"NAME": value})
    else:
        assert substitute("<$$NAME$$>", {"NAME": value}) == f"<{becomes}>"


@given(st.text(st.characters(exclude_characters="$\\")), st.text(st.characters(exclude_characters="$"), min_size=2))
def test_a_plain_value_takes_the_place_of_its_name(value, name):
    assert substitute(f"a$$ {name}$$b", {f" {name}": value}) == f"a{value}b"


@pytest.mark.parametrize("text", ["$$A$$", "$A$", "$$", "$$$$", "$$ $"])
def test_what_is_no_variable_for_stock_stays(text):
    assert substitute(text, {"A": "x", " ": "x"}) == text


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ((), None),
        (("anything",), "anything"),
        (("20260101000000000-startup.cfg", "20260102000000000-shutdown.cfg"), "20260102000000000-shutdown.cfg"),
        (("20260101000000001", "20260101000000000"), "20260101000000001"),
        (("20251300000000000", "20260101000000000"), "20260101000000000"),
        (("20251400000000000", "20251230000000000"), "20251400000000000"),
        (("2026010100000099999", "20260101000010000"), "2026010100000099999"),
    ],
)
def test_the_newest_snapshot_is_taken(names, chosen):
    assert newest(names) == chosen


@pytest.mark.parametrize("name", ["x", "2026-01-01", "20260101", ""])
def test_a_snapshot_without_a_time_ends_the_start_when_it_is_not_alone(name):
    with pytest.raises(ValueError, match="alone"):
        newest(("20260101000000000", name))


@pytest.mark.parametrize(
    ("data", "pairs"),
    [
        (b" a = b \n", [("a", "b", 1)]),
        (b"a=b=c\n#a=d\n !x=y", [("a", "b=c", 1), ("!x", "y", 3)]),
        (b"a:b\na b\na\n", []),
        (b"a=1\rb=2\r\nc=3", [("a", "1", 1), ("b", "2", 2), ("c", "3", 3)]),
        (b"a=1\\\nb=2", [("a", "1\\", 1), ("b", "2", 2)]),
        ("\u00a0a=\u00e9\u00a0\n".encode(), [("a", "\u00e9", 1)]),
        (b"\xef\xbb\xbfa=b", [("\ufeffa", "b", 1)]),
        (b"=b", [("", "b", 1)]),
    ],
)
def test_the_launcher_splits_lines_at_the_first_equals_sign(data, pairs):
    assert [(one.key, one.value, one.line) for one in load_properties(data)] == pairs


def test_a_log_configuration_takes_the_place_of_the_one_in_vmargs():
    assert vm_arguments("-Dlog4j.configurationFile=x -Xmx1g", "log.xml") == ("-Xmx1g",)
    assert vm_arguments("-Dlog4j.configurationFile=x -Xmx1g", None) == ("-Dlog4j.configurationFile=x", "-Xmx1g")


@pytest.mark.parametrize(
    ("key", "text", "port"),
    [
        ("inference_address", "http://h", 80),
        ("inference_address", "https://h", 443),
        ("management_address", "http://h", 8081),
        ("management_address", "HTTPS://h", 8444),
        ("metrics_address", "http://h", 8082),
        ("metrics_address", "https://h", 8445),
        ("metrics_address", "https://h:1", 1),
    ],
)
def test_a_listener_without_a_port_is_where_stock_puts_it(key, text, port):
    address = values.parse(KEYS[key], text)
    assert isinstance(address, Address)
    assert address.port == port


@pytest.mark.parametrize(("plugins", "added"), [("a", "a/*"), ("a:b", "a:b/*"), ("a/*", "a/*"), ("a*:b", "a*:b")])
def test_only_the_last_folder_of_plugins_is_taken_for_one(plugins, added):
    assert class_path(plugins) == added


def test_the_real_disk_answers_for_what_is_no_path_at_all(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    disk = RealDisk(tmp_path)
    assert (disk.is_file("file"), disk.is_folder("folder"), disk.files(".")) == (True, True, ("file",))
    for path in ("nowhere", "a\0b", "x" * 5000):
        assert (disk.is_file(path), disk.is_folder(path), disk.files(path)) == (False, False, ())
