"""Every rule of hardening fires where it should, and keeps quiet where it should."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from torchserve_guard.findings import Finding, Severity
from torchserve_guard.settings import Flags, Surroundings, load
from torchserve_guard.settings.hardening import RULES, effect, environment, secrets, sizes

ROOT = Path(__file__).parents[3]
CORPUS: Mapping[str, Any] = yaml.safe_load((ROOT / "tests/corpus/hardening.yaml").read_text("utf-8"))
BY_NAME = {rule.identifier: rule for rule in RULES}
# A waiver is bound to a key; who may change what is believed is not to be waived.
NEVER_WAIVED = {"TSG007", "TSG046"}
LOOKED_AT = {
    "TSG005": [key for key, _ in effect.NO_EFFECT],
    "TSG006": [*environment.OBEYED, *environment.ONLY_STOCK, *environment.CACHES],
    "TSG045": [key for key, _ in secrets.PRIVATE],
    "TSG052": [row.key for row in (*sizes.SIZES, *sizes.IN_MODELS)],
    "TSG054": [row.key for row in sizes.TIMES],
}
RECOMMENDED = (
    "inference_address=http://127.0.0.1:8080",
    "management_address=http://127.0.0.1:8081",
    "metrics_address=http://127.0.0.1:8082",
    "model-control-mode=none",
    "load_models=ALL",
    "guard.manifest=store/tsguard-manifest.json",
    "guard.state_dir=state",
)


def cases(kind: str) -> list[Any]:
    return [
        pytest.param(rule, case, id=f"{rule}-{number}")
        for rule, each in CORPUS.items()
        for number, case in enumerate(each[kind], 1)
    ]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may enter, as the folder of a server is; pytest's own are shut."""
    folder = Path(tempfile.mkdtemp(prefix="tsg-h-"))
    folder.chmod(0o755)
    if not all(above.stat().st_mode & 0o001 for above in folder.parents):
        pytest.skip("the temporary folder is shut to others")
    yield folder
    shutil.rmtree(folder)


def lay(place: Path, file: Mapping[str, Any]) -> None:
    path = place / file["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if "link" in file:
        path.symlink_to(file["link"])
        return
    if file.get("folder"):
        path.mkdir(exist_ok=True)
    else:
        path.touch()
    if {"owner", "group"} & file.keys():
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(path, file.get("owner", -1), file.get("group", -1))
    path.chmod(file.get("mode", 0o755 if path.is_dir() else 0o644))


def lay_certificate(place: Path) -> None:
    """Lay `cert.pem` and `key.pem`, which only we may read."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(90))
    pem = serialization.Encoding.PEM
    (place / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    (place / "key.pem").touch(0o600)
    (place / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def found(place: Path, case: Mapping[str, Any]) -> list[Finding]:
    """What is found in a folder that is laid out as the case says."""

    def spelt(text: str) -> str:
        return text.replace("{place}", str(place))

    lines = [spelt(line) for line in case.get("lines", ())]
    if case.get("tls"):
        lay_certificate(place)
        lines += ["certificate_file=cert.pem", "private_key_file=key.pem"]
    config = place / case.get("config", "config.properties")
    config.write_text("\n".join((*lines, "model_store=store")))
    config.chmod(0o644)
    lay(place, {"name": "store", "folder": True})
    for file in case.get("files", ()):
        lay(place, file)
    around = Surroundings(
        {name: spelt(value) for name, value in case.get("environment", {}).items()},
        place,
        place,
        case.get("user"),
        case.get("umask"),
        tuple(Path(spelt(path)) for path in case.get("programs", ())),
    )
    return list(load(config, Flags(**case.get("flags", {})), around).findings)


def of(rule: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.rule == rule]


@pytest.mark.parametrize(("rule", "case"), cases("fires"))
def test_a_rule_fires_and_says_where_and_what_to_do(place, rule, case):
    findings = found(place, case)
    told = of(rule, findings)
    assert {str(finding.severity) for finding in told} == {case["severity"]}
    for finding in told:
        assert case.get("says", "") in finding.message
        assert finding.location is not None
        assert finding.location.line != 0
        assert finding.remedy
        assert (finding.key is None) == (rule in NEVER_WAIVED)
    assert "hunter2" not in repr([(finding.message, finding.remedy) for finding in findings])


@pytest.mark.parametrize(("rule", "case"), cases("quiet"))
def test_a_rule_keeps_quiet(place, rule, case):
    assert of(rule, found(place, case)) == []


def test_every_rule_has_a_file_that_triggers_it_at_each_of_its_severities_and_one_that_does_not():
    assert CORPUS.keys() == BY_NAME.keys()
    for name, rule in BY_NAME.items():
        told = {case["severity"] for case in CORPUS[name]["fires"]}
        assert told == {str(severity) for severity in (rule.severity, *rule.also)}, name
        assert CORPUS[name]["quiet"], name


def test_the_table_has_each_rule_once_and_every_row_is_filled():
    assert len(BY_NAME) == len(RULES)
    for rule in RULES:
        assert re.fullmatch(r"TSG(0[0145]|1[123])\d", rule.identifier)
        assert rule.why
        assert rule.remedy
        assert rule.hazards


def test_the_recommended_configuration_is_not_complained_about(place):
    files = [{"name": "store/tsguard-manifest.json"}, {"name": "store/a.mar"}, {"name": "state", "folder": True}]
    case = {"lines": RECOMMENDED, "files": files, "user": 1000, "umask": 0o077, "programs": ["{place}/store"]}
    assert found(place, case) == []


def test_a_line_is_told_where_there_is_one_and_none_for_a_flag(place):
    (by_file,) = of("TSG004", found(place, {"lines": ["# a comment", "enable_model_api=true"]}))
    assert by_file.location.line == 2
    (by_flag,) = of("TSG004", found(place, {"flags": {"enable_model_api": True}}))
    assert by_flag.location.line is None


def test_only_variables_that_stock_knows_are_named(place):
    case = {"environment": {"TS_LOAD_MODELS": "x", "TS_PLUGINS_PATH": "y"}}
    (finding,) = of("TSG049", found(place, case))
    assert "TS_LOAD_MODELS" in finding.message
    assert "TS_PLUGINS_PATH" not in finding.message  # stock has no such variable


def test_a_snapshot_that_brings_a_switch_back_is_told_with_the_switch(place):
    snapshot = place / "logs/config/20260101000000000-startup.cfg"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_text("load_models=ALL\nenable_model_api=true\ndisable_token_authorization=false\n")
    (finding,) = of("TSG048", found(place, {}))
    assert "`enable_model_api=true` back" in finding.message
    assert "disable_token_authorization" not in finding.message


def test_no_more_archives_are_told_than_a_person_reads(place):
    files = [{"name": f"store/{number}.mar", "mode": 0o666} for number in range(100)]
    case = {"lines": ["load_models=ALL", "guard.manifest=m.json"], "files": files}
    assert 1 <= len(of("TSG042", found(place, case))) <= 10


@pytest.mark.parametrize("key", ["guard.audit_log", "guard.manifest"])
def test_a_path_that_cannot_be_looked_at_ends_no_check(place, key):
    found(place, {"lines": [f"{key}=/" + "a" * 300, "guard.profile=compat"]})


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "TS_CONFIG_FILE"])
@pytest.mark.parametrize("value", ["/" + "a" * 5000, ":::", " ", "loop/loop", "\udcff"])
def test_a_strange_variable_ends_no_check(place, name, value):
    (place / "loop").symlink_to("loop")
    found(place, {"environment": {name: value}})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.identifier)
def test_the_section_of_a_rule_gives_its_severities_and_its_hazards(rule):
    checks = (ROOT / "docs/checks.md").read_text("utf-8")
    section = re.search(rf"^## {rule.identifier}\n(.*?)(?=^#|\Z)", checks, re.MULTILINE | re.DOTALL)
    assert section is not None
    severity = re.search(r"\*\*Severity\*\*\s([^*]*?)\.?\n\n", section[1])
    assert severity is not None
    said = {str(one) for one in Severity if re.search(rf"\b{one}\b", severity[1])}
    assert said == {str(one) for one in (rule.severity, *rule.also)}
    assert set(re.findall(r"\b[HSL]\d\d\b", section[1])) == set(rule.hazards)
    assert [name for name in LOOKED_AT.get(rule.identifier, ()) if f"`{name}`" not in section[1]] == []
