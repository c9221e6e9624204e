"""`tsguard manifest sign`, and what verify, show and diff tell: keys, passphrases, certificates, what is missing."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pki
import pytest
import transparency
from corpus.archives import HANDLER, manifest

from torchserve_guard import archives
from torchserve_guard.archives.signing import bundle, statement
from torchserve_guard.cli import main

NOW = datetime.now(UTC)
ALWAYS = {"begins": NOW - timedelta(days=1), "ends": NOW + timedelta(days=1)}
KEY = pki.key()
SECRET = b"correct horse"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; return its exit code and both outputs."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tsguard", "manifest", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return command


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {"handler.py": HANDLER, **members}.items():
            file.writestr(name, data)
        file.writestr("MAR-INF/MANIFEST.json", manifest(modelName=path.stem))


@pytest.fixture
def store(tmp_path, run) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    archive(folder / "one.mar", weights=b"1")
    archive(folder / "two.mar", weights=b"2")
    assert run("create", folder)[0] == 0
    return folder


@pytest.fixture
def key(tmp_path) -> Path:
    return pki.written(tmp_path / "key.pem", pki.private_pem(KEY))


@pytest.fixture
def public(tmp_path) -> Path:
    return pki.written(tmp_path / "key.pub", pki.public_pem(KEY))


def bundles(store: Path) -> list[Path]:
    return sorted(store.glob("*.sigstore.json"))


def test_a_signature_is_beside_the_manifest_under_the_keys_name(run, store, key, public):
    assert run("sign", store, "--key", key)[0] == 0
    (made,) = bundles(store)
    assert made.name == f"tsguard-manifest.json.{hashlib.sha256(pki.public_pem(KEY)).hexdigest()[:12]}.sigstore.json"
    code, out, _ = run("verify", store, "--trusted-key", f"release={public}", "--signature-threshold", "release")
    assert code == 0
    assert f"signed by {public} (release), key {hashlib.sha256(public.read_bytes()).hexdigest()}" in out


def test_signing_again_replaces_ones_own_signature_and_no_other(run, store, key, tmp_path):
    other = pki.written(tmp_path / "other.pem", pki.private_pem(pki.key("Ed25519")))
    for one in (key, other, key):
        assert run("sign", store, "--key", one)[0] == 0
    assert len(bundles(store)) == 2


def test_an_encrypted_key_is_opened_by_the_passphrase_in_a_file(run, store, tmp_path, monkeypatch):
    locked = pki.written(tmp_path / "locked.pem", pki.private_pem(KEY, SECRET))
    right = pki.written(tmp_path / "right", SECRET + b"\r\nsecond line")
    wrong = pki.written(tmp_path / "wrong", b"battery staple")
    code, _, error = run("sign", store, "--key", locked)
    assert (code, "--passphrase-file" in error) == (2, True)
    code, _, error = run("sign", store, "--key", locked, "--passphrase-file", wrong)
    assert (code, "passphrase is wrong" in error) == (2, True)
    assert "battery" not in error
    assert run("sign", store, "--key", locked, "--passphrase-file", right)[0] == 0
    monkeypatch.setenv("TSGUARD_KEY_PASSPHRASE_FILE", str(right))
    assert run("sign", store, "--key", locked)[0] == 0


def test_a_signature_by_an_identity_is_verified_and_shown(run, store, tmp_path):
    begun = datetime.now(UTC) - timedelta(minutes=5)
    lasting = transparency.LASTING.but(begins=begun - timedelta(days=1), ends=begun + timedelta(days=1))
    world = transparency.World(lasting)
    root = pki.written(
        tmp_path / "root.json",
        world.trusted(**dict.fromkeys(("tlogs", "ctlogs", "authorities"), (lasting.begins, None))),
    )
    manifest = store / "tsguard-manifest.json"
    stated = statement.render(statement.of_file(manifest.name, manifest.read_bytes()))
    made = world.bundle(stated, transparency.Said(begins=begun), at=begun + timedelta(minutes=1))
    (store / "tsguard-manifest.json.alice.sigstore.json").write_text(json.dumps(made))
    who = f"{transparency.NAME} {transparency.ISSUER}"
    code, out, _ = run("verify", store, "--trusted-identity", f"release={who}", "--sigstore-root", root)
    assert code == 0
    assert f"signed by `{transparency.NAME}` of {transparency.ISSUER} (release)\n" in out
    assert f"by `{transparency.NAME}` of {transparency.ISSUER}, not verified here" in run("show", store)[1]
    code, _, error = run("verify", store, "--trusted-identity", f"x{who}", "--sigstore-root", root)
    assert (code, "who is not trusted" in error) == (4, True)
    for half in (["--trusted-identity", who], ["--sigstore-root", root]):
        code, _, error = run("verify", store, *half)
        assert (code, "give both" in error) == (2, True)


def test_a_certificate_that_cannot_be_read_is_told_and_the_rest_is_shown(run, store, tmp_path):
    stated = statement.render(statement.of_files("store", [("one.mar", "0" * 64)]))
    made = bundle.render(bundle.Bundle(stated, b"signature", certificates=(b"no certificate",)))
    path = pki.written(tmp_path / "store.sigstore.json", made)
    code, out, _ = run("show", store, "--manifest", path)
    assert (code, "one.mar" in out) == (0, True)
    assert "signature in it: a certificate cannot be read" in out


def test_a_passphrase_for_a_key_that_has_none_is_a_complaint(run, store, key, tmp_path):
    needless = pki.written(tmp_path / "p", SECRET)
    code, _, error = run("sign", store, "--key", key, "--passphrase-file", needless)
    assert (code, "not encrypted" in error) == (2, True)


def test_a_key_that_others_may_read_is_told(run, store, key):
    assert run("sign", store, "--key", key)[2] == ""
    key.chmod(0o644)
    code, _, error = run("sign", store, "--key", key)
    assert (code, "chmod 600" in error) == (0, True)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 50, b"-----BEGIN PRIVATE KEY-----\nAAAA\n", pki.public_pem(KEY), b"x" * 70000]
)
def test_what_is_no_private_key_is_a_complaint_that_quotes_nothing(data, run, store, tmp_path):
    code, _, error = run("sign", store, "--key", pki.written(tmp_path / "k", data))
    assert code == 2
    assert error.count("\n") == 1
    assert "AAAA" not in error


def test_keyless_signing_is_refused_with_a_word_about_it(run, store):
    code, _, error = run("sign", store, "--keyless")
    assert (code, "Sigstore" in error) == (2, True)
    code, _, error = run("sign", store)
    assert (code, "--key" in error) == (2, True)
    assert bundles(store) == []


def test_what_is_no_manifest_or_has_expired_is_not_signed(run, store, key):
    path = store / "tsguard-manifest.json"
    past = archives.load_manifest(path, None).model_copy(
        update={"expires": NOW.replace(microsecond=0) - timedelta(days=1)}
    )
    path.write_bytes(archives.render_manifest(past))
    code, _, error = run("sign", store, "--key", key)
    assert (code, "expired" in error) == (4, True)
    (store / "tsguard-manifest.json").write_text("{}")
    assert run("sign", store, "--key", key)[0] == 2
    (store / "tsguard-manifest.json").unlink()
    assert run("sign", store, "--key", key)[0] == 2
    assert bundles(store) == []


def test_a_certificate_goes_into_the_bundle_with_those_above_it(run, store, tmp_path):
    root = pki.ROOT.but(**ALWAYS).by()
    middle = pki.MIDDLE.but(**ALWAYS).by(root)
    held = pki.SIGNER.but(**ALWAYS).by(middle)
    files = {
        name: pki.written(tmp_path / name, data)
        for name, data in {"key": pki.private_pem(held.key), "chain": middle.pem + held.pem, "root": root.pem}.items()
    }
    assert run("sign", store, "--key", files["key"], "--certificate-chain", files["chain"])[0] == 0
    (made,) = bundles(store)
    assert bundle.parse(made.read_bytes()).certificates == (held.der, middle.der)
    code, out, _ = run("verify", store, "--trusted-key", files["root"])
    assert (code, "signed by CN=release@example.org" in out) == (0, True)
    assert "CN=release@example.org`, not verified here" in run("show", store)[1]


def test_a_certificate_of_another_key_is_a_complaint(run, store, key, tmp_path):
    held = pki.SIGNER.but(**ALWAYS).by(pki.ROOT.but(**ALWAYS).by())
    code, _, error = run("sign", store, "--key", key, "--certificate-chain", pki.written(tmp_path / "c", held.pem))
    assert (code, "0 are for this key" in error) == (2, True)


def test_a_whole_store_is_signed_without_the_signatures_in_it(run, store, key, public):
    run("sign", store, "--key", key)
    assert run("sign", store, "--whole-store", "--key", key)[0] == 0
    (made,) = store.glob("tsguard-store.*")
    code, out, _ = run("verify", store, "--manifest", made, "--trusted-key", public)
    assert (code, "2 archives, all as listed" in out) == (0, True)
    code, _, error = run("sign", store / "one.mar", "--whole-store", "--key", key)
    assert (code, "not a folder" in error) == (2, True)


def test_verify_names_what_is_missing_extra_changed_and_resized_and_what_in_it(run, store):
    archive(store / "three.mar")
    archive(store / "two.mar", weights=b"3")
    archive(store / "one.mar", weights=b"1", sitecustomize=b"import os")
    code, _, error = run("verify", store)
    assert code == 4
    assert "three.mar: is not listed" in error
    assert "`two.mar`: it was changed: expected sha256" in error
    assert "in it `weights` is" in error
    assert "`one.mar`: it was changed and resized: expected sha256" in error
    assert "`sitecustomize` is not listed" in error
    (store / "two.mar").unlink()
    assert "two.mar: is missing" in run("verify", store)[2]


def test_verify_without_trusted_keys_says_nothing_of_signatures(run, store, key):
    assert run("verify", store)[2] == ""
    run("sign", store, "--key", key)
    assert "signed by" not in run("verify", store)[1]


def test_verify_without_trusted_keys_says_that_it_looked_at_no_signature(run, store, key, public):
    path = store / "tsguard-manifest.json"
    (store / f"{path.name}.bak").write_text("no signature")
    (store / "other.json.x.sigstore.json").write_text("another's")
    assert run("verify", store)[2] == ""
    run("sign", store, "--key", key)
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    code, out, error = run("verify", store)
    assert (code, "all as listed" in out) == (0, True)
    assert error.startswith(f"tsguard: {path}: its signatures were not looked at; ")
    assert "--trusted-key" in error
    assert run("verify", store, "--trusted-key", public)[0] == 4
    # A signed store is its own manifest, and the signature is in it.
    run("sign", store, "--whole-store", "--key", key, "--output", store / "store.sig")
    assert "were not looked at" in run("verify", store, "--manifest", store / "store.sig")[2]
    assert run("verify", store, "--manifest", store / "store.sig", "--trusted-key", public)[2] == ""


@pytest.mark.parametrize("threshold", ["2", "security", "x y"])
def test_a_threshold_that_is_not_met_or_not_read_fails(threshold, run, store, key, public):
    run("sign", store, "--key", key)
    code = run("verify", store, "--trusted-key", f"release={public}", "--signature-threshold", threshold)[0]
    assert code == (4 if threshold == "2" else 2)


def test_show_tells_the_signatures_and_which_are_over_this_manifest(run, store, key):
    run("sign", store, "--key", key)
    assert f"by the key {hashlib.sha256(pki.public_pem(KEY)).hexdigest()}, not verified here" in run("show", store)[1]
    run("create", store)
    assert "signs something else" in run("show", store)[1]


def test_diff_tells_archives_and_members(run, store, tmp_path):
    old = tmp_path / "old.json"
    old.write_bytes((store / "tsguard-manifest.json").read_bytes())
    (store / "one.mar").unlink()
    archive(store / "two.mar", weights=b"3", more=b"x")
    archive(store / "three.mar")
    run("create", store)
    code, out, _ = run("diff", old, store / "tsguard-manifest.json")
    assert code == 0
    assert "version 1 -> 2" in out
    assert [line.split("  ")[0] for line in out.splitlines() if line[0] in "+-~"] == [
        "- one.mar",
        "+ three.mar",
        "~ two.mar",
    ]
    assert "    + more  1 bytes" in out


# --- the manifest, and what names it ----------------------------------------------------------------------------


def test_the_manifest_may_be_named_wherever_its_folder_may(run, store, key):
    path = store / "tsguard-manifest.json"
    assert run("sign", path, "--key", key)[0] == 0
    for command in (["verify"], ["show"], ["show", "--json"], ["show", "--members"]):
        assert run(*command, path) == run(*command, store)
    assert run("create", path)[1] == run("create", store)[1].replace("version 3", "version 2")
    assert run("diff", store, path) == run("diff", path, store) == run("diff", path, path)
    other = path.rename(store / "other.json")
    assert run("verify", other)[0] == 0
    code, _, error = run("verify", other, "--manifest", other)
    assert (code, "name the folder" in error) == (2, True)


def test_an_archive_is_not_overwritten_by_a_manifest(run, store):
    before = (store / "one.mar").read_bytes()
    assert run("create", store / "one.mar")[0] == 2
    assert (store / "one.mar").read_bytes() == before


def test_an_expiry_that_the_next_version_drops_is_told(run, store):
    assert run("create", store, "--expires-days", "90")[2] == ""
    expires = archives.load_manifest(store / "tsguard-manifest.json", None).expires
    code, _, error = run("create", store)
    assert code == 0
    assert error.startswith("tsguard: ")
    assert expires.isoformat() in error
    assert "--expires-days" in error
    assert run("create", store)[2] == run("create", store, "--expires-days", "90")[2] == ""
    assert run("create", store, "--expires-days", "30")[2] == ""


@pytest.mark.parametrize("days", ["0", "0.0", "0.000001"])
def test_a_manifest_that_has_expired_when_it_is_written_is_not_written(days, run, store):
    before = (store / "tsguard-manifest.json").read_bytes()
    code, _, error = run("create", store, "--expires-days", days)
    assert (code, "--expires-days" in error) == (2, True)
    assert (store / "tsguard-manifest.json").read_bytes() == before


def test_sums_are_shown_as_what_they_are(run, store, tmp_path):
    listed = archives.load_manifest(store / "tsguard-manifest.json", None)
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("".join(f"{one.sha256}  {one.name}\n" for one in listed.subjects))
    code, out, _ = run("show", sums, "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["schema"], told["version"], told["created"], told["expires"]) == ("sha256sums", 0, None, None)
    assert [(one["name"], one["sha256"]) for one in told["subjects"]] == [
        (one.name, one.sha256) for one in listed.subjects
    ]
    out = run("show", sums)[1]
    assert out.splitlines()[0] == "sha256sums, which has no version, no time of creation and no expiry"
    assert "None" not in out
    assert run("show", store, "--json")[1].encode() == (store / "tsguard-manifest.json").read_bytes()
