"""Archives whose source never runs, since Python takes something else for it: stock serves them, the guard does not."""

from __future__ import annotations

import importlib.util
import json
import marshal
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import servers
from corpus.archives import MANIFEST, Entry, archive, manifest

pytestmark = pytest.mark.e2e

SOURCE = b'def handle(data, context):\n    return ["source"] * len(data or ())\n'
OTHER = SOURCE.replace(b"source", b"other")
CACHED = f"__pycache__/handler.{sys.implementation.cache_tag}.pyc"
EXPECTED = {
    "hashed": ("TSG-SCAN-005", CACHED),
    "native": ("TSG-SCAN-010", "handler.abi3.so"),
    "own": ("TSG-SCAN-010", "image_classifier/__init__.pyc"),
    "package": ("TSG-SCAN-010", "handler/__init__.pyc"),
}
# All that a module of C needs, without Python's headers; the handler is made where it is initialized.
NATIVE = """
static struct {
    long references; void *type, *init; long index; void *copy;
    const char *name, *text; long size; void *methods, *slots, *traverse, *clear, *free;
} definition = {.references = 1, .name = "handler", .size = -1};
void *PyModule_Create2(void *definition, int version);
void *PyModule_GetDict(void *module);
void *PyImport_ImportModule(const char *name);
int PyDict_SetItemString(void *dict, const char *key, void *value);
void *PyRun_String(const char *text, int start, void *globals, void *locals);
void *PyInit_handler(void) {
    void *module = PyModule_Create2(&definition, 1013), *names = PyModule_GetDict(module);
    PyDict_SetItemString(names, "__builtins__", PyImport_ImportModule("builtins"));
    return PyRun_String(%s, 257, names, names) ? module : 0;
}
"""


def compiled(source: bytes, hashed: bytes | None = None) -> bytes:
    """Return compiled code with a time stamp of nothing, or with the checked hash of another source (PEP 552)."""
    flags, rest = (0, bytes(8)) if hashed is None else (0b11, importlib.util.source_hash(hashed))
    return (
        importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + rest + marshal.dumps(compile(source, "x", "exec"))
    )


def native(source: bytes, folder: Path) -> bytes:
    """Return native code that makes a handler of the source."""
    (folder / "handler.c").write_text(NATIVE % json.dumps(source.decode()))
    command = ["cc", "-shared", "-fPIC", "-o", "handler.so", "handler.c"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "handler.so").read_bytes()


@pytest.fixture
def store(place):
    """A listed store of such archives, each of a handler that says `source`, and what would run, that says `other`."""
    folder = place / "store"
    folder.mkdir()
    made = {
        "package": ("handler.py", {"handler/__init__.pyc": compiled(OTHER)}),
        "hashed": ("handler.py", {CACHED: compiled(OTHER, SOURCE)}),
        "own": ("image_classifier", {"image_classifier/__init__.pyc": compiled(OTHER)}),
    }
    if shutil.which("cc") is not None:
        made["native"] = ("handler.py", {"handler.abi3.so": native(OTHER, place)})
    for name, (handler, members) in made.items():
        told = Entry(MANIFEST, manifest(modelName=name, handler=handler))
        files = [Entry(path, data) for path, data in ({"handler.py": SOURCE} | members).items()]
        (folder / f"{name}.mar").write_bytes(archive(*files, told))
    servers.manifest(folder)
    return folder


def test_what_stock_runs_in_the_place_of_the_source_a_check_and_a_start_refuse(store, place, guard):
    names = sorted(path.stem for path in store.glob("*.mar"))
    stock = servers.Stock(place / "stock", store, {"load_models": ",".join(f"{name}.mar" for name in names)})
    with servers.serving(stock, tuple(names)):
        answers = {name: stock.ask("POST", f"/predictions/{name}", b"x").body for name in names}
        assert answers == dict.fromkeys(names, b"other")
    for name in names:
        server = guard(store, {"load_models": f"{name}.mar"})
        done = server.run("check", "--config", str(server.config), "--format", "json")
        assert done.returncode == 3, done.stdout + done.stderr
        found = [
            (one["rule"], one["member"]) for one in json.loads(done.stdout)["findings"] if one["severity"] == "high"
        ]
        assert EXPECTED[name] in found
    server.launch()
    assert server.wait(60) == 3
    assert EXPECTED[name][0] in server.output()
