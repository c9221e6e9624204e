"""The generated configuration and command line: they say what was decided, and nothing else can be said."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import javaproperties
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.errors import ConfigError
from torchserve_guard.frontend.configuration import (
    LEAN,
    PASSED_ON,
    PINNED,
    Launch,
    command,
    log_configuration,
    render,
)
from torchserve_guard.frontend.rundirectory import RunDirectory

LAUNCH = Launch(
    java=Path("/java/bin/java"),
    home=Path("/site"),
    jars=(Path("/site/ts/frontend/model-server.jar"),),
    interpreter=Path("/venv/bin/python"),
    run=RunDirectory(Path("/run/guard")),
    model_store=Path("/state/store"),
    environment={},
    models=((None, "noop.mar"), ("other", "noop.mar")),
)

printable = st.text(st.characters(exclude_categories=("Cs",)), max_size=60).filter(str.isprintable)
plain = printable.filter(lambda value: "$$" not in value)


def said(launch: Launch) -> dict[str, str]:
    return javaproperties.loads(render(launch))


@given(st.dictionaries(st.sampled_from(sorted(PASSED_ON)), plain))
def test_what_is_passed_on_reads_back_exactly(passed_on):
    lines = said(replace(LAUNCH, passed_on=passed_on))
    assert {key: lines[key] for key in passed_on} == passed_on


@given(st.dictionaries(st.sampled_from(sorted(PASSED_ON)), plain))
def test_nothing_passed_on_changes_what_is_pinned(passed_on):
    pinned = {key: value(LAUNCH) for key, value in PINNED.items()}
    assert {key: said(replace(LAUNCH, passed_on=passed_on))[key] for key in PINNED} == pinned


@given(st.sampled_from(sorted(PASSED_ON)), plain)
def test_each_key_stands_on_one_line_of_its_own(key, value):
    text = render(replace(LAUNCH, passed_on={key: value}))
    assert text.isascii()
    assert len(text.splitlines()) == len(PINNED) + 1
    assert not any(line.endswith("\\") and not line.endswith("\\\\") for line in text.splitlines())


def test_a_pinned_key_is_in_no_way_passed_on():
    assert not PASSED_ON & PINNED.keys()


@pytest.mark.parametrize(
    "key",
    [
        *PINNED,
        "vmargs",
        "plugins_path",
        "system_metrics_cmd",
        "default_service_handler",
        "model_snapshot",
        "python",
        "model_server_home",
        "keystore_pass",
        "MAX_REQUEST_SIZE",
        " max_request_size",
        "guard.policy",
        "",
    ],
)
def test_a_key_that_is_not_in_the_table_is_refused(key):
    with pytest.raises(ConfigError):
        render(replace(LAUNCH, passed_on={key: "1"}))


@pytest.mark.parametrize(
    "value", ["$$HOME$$", "a$$B$$c", "x\ny=1", "x\ry=1", "nul\0", "line\u2028", "\x1b[31m", "$$$A$$"]
)
def test_a_value_that_torchserve_would_read_otherwise_is_refused(value):
    with pytest.raises(ConfigError):
        render(replace(LAUNCH, passed_on={"metrics_config": value}))


def test_a_path_that_torchserve_would_take_for_a_variable_is_refused():
    with pytest.raises(ConfigError, match="variable"):
        render(replace(LAUNCH, model_store=Path("/store/$$HOME$$")))


def test_every_complaint_is_made_at_once():
    with pytest.raises(ConfigError) as caught:
        render(replace(LAUNCH, passed_on={"vmargs": "-Xmx1g", "model_store": "/x", "models": "$$A$$"}))
    assert len(caught.value.complaints) == 3


def test_models_are_named_as_torchserve_splits_them():
    assert said(LAUNCH)["load_models"] == "noop.mar,other=noop.mar"


def test_without_models_none_is_loaded():
    assert said(replace(LAUNCH, models=()))["load_models"] == ""


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (None, "ALL"),
        (None, "all"),
        (None, "/abs/noop.mar"),
        (None, "../noop.mar"),
        (None, "a.mar,b.mar"),
        (None, "a.mar, b.mar"),
        (None, "http://host/a.mar"),
        (None, ""),
        (None, ".hidden.mar"),
        (None, "a=b.mar"),
        (None, "é.mar"),
        ("a,b", "a.mar"),
        ("", "a.mar"),
        ("a=b", "a.mar"),
    ],
)
def test_an_entry_that_means_more_than_one_file_is_refused(name, file):
    with pytest.raises(ConfigError):
        render(replace(LAUNCH, models=((name, file),)))


def test_the_mode_decides_the_model_api_alone():
    assert said(LAUNCH)["enable_model_api"] == "false"
    assert said(replace(LAUNCH, enable_model_api=True))["enable_model_api"] == "true"


def test_listeners_are_in_the_run_directory_and_grpc_on_loopback():
    lines = said(LAUNCH)
    assert lines["management_address"] == "unix:/run/guard/management.sock"
    assert (lines["grpc_management_address"], lines["grpc_management_port"]) == ("127.0.0.1", "0")


def test_the_command_is_absolute_and_its_class_path_has_no_dot():
    words = command(LAUNCH)
    assert words[0] == "/java/bin/java"
    assert words[words.index("-cp") + 1] == "/site/ts/frontend/model-server.jar"
    assert words[-3:] == ("-f", "/run/guard/config.properties", "-ncs")
    assert "-Djava.io.tmpdir=/run/guard/tmp" in words
    assert f"-Dlog4j.configurationFile={LEAN.as_uri()}" in words


def test_the_jvms_own_arguments_come_before_what_the_guard_says():
    words = command(replace(LAUNCH, jvm_arguments=("-Xmx1g",)))
    assert words.index("-Xmx1g") < words.index("-XX:+DisableAttachMechanism")


@pytest.mark.parametrize("jar", ["ts/a.jar", "/a:b.jar", "/site/*"])
def test_a_class_path_element_that_means_another_place_is_refused(jar):
    with pytest.raises(ConfigError):
        command(replace(LAUNCH, jars=(Path(jar),)))


def test_an_empty_class_path_is_refused():
    with pytest.raises(ConfigError):
        command(replace(LAUNCH, jars=()))


def test_stock_logging_is_torchserves_own_and_a_path_is_the_users():
    assert log_configuration("stock") is None
    assert log_configuration("/etc/log4j2.xml") == Path("/etc/log4j2.xml")
    assert not any("log4j.conf" in word for word in command(replace(LAUNCH, frontend_log="stock")))


READER = """
import java.nio.file.*; import java.util.*;
public class Reader { public static void main(String[] a) throws Exception {
  Properties p = new Properties(); try (var s = Files.newInputStream(Paths.get(a[0]))) { p.load(s); }
  for (var k : new TreeSet<>(p.stringPropertyNames())) {
    StringBuilder b = new StringBuilder(k); b.append('=');
    for (char c : p.getProperty(k).toCharArray()) b.append(String.format("%04x", (int) c));
    System.out.println(b);
  } } }
"""


def test_java_itself_reads_back_exactly_what_was_said(tmp_path):
    value = " \t=:#! \\ \\u0041 é 漢 😀 trailing \\ ".replace("\t", "")
    launch = replace(LAUNCH, passed_on={"models": value, "metrics_config": "  lead"})
    file, source = tmp_path / "c.properties", tmp_path / "Reader.java"
    file.write_text(render(launch), encoding="ascii")
    source.write_text(READER)
    if shutil.which("java") is None:
        pytest.skip("no Java on the path")
    done = subprocess.run(["java", source, file], capture_output=True, text=True, check=False)
    if "jdk.compiler" in done.stderr:
        pytest.skip("this Java is a runtime without a compiler")
    assert done.returncode == 0, done.stderr
    read = dict(line.split("=", 1) for line in done.stdout.splitlines())
    decoded = {key: bytes.fromhex(text).decode("utf-16-be") for key, text in read.items()}
    assert decoded == said(launch)
    assert decoded["models"] == value
