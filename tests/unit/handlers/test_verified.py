"""The handler that looks for itself: nothing of a directory is loaded unless it is what was verified."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SOURCE = Path(__file__).parents[3] / "handlers" / "verified.py"
SPEC = importlib.util.spec_from_file_location("verified", SOURCE)
verified = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(verified)

LAYER = b"import torch\n\n\nclass Layer(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model directory, as TorchServe hands it over: through a link; listed in a roster that the environment names."""
    directory = tmp_path / "tree"
    (directory / "MAR-INF").mkdir(parents=True)
    (directory / "MAR-INF" / "MANIFEST.json").write_text("{}")
    (directory / "layer.py").write_bytes(LAYER)
    (directory / "verified.py").write_bytes(SOURCE.read_bytes())
    torch.save({"weight": 2 * torch.eye(2), "bias": torch.zeros(2)}, directory / "weights.pt")
    (tmp_path / "m.mar").symlink_to(directory)
    monkeypatch.setenv("TSGUARD_ROSTER", str(tmp_path / "roster.json"))
    monkeypatch.delenv("TSGUARD_UNVERIFIED", raising=False)
    enter(tmp_path)
    return tmp_path


def enter(place: Path, schema: str = "tsguard-roster/1", **more) -> None:
    files = [path for path in sorted((place / "tree").rglob("*")) if path.is_file() and not path.is_symlink()]
    rows = [
        {
            "path": str(path.relative_to(place / "tree")),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]
    subject = {"name": "m.mar", "members": rows, **more}
    other = {"name": "a.mar", "members": rows[:1]}
    (place / "roster.json").write_text(json.dumps({"schema": schema, "subjects": [other, subject]}))


def load(place: Path, serialized: str = "weights.pt", config=None, kind=None):
    handler = (kind or verified.VerifiedHandler)()
    handler.initialize(
        SimpleNamespace(
            system_properties={"model_dir": str(place / "m.mar"), "gpu_id": None},
            manifest={"model": {"serializedFile": serialized, "modelFile": "layer.py"}},
            model_yaml_config=config or {},
        )
    )
    return handler


def refused(place: Path, **more) -> str:
    with pytest.raises(RuntimeError) as caught:
        load(place, **more)
    return str(caught.value)


def test_torchserve_finds_one_class_in_the_file():
    """It takes a file with several for a mistake (ts/model_loader.py)."""
    own = [one for one in vars(verified).values() if isinstance(one, type) and one.__module__ == "verified"]
    assert own == [verified.VerifiedHandler]


@pytest.mark.parametrize("schema", ["tsguard-roster/1", "tsguard-manifest/1"])
def test_a_directory_that_is_as_it_was_verified_is_served(model, schema):
    enter(model, schema)
    assert load(model).handle([{"body": [1, 2]}, {"data": b"[0, 3]"}], None) == [[2, 4], [0, 6]]


def _touch(path: Path) -> None:
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (lambda tree: _touch(tree / "weights.pt"), "`weights.pt` was changed"),
        (lambda tree: _touch(tree / "layer.py"), "`layer.py` was changed"),
        (lambda tree: (tree / "layer.py").unlink(), "`layer.py` is missing"),
        (lambda tree: (tree / "yaml.py").touch(), "`yaml.py` was added"),
        (lambda tree: (tree / "data").symlink_to("/etc"), "`data` is a link, a pipe or a device"),
        (lambda tree: (tree / "loop").symlink_to("loop"), "`loop` is a link, a pipe or a device"),
        (lambda tree: os.mkfifo(tree / "pipe"), "`pipe` is a link, a pipe or a device"),
        (lambda tree: (tree / "weights.pt").rename(tree / "other.pt"), "`weights.pt` is missing"),
    ],
)
def test_any_change_is_refused_and_named(model, attack, told):
    attack(model / "tree")
    assert told in refused(model)


def test_a_roster_in_the_archive_counts_for_nothing(model):
    _touch(model / "tree" / "weights.pt")
    (model / "tree" / "roster.json").write_bytes((model / "roster.json").read_bytes())
    assert "`weights.pt` was changed" in refused(model)


def test_a_model_in_its_own_copy_may_have_written_more(model):
    enter(model, writable=True)
    (model / "tree" / "cache.bin").write_text("x")
    load(model)
    _touch(model / "tree" / "weights.pt")
    assert "`weights.pt` was changed" in refused(model)


def test_what_python_compiled_there_is_not_read_and_does_not_count(model):
    (model / "tree" / "__pycache__").mkdir()
    (model / "tree" / "__pycache__" / "layer.cpython-311.pyc").write_bytes(b"evil")
    load(model)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": "tsguard-roster/2", "subjects": []}', '{"schema": "tsguard-roster/1", "subjects": []}',
     '{"schema": "tsguard-roster/1", "subjects": [{"name": "m.mar", "members": []}]}',
     '{"schema": "tsguard-roster/1", "subjects": [{"name": "m.mar"}]}'],
)  # fmt: skip
def test_a_roster_that_says_nothing_verifies_nothing(model, text):
    (model / "roster.json").write_text(text)
    assert refused(model)


def test_without_a_roster_a_model_is_refused_unless_the_environment_says_otherwise(model, monkeypatch, caplog):
    (model / "roster.json").unlink()
    assert "cannot be read" in refused(model)
    monkeypatch.delenv("TSGUARD_ROSTER")
    assert "nobody can say what" in refused(model)
    monkeypatch.setenv("TSGUARD_UNVERIFIED", "warn")
    load(model)
    assert "not verified" in caplog.text


def bomb(model: Path, name: str) -> Path:
    """Put a bomb in the place of the weights, listed as what was verified: nobody looked into it."""
    fired = model / "fired"
    (model / "tree" / "weights.pt").unlink()
    if name == "zip":
        torch.save({"weight": Bomb(fired)}, model / "tree" / "weights.pt")
    elif name == "whole":
        torch.save(torch.nn.Linear(2, 2), model / "tree" / "weights.pt")
    else:
        (model / "tree" / "weights.pt").write_bytes(pickle.dumps(Bomb(fired)))
    enter(model)
    return fired


@pytest.mark.parametrize(
    ("name", "told"),
    [("zip", "holds more than weights"), ("whole", "holds more than weights"), ("bare", "form `pickle`")],
)
def test_a_pickle_that_is_listed_never_runs(model, name, told):
    fired = bomb(model, name)
    assert told in refused(model)
    assert not fired.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("told", ["class", "configuration"])
def test_a_form_is_loaded_only_when_somebody_asked_for_it(model, told):
    path = model / "tree" / "weights.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path))
    enter(model)
    assert "form `torchscript`" in refused(model)
    if told == "class":
        derived = type("Derived", (verified.VerifiedHandler,), {"accepts": frozenset({"torchscript"})})
        handler = load(model, kind=derived)
    else:
        handler = load(model, config={"handler": {"accepts": ["torchscript"]}})
    assert len(handler.handle([{"body": [1, 2]}], None)[0]) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_does_not_pass_for_weights(model):
    """`torch.load` would hand it to `torch.jit.load` of its own accord, in versions before 2.6."""
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(model / "tree" / "weights.pt"))
    with zipfile.ZipFile(model / "tree" / "weights.pt", "a") as file:
        file.writestr("archive/extra", "x")
    enter(model)
    assert "form `torchscript`" in refused(model)


def test_a_torch_whose_weights_only_does_not_hold_is_refused(model, monkeypatch):
    monkeypatch.setattr(verified.torch, "__version__", "2.5.1+cpu")
    assert "CVE-2025-32434" in refused(model)


def test_what_is_too_large_for_memory_is_refused(model):
    assert "no file of at most 100 bytes" in refused(
        model, kind=type("Small", (verified.VerifiedHandler,), {"largest": 100})
    )


def test_the_bytes_that_were_hashed_are_the_bytes_that_are_loaded(model, monkeypatch):
    """Whatever the file becomes once it was read, nobody opens it again."""
    real = verified._verify

    def verify_then_swap(*arguments) -> None:
        real(*arguments)
        bomb(model, "bare")
        (model / "tree" / "layer.py").write_text("raise SystemExit(1)\n")

    monkeypatch.setattr(verified, "_verify", verify_then_swap)
    assert load(model).handle([{"body": [1, 2]}], None) == [[2, 4]]
    assert not (model / "fired").exists()
