"""Signatures are those of OpenSSF model signing: its own command takes ours, and we take its own, and are stricter.

The command runs in an environment of its own, which the first run installs beside this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import environments
import pki
import pytest
from corpus.archives import HANDLER, manifest

# 1.1.1 does not name pyOpenSSL among what it needs, and does not start without it.
PACKAGES = ("model-signing==1.1.1", "pyOpenSSL>=24")
TSGUARD = Path(sys.executable).parent / "tsguard"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
ALWAYS = {"begins": NOW - 30 * DAY, "ends": NOW + 30 * DAY}


@pytest.fixture(scope="session")
def model_signing() -> Path:
    """The command of the peer."""
    return environments.made("interop", PACKAGES).parent / "model_signing"


@pytest.fixture
def store(tmp_path) -> Path:
    """A model store of two archives, with a manifest, and a file that is none of TorchServe's."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name in ("one", "two"):
        with zipfile.ZipFile(folder / f"{name}.mar", "w") as file:
            file.writestr("handler.py", HANDLER + name.encode())
            file.writestr("MAR-INF/MANIFEST.json", manifest(modelName=name))
    (folder / "notes").mkdir()
    (folder / "notes" / "a.b").write_text("text")
    (folder / "notes.txt").write_text("text")
    tsguard("manifest", "create", folder)
    return folder


def run(*command: object, code: int = 0) -> str:
    # The first run of the peer keeps what it compiled for the others.
    told = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=told)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr or "tsguard" not in str(command[0])
    return done.stdout + done.stderr


def tsguard(*arguments: object, code: int = 0) -> str:
    return run(TSGUARD, *arguments, code=code)


def keys_in(folder: Path, kind: str) -> tuple[Path, Path]:
    private = pki.key(kind)
    return (
        pki.written(folder / "key.pem", pki.private_pem(private)),
        pki.written(folder / "key.pub", pki.public_pem(private)),
    )


@pytest.fixture
def signer(tmp_path):
    """Files of an authority, of one below it, and of a signer's certificate and key; the signer is as wanted."""
    root = pki.ROOT.but(**ALWAYS).by()
    middle = pki.MIDDLE.but(**ALWAYS).by(root)

    def files(**changes: object) -> dict[str, Path]:
        held = pki.SIGNER.but(**(ALWAYS | changes)).by(middle)
        pems = {"root": root.pem, "middle": middle.pem, "signer": held.pem, "key": pki.private_pem(held.key)}
        return {name: pki.written(tmp_path / f"{name}.pem", pem) for name, pem in pems.items()}

    return files


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_a_store_that_model_signing_signed_is_manifest_and_signature_in_one(kind, model_signing, store, tmp_path):
    key, public = keys_in(tmp_path, kind)
    bundle = store / "model.sig"
    run(model_signing, "sign", "key", store, "--private_key", key, "--signature", bundle)
    told = tsguard("manifest", "verify", store, "--manifest", bundle, "--trusted-key", public)
    assert "2 archives, all as listed" in told
    assert "signed by" in told
    (store / "one.mar").write_bytes((store / "two.mar").read_bytes())
    assert "one.mar" in tsguard("manifest", "verify", store, "--manifest", bundle, "--trusted-key", public, code=4)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_a_store_that_the_guard_signed_verifies_with_model_signing(kind, model_signing, store, tmp_path):
    key, public = keys_in(tmp_path, kind)
    bundle = store / "store.sigstore.json"
    tsguard("manifest", "sign", store, "--whole-store", "--key", key, "--output", bundle)
    verify = (model_signing, "verify", "key", store, "--public_key", public, "--signature", bundle)
    assert "succeeded" in run(*verify)
    tsguard("manifest", "verify", store, "--manifest", bundle, "--trusted-key", public)
    (store / "notes.txt").write_text("other")
    told = run(*verify, code=1)
    assert "Hash mismatch" in told
    assert "notes.txt" in told


def test_a_manifest_that_the_guard_signed_verifies_with_model_signing(model_signing, store, tmp_path):
    key, public = keys_in(tmp_path, "P-256")
    tsguard("manifest", "sign", store, "--key", key)
    (bundle,) = store.glob("*.sigstore.json")
    listed = store / "tsguard-manifest.json"
    verify = (model_signing, "verify", "key", listed, "--public_key", public, "--signature", bundle)
    assert "succeeded" in run(*verify)
    listed.write_bytes(listed.read_bytes() + b" ")
    run(*verify, code=1)
    assert "signs something else" in tsguard("manifest", "verify", store, "--trusted-key", public, code=4)


def test_a_manifest_that_model_signing_signed_counts(model_signing, store, tmp_path):
    key, public = keys_in(tmp_path, "P-384")
    listed = store / "tsguard-manifest.json"
    run(model_signing, "sign", "key", listed, "--private_key", key, "--signature", f"{listed}.sigstore.json")
    assert "signed by" in tsguard("manifest", "verify", store, "--trusted-key", public)


def sign_with_certificate(model_signing: Path, store: Path, files: dict[str, Path], bundle: Path) -> None:
    who = ("--private_key", files["key"], "--signing_certificate", files["signer"])
    chain = ("--certificate_chain", files["middle"], "--certificate_chain", files["root"])
    run(model_signing, "sign", "certificate", store, *who, *chain, "--signature", bundle)


def test_certificates_work_both_ways(model_signing, store, signer, tmp_path):
    files, bundle, ours = signer(), tmp_path / "model.sig", tmp_path / "ours.sig"
    sign_with_certificate(model_signing, store, files, bundle)
    told = tsguard("manifest", "verify", store, "--manifest", bundle, "--trusted-key", files["root"])
    assert "signed by CN=release@example.org" in told
    chain = ("--certificate-chain", files["middle"], "--certificate-chain", files["signer"])
    tsguard("manifest", "sign", store, "--whole-store", "--key", files["key"], *chain, "--output", ours)
    trusted = ("--certificate_chain", files["root"])
    assert "succeeded" in run(model_signing, "verify", "certificate", store, "--signature", ours, *trusted)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ends": NOW - DAY}, "not valid at"),
        ({"extended": (pki.SERVER,)}, "codeSigning"),
        ({"digital_signature": False}, "digitalSignature"),
    ],
    ids=["expired", "for servers", "without digitalSignature"],
)
def test_what_model_signing_lets_through_is_refused(changes, why, model_signing, store, signer, tmp_path):
    files, bundle = signer(**changes), tmp_path / "model.sig"
    sign_with_certificate(model_signing, store, files, bundle)
    trusted = ("--certificate_chain", files["root"])
    assert "succeeded" in run(model_signing, "verify", "certificate", store, "--signature", bundle, *trusted)
    told = tsguard("manifest", "verify", store, "--manifest", bundle, "--trusted-key", files["root"], code=4)
    assert why in told
    # Nor does the guard make such a signature itself.
    chain = ("--certificate-chain", files["middle"], "--certificate-chain", files["signer"])
    told = tsguard("manifest", "sign", store, "--key", files["key"], *chain, code=2)
    assert "would count nowhere" in told


def test_a_store_hashed_in_another_way_is_refused_with_a_word_about_it(model_signing, store, tmp_path):
    key, public = keys_in(tmp_path, "P-256")
    script = (
        "import sys, model_signing as m; from pathlib import Path\n"
        "h = m.hashing.Config().use_shard_serialization()\n"
        "c = m.signing.Config().use_elliptic_key_signer(private_key=Path(sys.argv[2])).set_hashing_config(h)\n"
        "c.sign(sys.argv[1], sys.argv[3])"
    )
    bundle = tmp_path / "shards.sig"
    run(model_signing.parent / "python", "-c", script, store, key, bundle)
    told = tsguard("manifest", "verify", store, "--manifest", bundle, "--trusted-key", public, code=2)
    assert "predicate.serialization.method" in told
