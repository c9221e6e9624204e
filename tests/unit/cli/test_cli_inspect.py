"""`tsguard inspect` and `tsguard manifest diff` show what an archive is, and neither run it nor obey it."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace

import pytest
from corpus.archives import GOOD, HANDLER_ENTRY, MANIFEST, Entry, archive, manifest

from torchserve_guard.cli import main

CONFIG = b"minWorkers: 2\nuseVenv: true\nhandler: {token: hf_secret}\n"
REQUIREMENTS = b"# none\n--index-url https://me:se@cret@host/simple\nnumpy\x1b[31m\x07\xe2\x80\xae\nforged.mar: mar\n"
FULL = (
    HANDLER_ENTRY,
    Entry("c.yaml", CONFIG),
    Entry("req.txt", REQUIREMENTS),
    Entry("w.pt", bytes(5000)),
    Entry("sitecustomize.py", b"open('ran', 'w')\n"),
    Entry(MANIFEST, manifest(configFile="c.yaml", requirementsFile="req.txt", serializedFile="w.pt")),
)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command line in an empty folder; return its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tsguard", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def made(tmp_path):
    def make(name: str, *entries: Entry):
        (tmp_path / name).write_bytes(archive(*entries))
        return tmp_path / name

    return make


def test_one_screen_tells_all_of_it(run, made):
    code, out, err = run("inspect", made("m.mar", *FULL))
    assert (code, err) == (0, "")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    for row in (
        "model m version 1.0, runtime python",
        "handler handler.py: the member handler.py",
        "weights w.pt",
        "config c.yaml: minWorkers=2, useVenv=True",
        "for the handler: handler",
        "--index-url https://***@host/simple",
        "findings: 2",
    ):
        assert row in rows
    assert any(row.startswith("high TSG102 m.mar!c.yaml:2: ") for row in rows)
    assert any(row.startswith("high TSG-SCAN-001 m.mar!sitecustomize.py: ") for row in rows)
    assert any(row.startswith("loaded nothing: ") for row in rows)
    assert len(rows) < 40


def test_the_document_tells_the_same_and_every_member(run, made):
    code, out, _ = run("inspect", made("m.mar", *FULL), "--json")
    told = json.loads(out)
    assert code == 0
    assert told["schema"] == "torchserve_guard/inspection/v1"
    assert (told["model"]["name"], told["handler"]["member"], told["kind"]) == ("m", "handler.py", "mar")
    assert told["config"]["settings"] == {"minWorkers": 2, "useVenv": True}
    assert told["code"] == ["handler.py", "sitecustomize.py"]
    assert {one["path"] for one in told["members"]} == {str(entry.name) for entry in FULL}
    assert {one["rule"] for one in told["findings"]} == {"TSG102", "TSG-SCAN-001"}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_secret_is_shown_no_terminal_steered_and_nothing_run_or_left(run, made, tmp_path, form):
    _, out, _ = run("inspect", made("m.mar", *FULL), *form)
    assert "secret" not in out
    assert "cret@" not in out
    assert {"\x1b", "\x07", "\u202e"}.isdisjoint(out)
    assert not any(line.startswith("forged") for line in out.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.mar"]


def test_a_directory_is_shown_as_its_archive_is(run, made, tmp_path):
    path = made("m.mar", *FULL)
    with zipfile.ZipFile(path) as packed:
        packed.extractall(tmp_path / "m")
    one, other = (json.loads(run("inspect", where, "--json")[1]) for where in (path, tmp_path / "m"))
    for document in (one, other):
        for key in ("name", "kind", "size", "sha256"):
            del document[key]
    assert one == other


def test_a_handler_of_torchserves_and_none_are_told(run, made):
    own = made("own.mar", replace(GOOD[1], data=manifest(handler="image_classifier")))
    assert "image_classifier: TorchServe's own, ts.torch_handler.image_classifier" in run("inspect", own)[1]
    none = made("none.mar", replace(GOOD[1], data=b'{"model": {"modelName": "n", "modelVersion": "1"}}'))
    assert "`default_service_handler`" in run("inspect", none)[1]


def test_what_is_imported_in_the_place_of_the_handler_and_of_the_model_file_is_told(run, made):
    named = Entry(MANIFEST, manifest(modelFile="layer.py"))
    native = (Entry("handler.abi3.so", b"\x7fELF"), Entry("layer.py"), Entry("layer/__init__.so", b"\x7fELF"))
    path = made("m.mar", HANDLER_ENTRY, *native, named)
    rows = [" ".join(line.split()) for line in run("inspect", path)[1].splitlines()]
    assert "handler handler.py: the member handler.abi3.so" in rows
    assert "model file layer.py, imported as the member layer/__init__.so" in rows
    assert sum(row.startswith("high TSG-SCAN-010 ") for row in rows) == 2
    told = json.loads(run("inspect", path, "--json")[1])
    assert (told["handler"]["member"], told["handler"]["built_in"]) == ("handler.abi3.so", None)
    assert (told["model_file"], told["model_file_imported"]) == ("layer.py", "layer/__init__.so")


def test_the_forms_that_the_handler_is_told_to_load_are_told(run, made):
    config = Entry("c.yaml", b"handler: {accepts: [state_dict, pickle], token: hf_secret}\n")
    path = made("m.mar", HANDLER_ENTRY, config, Entry(MANIFEST, manifest(configFile="c.yaml")))
    out = run("inspect", path)[1]
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "which may load: state_dict, pickle" in rows
    assert any(row.startswith("high TSG139 m.mar!c.yaml:1: ") for row in rows)
    told = json.loads(run("inspect", path, "--json")[1])
    assert told["config"]["accepts"] == ["state_dict", "pickle"]
    assert "secret" not in out + json.dumps(told)


def test_the_help_names_what_may_be_looked_at(run):
    code, out, _ = run("inspect", "--help")
    assert code == 0
    assert ".tar.gz" in out


def test_a_configuration_that_cannot_be_read_is_a_finding(run, made):
    path = made("m.mar", HANDLER_ENTRY, Entry("c.yaml", b"a: ["), Entry(MANIFEST, manifest(configFile="c.yaml")))
    code, out, _ = run("inspect", path)
    assert code == 0
    assert "c.yaml: cannot be read, see the findings" in out
    assert "TSG100" in out


def test_values_that_json_does_not_have_are_told_as_words(run, made):
    config = b"batchSize: .inf\nmaxWorkers: 2020-01-01\ntorchrun: {1: .nan, 2: [null, 1.5]}\n"
    path = made("m.mar", HANDLER_ENTRY, Entry("c.yaml", config), Entry(MANIFEST, manifest(configFile="c.yaml")))

    def refuse(name: str):
        raise AssertionError(name)

    told = json.loads(run("inspect", path, "--json")[1], parse_constant=refuse)
    assert told["config"]["settings"]["batchSize"] == "inf"


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("m.mar", b"no zip", 4),
        ("m.mar", archive(HANDLER_ENTRY), 4),
        ("m.mar", archive(HANDLER_ENTRY, Entry(MANIFEST, manifest(handler="os:system"))), 4),
        ("m.mar", archive(HANDLER_ENTRY, Entry(MANIFEST, manifest(modelName="../x"))), 4),
        ("m.txt", b"", 2),
    ],
)
def test_what_a_start_would_refuse_is_refused_with_the_reason(run, tmp_path, name, data, code):
    (tmp_path / name).write_bytes(data)
    found, out, err = run("inspect", tmp_path / name)
    assert (found, out) == (code, "")
    assert err.startswith("tsguard: ")


# --- the difference ---------------------------------------------------------------------------------------------

OLD = GOOD
NEW = (replace(HANDLER_ENTRY, data=b"import os\x1b[2J\n" + HANDLER_ENTRY.data), GOOD[1])


def test_two_archives_are_compared_member_by_member_and_line_by_line(run, made):
    old, new = made("old.mar", *OLD), made("new.mar", *NEW)
    code, out, _ = run("manifest", "diff", old, new)
    assert code == 0
    assert out.splitlines()[0].startswith("~ old.mar -> new.mar  ")
    assert "        +import os\\x1b[2J" in out.splitlines()
    assert MANIFEST not in out


def test_two_manifests_are_compared_with_their_archives(run, made, tmp_path):
    for folder, entries in (("one", OLD), ("two", NEW)):
        (tmp_path / folder).mkdir()
        made(f"{folder}/m.mar", *entries)
        assert run("manifest", "create", tmp_path / folder)[0] == 0
    manifests = [tmp_path / folder / "tsguard-manifest.json" for folder in ("one", "two")]
    assert "import os" not in run("manifest", "diff", *manifests)[1]
    code, out, _ = run("manifest", "diff", *manifests, "--archives", tmp_path / "one", tmp_path / "two")
    assert code == 0
    assert "        +import os\\x1b[2J" in out.splitlines()
    # INVARIANT: what is shown is what the manifests list, not what lies there.
    code, out, err = run("manifest", "diff", *manifests, "--archives", tmp_path / "two", tmp_path / "one")
    assert (code, out) == (4, "")
    assert err.count("is not what the manifest lists") >= 1


def test_the_exit_code_tells_a_difference_only_when_asked(run, made):
    old, new = made("old.mar", *OLD), made("new.mar", *NEW)
    assert run("manifest", "diff", old, new)[0] == 0
    assert run("manifest", "diff", old, new, "--exit-code")[0] == 1
    assert run("manifest", "diff", old, old, "--exit-code") == (0, "", "")


def test_an_archive_is_not_compared_with_a_manifest(run, made, tmp_path):
    (tmp_path / "m.json").write_text("{}")
    assert run("manifest", "diff", made("m.mar", *OLD), tmp_path / "m.json")[0] == 2
    assert run("manifest", "diff", tmp_path / "m.mar", tmp_path / "m.mar", "--archives", tmp_path, tmp_path)[0] == 2
