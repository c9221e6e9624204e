"""The scanner of names: what would run in the place of the handler is found, ordinary models are left alone."""

from __future__ import annotations

import importlib.util
import py_compile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from torchserve_guard import scan
from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Severity


@dataclass(frozen=True)
class Shown:
    """A tree as a scanner is shown it."""

    tree: Path
    digest: str = "ab" * 32

    @property
    def paths(self):
        return tuple(path.relative_to(self.tree).as_posix() for path in self.tree.rglob("*") if path.is_file())


@pytest.fixture
def findings(tmp_path):
    def look_at(files):
        for name, data in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return [found for scanner in scan.scanners() for found in scanner.scan("m.mar", Shown(tmp_path))]

    return look_at


ORDINARY = [
    "MAR-INF/MANIFEST.json",
    "handler.py",
    "model.py",
    "utils.py",
    "index_to_name.json",
    "model-config.yaml",
    "requirements.txt",
    "weights.pt",
    "src/json.py",
    "src/__init__.py",
    "code/inference.py",
    "transformers/__init__.py",
    "test/__init__.py",
    "yaml/notes.txt",
    "torch.txt",
    "types/schema.json",
]


def test_ordinary_archives_give_no_finding(findings):
    assert findings(dict.fromkeys(ORDINARY, b"x = 1\n")) == []


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("sitecustomize.py", "TSG-SCAN-001"),
        ("usercustomize/__init__.py", "TSG-SCAN-001"),
        ("sitecustomize.so", "TSG-SCAN-001"),
        ("ts/__init__.py", "TSG-SCAN-002"),
        ("ts.py", "TSG-SCAN-002"),
        ("yaml.py", "TSG-SCAN-003"),
        ("torch/__init__.py", "TSG-SCAN-003"),
        ("numpy.cpython-311-x86_64-linux-gnu.so", "TSG-SCAN-003"),
        ("json.py", "TSG-SCAN-003"),
        ("os/__init__.py", "TSG-SCAN-003"),
        ("logging.pyc", "TSG-SCAN-003"),
        ("PIL/__init__.py", "TSG-SCAN-003"),
        ("psutil.abi3.so", "TSG-SCAN-003"),
        ("evil.pth", "TSG-SCAN-004"),
    ],
)
def test_what_runs_before_the_handler_is_high(path, rule, findings):
    found = [one for one in findings({path: b"import os\n", "handler.py": b""}) if one.rule == rule]
    assert [one.severity for one in found] == [Severity.HIGH]
    assert (found[0].location.path, found[0].location.member, found[0].digest) == ("m.mar", path, "ab" * 32)
    assert path in found[0].message
    assert found[0].remedy


@pytest.mark.parametrize(
    "data",
    [b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(20) + b"\x80\x02}q", bytes(range(256)), b"PK\x03\x04" + bytes(90)],
)
def test_weights_called_pth_are_weights(data, findings):
    assert findings({"model.pth": data}) == []


@pytest.mark.parametrize(
    "data",
    [
        b"import os; os.system('id')",
        b"/srv/evil\n",
        b"PK\x03\x04\nimport os\n\x80\x02",
        b"PK\x03\x04\rimport\tos\n",
        b"PK\x03\x04" + b"\n" * 100_000 + b"import os\n",
    ],
)
def test_a_path_file_dressed_as_weights_is_a_path_file(data, findings):
    assert [one.rule for one in findings({"lib/model.pth": data})] == ["TSG-SCAN-004"]


@pytest.mark.parametrize(
    ("mode", "rule", "severity"),
    [
        (py_compile.PycInvalidationMode.UNCHECKED_HASH, "TSG-SCAN-005", Severity.HIGH),
        (py_compile.PycInvalidationMode.CHECKED_HASH, "TSG-SCAN-007", Severity.LOW),
        (py_compile.PycInvalidationMode.TIMESTAMP, "TSG-SCAN-007", Severity.LOW),
    ],
)
def test_compiled_code_is_judged_by_its_header(mode, rule, severity, findings, tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    cached = importlib.util.cache_from_source(str(tmp_path / "helper.py"))
    py_compile.compile(str(tmp_path / "helper.py"), cached, invalidation_mode=mode, doraise=True)
    assert [(one.rule, one.severity) for one in findings({})] == [(rule, severity)]


def test_compiled_code_without_source_is_medium(findings, tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    py_compile.compile(str(tmp_path / "helper.py"), str(tmp_path / "helper.pyc"), doraise=True)
    (tmp_path / "helper.py").unlink()
    assert [(one.rule, one.severity) for one in findings({})] == [("TSG-SCAN-006", Severity.MEDIUM)]


@pytest.mark.parametrize("data", [b"", b"short", b"not compiled code at all"])
def test_what_is_called_compiled_and_is_not_is_not_clean(data, findings):
    assert [one.rule for one in findings({"lib/x.pyc": data})] == ["TSG-SCAN-008"]


@pytest.mark.parametrize("path", ["lib/ops.so", "ops.so.1.2", "ops.cpython-311-x86_64-linux-gnu.so", "x.dylib"])
def test_native_code_is_low(path, findings):
    assert [(one.rule, one.severity) for one in findings({path: b"\x7fELF"})] == [("TSG-SCAN-009", Severity.LOW)]


def test_scanners_are_named_and_an_unknown_one_is_an_error():
    assert [scanner.name for scanner in scan.scanners()] == ["shadowing"]
    assert [scanner.name for scanner in scan.scanners(["shadowing", "shadowing"])] == ["shadowing"]
    with pytest.raises(
        ConfigError, match=r"no scanner `shadowin` \(did you mean `shadowing`\?\): known are `shadowing`"
    ):
        scan.scanners(["shadowin"])
    with pytest.raises(ConfigError, match="no scanner is named"):
        scan.scanners([])


def test_a_torch_checkpoint_called_pth_is_left_alone(findings, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "zip.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert zipfile.is_zipfile(tmp_path / "zip.pth")
    assert findings({}) == []
