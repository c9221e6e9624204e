"""The archive's own manifest: what it names is inside, and the handler is the one that workers would import."""

from __future__ import annotations

import json
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from itertools import combinations
from pathlib import Path

import pytest
from corpus.archives import MANIFEST, manifest

from torchserve_guard import importing
from torchserve_guard.archives import mar
from torchserve_guard.errors import VerificationError

PATHS = {"handler.py", "pkg/__init__.py", "pkg/deep.py", "loose/deep.py", "os/path.py", "ts/x.py", "w.pt", "empty/"}


@pytest.mark.parametrize(
    ("handler", "member"),
    [
        ("handler.py", "handler.py"),
        ("handler", "handler.py"),
        ("handler:handle", "handler.py"),
        ("handler.py:handle", "handler.py"),
        ("pkg", "pkg/__init__.py"),
        ("pkg.deep:f", "pkg/deep.py"),
        ("loose.deep", "loose/deep.py"),
    ],
)
def test_a_handler_in_the_archive_is_found_where_the_worker_finds_it(handler, member):
    assert mar.resolved(handler, PATHS) == member
    mar.verify(manifest(handler=handler), PATHS, "m.mar")


@pytest.mark.parametrize(
    "handler",
    [
        "/tmp/handler.py",
        "../handler.py",
        "./handler.py",
        "pkg/deep.py",
        "os:system",
        "builtins:print",
        "os.path",
        "os/path.py",
        "ts.x",
        "absent.py",
        "handler.py:a.b",
        "handler.py:f:g",
        "handler.py:__import__('os')",
        "image_classifier:f",
        "ts.torch_handler.image_classifier",
        "",
        ":handle",
        "empty",
    ],
)
def test_a_handler_elsewhere_is_refused(handler):
    with pytest.raises(VerificationError, match=r"m.mar!MAR-INF/MANIFEST.json: `handler` is"):
        mar.verify(manifest(handler=handler), PATHS, "m.mar")


@pytest.mark.parametrize("handler", sorted(mar.HANDLERS))
def test_torchserves_own_handlers_are_known_by_their_names(handler):
    assert mar.resolved(handler, PATHS) is None
    mar.verify(manifest(handler=handler), PATHS, "m.mar")


def test_a_package_comes_before_a_module_of_its_name():
    assert mar.resolved("pkg", PATHS | {"pkg.py"}) == "pkg/__init__.py"


SUFFIXES = (*EXTENSION_SUFFIXES, ".py", ".pyc")
NAMED = [f"{stem}{suffix}" for stem in ("handler/__init__", "handler") for suffix in SUFFIXES]


@pytest.mark.parametrize("chosen", [*combinations(NAMED, 1), *combinations(NAMED, 2)], ids=" ".join)
def test_it_is_the_member_that_python_itself_takes(chosen, tmp_path):
    paths = {"handler/data.txt", *chosen}
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    spec = PathFinder.find_spec("handler", [str(tmp_path)])
    assert mar.resolved("handler.py", paths) == Path(spec.origin).relative_to(tmp_path).as_posix()


@pytest.mark.parametrize(
    "path",
    [
        "handler.so",
        "handler.abi3.so",
        "handler.cpython-312-x86_64-linux-gnu.so",
        "handler.cpython-313t-aarch64-linux-gnu.so",
        "handler/__init__.cpython-312-x86_64-linux-gnu.so",
        "handler/__init__.py",
        "handler/__init__.pyc",
    ],
)
def test_what_stands_before_the_source_of_a_handler_is_what_is_told(path):
    assert mar.resolved("handler:handle", {"handler.py", path}) == path
    assert mar.imported("handler.py", {"handler.py", path}) == path
    mar.verify(manifest(), {"handler.py", path}, "m.mar")


@pytest.mark.parametrize(
    "path", ["handler.pyc", "handler/x.so", "handler.so.1", "handlers.so", "x/handler.so", "handler"]
)
def test_what_stands_behind_the_source_of_a_handler_is_not(path):
    assert mar.resolved("handler", {"handler.py", path}) == "handler.py"


def test_a_handler_of_torchserves_is_looked_for_in_the_archive_first():
    assert mar.resolved("image_classifier", {"image_classifier.abi3.so"}) == "image_classifier.abi3.so"


@pytest.mark.parametrize("path", ["handler.abi3.so", "handler/__init__.pyc", "handler.pyc"])
def test_a_handler_without_any_source_is_refused(path):
    with pytest.raises(VerificationError, match=f"there is only `{path}`"):
        mar.verify(manifest(), {path}, "m.mar")


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("layer.py", "layer.py"),
        ("layer.v1.py", "layer.py"),
        ("net.txt", "net.so"),
        ("sub/layer.py", None),
        ("w.pt", None),
    ],
)
def test_a_model_file_is_imported_by_what_stands_before_its_first_dot(name, member):
    assert mar.imported(name, {"layer.py", "layer.v1.py", "net.txt", "net.so", "sub/layer.py", "w.pt"}) == member


@pytest.mark.parametrize("path", ["", ".so", ".py", ".pyc", "a/", "a.py/", "a/.py", "a.txt", "a.SO", "so", "a.soup"])
def test_what_is_no_module_by_its_name(path):
    assert importing.candidate(path) is None


@pytest.mark.parametrize("field", ["serializedFile", "modelFile", "requirementsFile", "configFile"])
@pytest.mark.parametrize(
    "value", ["../w.pt", "/w.pt", "./w.pt", "pkg/../w.pt", "W.pt", "w.pt\u0000", "", "empty/", "pkg"]
)
def test_a_file_that_is_no_member_by_exactly_this_path_is_refused(field, value):
    with pytest.raises(VerificationError, match=f"`{field}` is"):
        mar.verify(manifest(**{field: value}), PATHS, "m.mar")


def test_what_an_archive_says_of_itself_is_told():
    data = manifest(serializedFile="w.pt", configFile="c.yaml", envelope="json")
    told = mar.about(data, "m.mar")
    assert (told.name, told.version, told.runtime, told.handler) == ("m", "1.0", "python", "handler.py")
    assert (told.serialized_file, told.config_file, told.envelope) == ("w.pt", "c.yaml", "json")
    assert (told.model_file, told.requirements_file) == (None, None)


@pytest.mark.parametrize("runtime", ["LSP", "python2", "/bin/sh", "Python", None, 3])
def test_another_runtime_is_refused(runtime):
    data = json.dumps(json.loads(manifest()) | {"runtime": runtime}).encode()
    with pytest.raises(VerificationError, match="runtime"):
        mar.about(data, "m.mar")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model": null}',
        b'{"model": {"modelName": 1}}',
        b'{"model": {"modelName": "a", "modelName": "b"}}',
    ],
)
def test_a_manifest_without_a_model_is_refused(data):
    with pytest.raises(VerificationError, match=MANIFEST):
        mar.about(data, "m.mar")
