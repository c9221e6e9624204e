"""The archive's own manifest: what it names is inside, and the handler is the one that workers would import."""

from __future__ import annotations

import json

import pytest
from corpus.archives import MANIFEST, manifest

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
