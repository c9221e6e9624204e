"""The file of waivers: only what is whole and bound is believed, and each complaint names its line."""

import os
import time
from datetime import date

import pytest

from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Location, Waiver
from torchserve_guard.settings import waiver_file

DIGEST = "ab" * 32
REST = "  reason: why\n  owner: who\n  expires: 2030-01-31\n"
BY_VALUE = "- rule: TSG021\n  key: k\n  value: v\n" + REST
BY_DIGEST = f"- rule: TSG-SCAN-009\n  subject: sha256:{DIGEST}\n" + REST


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "waivers.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return waiver_file.read(path)

    return read


@pytest.fixture
def refused(read, tmp_path):
    """What is said of a file, without its path."""

    def refused(text):
        with pytest.raises(ConfigError) as raised:
            read(text)
        return [one.removeprefix(f"{tmp_path}/waivers.yaml") for one in raised.value.complaints]

    return refused


def test_a_waiver_is_bound_to_a_value_or_to_a_subject(read, tmp_path):
    first, second = read("# ours\n" + BY_VALUE + BY_DIGEST + "  path: models/m.mar\n")
    place = str(tmp_path / "waivers.yaml")
    assert first == Waiver("TSG021", "who", "why", date(2030, 1, 31), Location(place, 2), key="k", value="v")
    assert (second.subject, second.written.line) == (DIGEST, 8)
    assert second.path == os.path.realpath(tmp_path / "models/m.mar")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "[]\n"])
def test_an_empty_file_waives_nothing(read, text):
    assert read(text) == ()


@pytest.mark.parametrize(
    ("written", "value"), [("true", "true"), ("0777", "0777"), ("no", "no"), ('""', ""), ("1e3", "1e3")]
)
def test_a_value_is_the_text_that_was_written(read, written, value):
    (waiver,) = read(BY_VALUE.replace("value: v", f"value: {written}"))
    assert waiver.value == value


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("- rule: TSG021\n" + REST, 1, "is bound to nothing"),
        ("- rule: TSG021\n  key: k\n" + REST, 1, "is bound to nothing, or to too much"),
        ("- rule: TSG021\n  value: v\n" + REST, 1, "is bound to nothing, or to too much"),
        (BY_VALUE + f"  subject: sha256:{DIGEST}\n", 1, "or to too much"),
        (BY_VALUE.replace("  owner: who\n", ""), 1, "`owner` is missing"),
        (BY_VALUE.replace("owner: who", 'owner: " "'), 5, "`owner` is empty, blank"),
        (BY_VALUE.replace("owner: who", "owner:"), 5, "`owner` has nothing after it"),
        (BY_VALUE.replace("  reason: why\n", ""), 1, "`reason` is missing"),
        (BY_VALUE.replace("  expires: 2030-01-31\n", ""), 1, "`expires` is missing"),
        (BY_VALUE.replace("2030-01-31", "2030-02-30"), 6, "is not a day"),
        (BY_VALUE.replace("2030-01-31", "never"), 6, "`expires: never` is not a day"),
        (BY_VALUE.replace("2030-01-31", "20300131"), 6, "is not a day"),
        (BY_VALUE.replace("value: v", "value:"), 3, "`value` has nothing after it"),
        (BY_VALUE + "  until: 2031-01-01\n", 7, "`until` is no word of a waiver"),
        (BY_VALUE + "  key: other\n", 7, "`key` is given twice"),
        (BY_VALUE.replace("value: v", "value: [v]"), 3, "no list or mapping"),
        (BY_VALUE.replace("TSG021", "'*'"), 1, "`rule: *` is not the name of a rule"),
        (BY_VALUE.replace("TSG021", "TSG-CONFIG"), 1, "is not the name of a rule"),
        (BY_VALUE.replace("TSG021", "TSG080"), 1, "cannot be waived"),
        (BY_DIGEST.replace(DIGEST, DIGEST[1:]), 2, "is not `sha256:`"),
        (BY_DIGEST.replace(f"sha256:{DIGEST}", f"sha256:{DIGEST.upper()}"), 2, "is not `sha256:`"),
        ("waivers: []\n", 1, "is not a list"),
        ("- everything\n", 1, "is not a waiver"),
        (BY_VALUE + "- &all\n  rule: TSG001\n", 7, "an anchor, alias or tag"),
        (BY_VALUE + "- *all\n", 7, "an anchor, alias or tag"),
        (BY_VALUE.replace("value: v", "value: !!python/name:os.system x"), 3, "an anchor, alias or tag"),
        (BY_VALUE.replace("value: v", "value: 'v"), 7, "is not the YAML"),
        ("- {\n", 2, "is not the YAML"),
        (b"- rule: x\n  owner: \xff\n", 2, "is not UTF-8"),
        (BY_VALUE + "---\n" + BY_VALUE, 7, "is not the YAML"),
    ],
)
def test_what_is_not_whole_is_refused_at_its_line(refused, text, line, said):
    (complaint,) = refused(text)
    assert complaint.startswith(f":{line}: ")
    assert said in complaint


def test_every_complaint_is_told(refused):
    assert len(refused(BY_VALUE.replace("TSG021", "x").replace("2030-01-31", "y") + "- z\n")) == 3


def test_what_is_quoted_from_the_file_stays_on_its_line(refused):
    (complaint,) = refused(BY_VALUE.replace("TSG021", '"a\\n/etc/x:1: forged\\e[31m"'))
    assert complaint.isprintable()


@pytest.mark.parametrize("text", ["[" * 200_000, "- " * 100_000, "{a: " * 60_000, "\x00", "- \x07"])
def test_what_is_made_to_exhaust_is_refused(refused, text):
    started = time.monotonic()
    assert refused(text)
    assert time.monotonic() - started < 20


def test_a_large_file_is_refused(refused):
    (complaint,) = refused("#" * (waiver_file.LARGEST_FILE + 1))
    assert "is larger than" in complaint


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "x", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=said):
            waiver_file.read(path)
