"""The scanner of names: what would run in the place of the handler is found, ordinary models are left alone."""

from __future__ import annotations

import importlib.util
import json
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
        ("json.cpython-399-x86_64-linux-gnu.so", "TSG-SCAN-003"),
        ("yaml/__init__.cpython-399-x86_64-linux-gnu.so", "TSG-SCAN-003"),
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
        (py_compile.PycInvalidationMode.CHECKED_HASH, "TSG-SCAN-005", Severity.HIGH),
        (py_compile.PycInvalidationMode.TIMESTAMP, "TSG-SCAN-007", Severity.LOW),
    ],
)
def test_compiled_code_is_judged_by_its_header(mode, rule, severity, findings, tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    cached = importlib.util.cache_from_source(str(tmp_path / "helper.py"))
    py_compile.compile(str(tmp_path / "helper.py"), cached, invalidation_mode=mode, doraise=True)
    assert [(one.rule, one.severity) for one in findings({})] == [(rule, severity)]


@pytest.mark.parametrize("folder", ["__pycache__/", ""])
def test_the_right_hash_of_a_harmless_source_is_no_proof(folder, findings, tmp_path):
    harmless = b"x = 1\n"
    (tmp_path / "evil.py").write_bytes(b"import os\n")
    py_compile.compile(str(tmp_path / "evil.py"), str(tmp_path / "evil.bin"), doraise=True)
    code = (tmp_path / "evil.bin").read_bytes()
    forged = code[:4] + (0b11).to_bytes(4, "little") + importlib.util.source_hash(harmless) + code[16:]
    name = f"{folder}helper.{'cpython-311.' if folder else ''}pyc"
    (tmp_path / "evil.py").unlink()
    found = findings({"helper.py": harmless, name: forged})
    assert [(one.rule, one.severity, one.location.member) for one in found] == [("TSG-SCAN-005", Severity.HIGH, name)]


def test_compiled_code_without_source_is_medium(findings, tmp_path):
    (tmp_path / "helper.py").write_text("x = 1\n")
    py_compile.compile(str(tmp_path / "helper.py"), str(tmp_path / "helper.pyc"), doraise=True)
    (tmp_path / "helper.py").unlink()
    assert [(one.rule, one.severity) for one in findings({})] == [("TSG-SCAN-006", Severity.MEDIUM)]


@pytest.mark.parametrize("data", [b"", b"short", b"not compiled code at all"])
def test_what_is_called_compiled_and_is_not_is_not_clean(data, findings):
    assert [one.rule for one in findings({"lib/x.pyc": data})] == ["TSG-SCAN-008"]


def manifest(**model):
    return {"MAR-INF/MANIFEST.json": json.dumps({"model": model}).encode()}


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("handler.py", "handler.abi3.so"),
        ("handler.py", "handler.so"),
        ("handler.py", "handler.cpython-312-x86_64-linux-gnu.so"),
        ("handler.py", "handler/__init__.abi3.so"),
        ("handler.py", "handler/__init__.pyc"),
        ("layers/deep.py", "layers/deep.cpython-39-aarch64-linux-gnu.so"),
        ("layers/deep.py", "layers/deep/__init__.pyc"),
        ("layers/__init__.py", "layers/__init__.so"),
    ],
)
def test_what_python_takes_in_the_place_of_a_source_is_high(source, path, findings):
    found = [one for one in findings({source: b"", path: b"\xa7\r\r\n" + bytes(12)}) if one.severity is Severity.HIGH]
    assert [(one.rule, one.location.member) for one in found] == [("TSG-SCAN-010", path)]
    assert f"in the place of `{source}`" in found[0].message


@pytest.mark.parametrize(
    "files",
    [
        ("layers/__init__.py", "layers.so"),
        ("layers/deep.py", "deep.so"),
        ("layers.py", "layers/kernels.so"),
        ("layers.py", "layers.so.1"),
        ("layers.py", "layers.pyc"),
        ("layers.py", "layers/__init__.py"),
        ("kernels.abi3.so", "weights.pt"),
    ],
)
def test_what_stands_behind_a_source_or_beside_none_is_not_high(files, findings):
    found = findings(dict.fromkeys(files, b"\xa7\r\r\n" + bytes(12)) | manifest(handler="image_classifier"))
    assert [one.rule for one in found if one.severity is Severity.HIGH] == []


@pytest.mark.parametrize(
    ("model", "path", "name"),
    [
        ({"handler": "image_classifier"}, "image_classifier.abi3.so", "image_classifier"),
        ({"handler": "image_classifier"}, "image_classifier/__init__.pyc", "image_classifier"),
        ({"handler": "text_classifier", "modelFile": "net.txt"}, "net.so", "net"),
        ({"handler": "text_classifier", "modelFile": "net.v1.py"}, "net.so", "net"),
        ({"handler": "layers.deep:f"}, "layers/__init__.so", "layers"),
        ({"handler": "layers.deep"}, "layers.abi3.so", "layers"),
    ],
)
def test_what_a_worker_imports_by_the_manifest_and_is_no_source_is_high(model, path, name, findings):
    files = {path: b"\xa7\r\r\n" + bytes(12), "net.txt": b"", "net.v1.py": b"", "layers/deep.py": b""}
    found = [one for one in findings(files | manifest(**model)) if one.severity is Severity.HIGH]
    assert [(one.rule, one.location.member) for one in found] == [("TSG-SCAN-010", path)]
    assert f"as `{name}`" in found[0].message


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"model": []}', b'{"model": {"handler": 7}}', b"[" * 100_000])
def test_a_manifest_that_cannot_be_read_names_nothing(data, findings):
    assert findings({"MAR-INF/MANIFEST.json": data}) == []


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
