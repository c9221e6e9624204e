"""Certificates load, match and have not expired, or it is said which file, why, and what to do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import authority
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from torchserve_guard.errors import ConfigError
from torchserve_guard.findings import Severity
from torchserve_guard.settings import Flags, Surroundings, keystore, load
from torchserve_guard.settings.certificate_rules import check
from torchserve_guard.settings.certificates import Sources, Tls, Unusable, read

NOW = datetime.now(UTC)
ROOT = authority.root()
PASSWORD = "changeit"
KEYTOOL = shutil.which("keytool")
needs_keytool = pytest.mark.skipif(KEYTOOL is None, reason="there is no keytool on this machine")


def pair(folder: Path, issued: authority.Issued, **more) -> Tls:
    certificate, key = issued.written(folder)
    return read(Sources(certificate, key, **more))


def rules(tls: Tls, now: datetime = NOW) -> dict[str, Severity]:
    return {finding.rule: finding.severity for finding in check(tls, now)}


def why(sources: Sources) -> str:
    with pytest.raises(Unusable) as refused:
        read(sources)
    return str(refused.value)


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_a_pair_is_read_and_a_sound_one_has_no_findings(tmp_path):
    issued = ROOT.issue(dns=["serve.example"], addresses=["127.0.0.1"])
    tls = pair(tmp_path, issued)
    assert x509.load_pem_x509_certificates(tls.certificate) == [issued.certificate]
    assert tls.names == ("serve.example", "127.0.0.1")
    assert tls.fingerprint == issued.fingerprint
    assert tls.not_after == issued.certificate.not_valid_after_utc
    assert tls.client_ca is None
    assert check(tls, NOW) == ()


def test_neither_key_nor_password_are_shown(tmp_path):
    certificate, key = ROOT.issue().written(tmp_path)
    tls = read(Sources(certificate, key, password="hunter2"))
    assert "PRIVATE" not in repr(tls)
    assert "hunter2" not in repr(tls)


FORMS = {
    "PKCS#8": (serialization.PrivateFormat.PKCS8, "PRIVATE KEY"),
    "PKCS#1": (serialization.PrivateFormat.TraditionalOpenSSL, "RSA PRIVATE KEY"),
}


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_of_key_that_torchserve_takes_are_read(tmp_path, form):
    issued = ROOT.issue(key=authority.rsa_key())
    certificate, key = issued.written(tmp_path)
    kind, label = FORMS[form]
    key.write_bytes(issued.private.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))
    assert f"BEGIN {label}-" in key.read_text()
    assert read(Sources(certificate, key)).key == issued.key


def test_a_certificate_in_der_is_read_as_java_reads_it(tmp_path):
    issued = ROOT.issue()
    certificate, key = issued.written(tmp_path)
    certificate.write_bytes(issued.certificate.public_bytes(serialization.Encoding.DER))
    assert read(Sources(certificate, key)).certificate == issued.pem


def test_a_key_of_another_certificate_is_named_as_such(tmp_path):
    certificate, _ = ROOT.issue().written(tmp_path, "one")
    _, key = ROOT.issue().written(tmp_path, "other")
    said = why(Sources(certificate, key))
    assert said.startswith("private_key_file")
    assert str(certificate) in said
    assert str(key) in said


def test_an_encrypted_key_is_refused_with_a_way_out(tmp_path):
    issued = ROOT.issue()
    certificate, key = issued.written(tmp_path)
    for kind in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        locked = serialization.BestAvailableEncryption(b"x")
        key.write_bytes(issued.private.private_bytes(serialization.Encoding.PEM, kind, locked))
        assert "openssl pkey" in why(Sources(certificate, key))


def pem(private) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


BAD_KEYS = {
    "empty": lambda _: b"",
    "text": lambda _: b"no key at all\n",
    "two": lambda issued: issued.key + issued.key,
    "torn": lambda issued: issued.key[:-60] + b"\n-----END PRIVATE KEY-----\n",
    "public": lambda issued: issued.pem,
    "dsa": lambda _: pem(dsa.generate_private_key(2048)),
}


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_what_is_no_usable_key_is_refused_by_name(tmp_path, bad):
    issued = ROOT.issue()
    certificate, key = issued.written(tmp_path)
    key.write_bytes(BAD_KEYS[bad](issued))
    said = why(Sources(certificate, key))
    assert said.startswith(f"private_key_file `{key}`")
    assert "MI" not in said


def test_a_modern_key_is_as_good(tmp_path):
    private = ed25519.Ed25519PrivateKey.generate()
    assert check(pair(tmp_path, ROOT.issue(key=private)), NOW) == ()


def bad_files(tmp_path: Path) -> dict[str, Path]:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "empty").touch()
    return {name: tmp_path / name for name in ("pipe", "folder", "large", "binary", "empty", "missing")}


def test_whatever_a_path_leads_to_it_is_told_and_not_waited_for(tmp_path):
    certificate, key = ROOT.issue().written(tmp_path)
    for path in bad_files(tmp_path).values():
        assert f"certificate_file `{path}`" in why(Sources(path, key))
        assert f"private_key_file `{path}`" in why(Sources(certificate, path))
        assert f"keystore `{path}`" in why(Sources(keystore=path))
        assert f"guard.client_ca `{path}`" in why(Sources(certificate, key, client_ca=path))


# --- chains ---------------------------------------------------------------------------------------------------------


def test_a_chain_in_disorder_is_put_in_order_and_told(tmp_path):
    middle = ROOT.issue("Middle", authority=True)
    issued = middle.issue()
    certificate, key = issued.written(tmp_path)
    certificate.write_bytes(middle.pem + issued.pem)
    tls = read(Sources(certificate, key))
    assert tls.certificate == issued.chain
    assert rules(tls) == {"TSG067": Severity.MEDIUM}
    certificate.write_bytes(issued.chain)
    assert rules(read(Sources(certificate, key))) == {}


def test_a_certificate_that_is_not_part_of_the_chain_is_left_out_and_told(tmp_path):
    issued = ROOT.issue()
    certificate, key = issued.written(tmp_path)
    certificate.write_bytes(issued.pem + ROOT.issue("other").pem)
    tls = read(Sources(certificate, key))
    assert tls.certificate == issued.pem
    assert rules(tls) == {"TSG067": Severity.MEDIUM}


def test_a_chain_that_lacks_an_intermediate_is_told_when_the_certificate_says_where_it_is(tmp_path):
    issued = ROOT.issue(where="http://ca.example/middle.der")
    assert rules(pair(tmp_path, issued)) == {"TSG067": Severity.MEDIUM}


def test_two_roots_that_signed_each_other_do_not_turn_in_a_circle(tmp_path):
    one, other = authority.root("One"), authority.root("Other")
    crossed = [
        authority.issue("One", issuer=other, authority=True, key=one.private),
        authority.issue("Other", issuer=one, authority=True, key=other.private),
    ]
    issued = one.issue()
    certificate, key = issued.written(tmp_path)
    certificate.write_bytes(issued.pem + b"".join(each.pem for each in crossed))
    assert len(x509.load_pem_x509_certificates(read(Sources(certificate, key)).certificate)) == 3


# --- what is unwise -------------------------------------------------------------------------------------------------


def dated(tmp_path: Path, after: timedelta) -> dict[str, Severity]:
    issued = ROOT.issue(days=60, now=NOW)
    return rules(pair(tmp_path, issued), issued.certificate.not_valid_after_utc + after)


def test_the_end_of_a_certificate_is_told_before_it_comes(tmp_path):
    assert dated(tmp_path, -timedelta(days=31)) == {}
    assert dated(tmp_path, -timedelta(days=29)) == {"TSG061": Severity.MEDIUM}
    assert dated(tmp_path, timedelta(seconds=1)) == {"TSG060": Severity.CRITICAL}


def test_a_certificate_of_the_future_is_as_bad_as_one_of_the_past(tmp_path):
    assert rules(pair(tmp_path, ROOT.issue(since=1))) == {"TSG060": Severity.CRITICAL}


UNWISE = {
    "TSG062": (lambda: authority.issue("server"), Severity.LOW),
    "TSG063": (lambda: ROOT.issue(key=authority.rsa_key(1024)), Severity.HIGH),
    "TSG064": (lambda: ROOT.issue(dns=[], addresses=[]), Severity.MEDIUM),
    "TSG066": (lambda: ROOT.issue(usage=authority.CLIENT), Severity.HIGH),
}


@pytest.mark.parametrize("rule", UNWISE)
def test_what_clients_refuse_or_should_is_told(tmp_path, rule):
    make, severity = UNWISE[rule]
    assert rules(pair(tmp_path, make())) == {rule: severity}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the command openssl is not here")
def test_a_forgeable_signature_is_told_unless_it_is_a_roots_own(tmp_path):
    signer = authority.root()
    certificate, key = signer.issue().written(tmp_path)
    root, root_key = signer.written(tmp_path, "root")
    made = f"req -x509 -sha1 -key {key} -out {certificate} -subj /CN=serve -days 90 -addext subjectAltName=DNS:serve"
    for issuer, told in (("", {"TSG062": Severity.LOW}), (f"-CA {root} -CAkey {root_key}", {"TSG063": Severity.HIGH})):
        subprocess.run(["openssl", *made.split(), *issuer.split()], check=True, capture_output=True)
        assert rules(read(Sources(certificate, key)), datetime.now(UTC)) == told


def test_a_certificate_without_a_purpose_is_for_servers_too(tmp_path):
    assert rules(pair(tmp_path, ROOT.issue(usage=None))) == {}


@pytest.fixture
def open_folder():
    """A folder that everyone may look into, as /etc/ssl is."""
    path = Path(tempfile.mkdtemp(prefix="tsg-o-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_a_private_key_that_everyone_may_read_is_told(open_folder):
    certificate, key = ROOT.issue().written(open_folder)
    for mode, told in (
        (0o600, {}),
        (0o640, {}),
        (0o644, {"TSG065": Severity.HIGH}),
        (0o602, {"TSG065": Severity.HIGH}),
    ):
        key.chmod(mode)
        assert rules(read(Sources(certificate, key))) == told
    open_folder.chmod(0o700)
    assert rules(read(Sources(certificate, key))) == {}


def test_authorities_that_everyone_may_change_are_told(open_folder):
    certificate, key = ROOT.issue().written(open_folder)
    (open_folder / "ca.pem").write_bytes(ROOT.pem)
    (open_folder / "ca.pem").chmod(0o666)
    assert rules(read(Sources(certificate, key, client_ca=open_folder / "ca.pem"))) == {"TSG065": Severity.HIGH}


# --- authorities of clients -----------------------------------------------------------------------------------------


def with_authorities(folder: Path, held: bytes) -> Tls:
    path = folder / "ca.pem"
    path.write_bytes(held)
    return pair(folder, ROOT.issue(), client_ca=path)


def test_the_authorities_of_clients_are_read(tmp_path):
    tls = with_authorities(tmp_path, ROOT.pem + authority.root("Second").pem)
    assert tls.client_ca is not None
    assert len(x509.load_pem_x509_certificates(tls.client_ca)) == 2
    assert rules(tls) == {}


def test_authorities_that_let_nobody_in_are_told(tmp_path):
    assert rules(with_authorities(tmp_path, ROOT.issue(usage=authority.CLIENT).pem)) == {"TSG068": Severity.HIGH}
    assert rules(with_authorities(tmp_path, authority.root(since=-9, days=-1).pem)) == {"TSG068": Severity.HIGH}


def test_what_nobody_would_read_beside_the_authorities_is_refused(tmp_path):
    revoked = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ROOT.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=1))
        .sign(ROOT.private, hashes.SHA256())
    )
    for extra, named in ((revoked.public_bytes(serialization.Encoding.PEM), "X509 CRL"), (ROOT.key, "PRIVATE KEY")):
        with pytest.raises(Unusable, match=named):
            with_authorities(tmp_path, ROOT.pem + extra)


# --- key stores -----------------------------------------------------------------------------------------------------


def keytool(*arguments: str) -> None:
    subprocess.run([str(KEYTOOL), *arguments], check=True, capture_output=True)


def genkeypair(path: Path, kind: str, *more: str, alias: str = "ts", algorithm: str = "RSA") -> None:
    """Make a key as TorchServe's documentation has it made."""
    secrets = ("-storepass", PASSWORD, "-keypass", PASSWORD, "-storetype", kind)
    subject = ("-dname", "CN=serve.example, OU=Cloud Service, O=model server, C=US", "-validity", "90")
    store = ("-alias", alias, "-keystore", str(path), *secrets)
    keytool(*more, "-genkeypair", "-keyalg", algorithm, *store, *subject, "-ext", "san=dns:serve.example")


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    """A store of each kind; Java takes a second for each, so they are made once."""
    folder = tmp_path_factory.mktemp("stores")
    made = {kind: folder / kind for kind in ("PKCS12", "JKS", "JCEKS", "old PKCS12", "JKS of EC")}
    for kind, path in made.items():
        legacy = ("-J-Dkeystore.pkcs12.legacy",) if kind.startswith("old") else ()
        genkeypair(path, kind.removeprefix("old ").split()[0], *legacy, algorithm="EC" if "EC" in kind else "RSA")
    return made


@pytest.fixture
def jks(stores, tmp_path) -> Path:
    """A JKS store of the test's own."""
    return Path(shutil.copy(stores["JKS"], tmp_path / "store"))


@needs_keytool
@pytest.mark.parametrize("kind", ["PKCS12", "JKS", "old PKCS12", "JKS of EC"])
def test_a_store_that_keytool_made_is_read(stores, kind):
    tls = read(Sources(keystore=stores[kind], password=PASSWORD))
    assert tls.names == ("serve.example",)
    assert rules(tls, datetime.now(UTC)).items() >= {"TSG062": Severity.LOW}.items()
    key = serialization.load_pem_private_key(tls.key, None)
    assert key.public_key() == x509.load_pem_x509_certificate(tls.certificate).public_key()


@needs_keytool
@pytest.mark.parametrize("kind", ["PKCS12", "JKS"])
def test_a_wrong_password_is_called_that(stores, kind):
    said = why(Sources(keystore=stores[kind], password="guessed"))
    assert f"keystore `{stores[kind]}`" in said
    assert "password" in said
    assert "guessed" not in said


@needs_keytool
def test_a_key_with_a_password_of_its_own_is_refused(jks):
    change = ("-alias", "ts", "-keystore", str(jks), "-storepass", PASSWORD, "-keypass", PASSWORD, "-new", "another")
    keytool("-keypasswd", *change)
    assert "another password than the store" in why(Sources(keystore=jks))


@needs_keytool
def test_a_store_that_is_not_read_here_says_how_to_convert_it(stores):
    assert "keytool -importkeystore" in why(Sources(keystore=stores["JCEKS"]))


@needs_keytool
def test_two_keys_in_a_jks_store_are_ambiguous(jks):
    genkeypair(jks, "JKS", alias="second")
    assert "2 private keys (second, ts)" in why(Sources(keystore=jks))


@needs_keytool
@pytest.mark.parametrize("kind", ["PKCS12", "JKS"])
def test_a_store_of_trusted_certificates_only_is_refused(tmp_path, kind):
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    store = ("-keystore", str(tmp_path / "store"), "-storepass", PASSWORD, "-storetype", kind)
    keytool("-importcert", "-noprompt", "-file", str(tmp_path / "root.pem"), *store)
    assert "private key" in why(Sources(keystore=tmp_path / "store"))


@needs_keytool
def test_a_trusted_certificate_beside_the_key_does_no_harm(jks, tmp_path):
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    trusted = ("-file", str(tmp_path / "root.pem"), "-alias", "root", "-keystore", str(jks), "-storepass", PASSWORD)
    keytool("-importcert", "-noprompt", *trusted)
    assert read(Sources(keystore=jks)).names == ("serve.example",)


@needs_keytool
def test_a_damaged_store_is_an_error_wherever_the_damage_is(stores):
    whole = stores["JKS"].read_bytes()
    for place in range(0, len(whole), 7):
        damaged = whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :]
        for bad in (damaged, whole[:place]):
            with pytest.raises(ValueError, match="cannot be opened"):
                keystore.parse(bad, PASSWORD)


def sealed(body: bytes) -> bytes:
    """A body with the digest of somebody who knows the password: what the reader of entries meets."""
    body = keystore.JKS + body
    return body + hashlib.sha1(PASSWORD.encode("utf-16-be") + keystore.WHITENER + body).digest()  # noqa: S324 - the format's


@given(st.binary(max_size=200), st.integers(1, 2), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_reader_of_entries_do_anything_but_refuse(noise, version, entries):
    head = version.to_bytes(4, "big") + entries.to_bytes(4, "big")
    for body in (noise, head + noise):
        with pytest.raises(ValueError, match=r"."):
            keystore.parse(sealed(body), PASSWORD)


def test_a_number_of_entries_that_cannot_be_is_refused_at_once():
    with pytest.raises(ValueError, match="cut off"):
        keystore.parse(sealed(b"\x00\x00\x00\x02\xff\xff\xff\xff"), PASSWORD)


# --- in a configuration ---------------------------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path):
    """Load a configuration of these lines, with a sound pair beside it that nobody names."""
    ROOT.issue().written(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "ca.pem").write_bytes(ROOT.pem)

    def read_lines(*lines: str):
        config = tmp_path / "config.properties"
        config.write_text("\n".join(("model_store=store", *lines)))
        return load(config, Flags(), Surroundings({}, tmp_path, tmp_path))

    return read_lines


HTTPS = "inference_address=https://127.0.0.1:8443"
PAIR = ("certificate_file=server.pem", "private_key_file=server.key")


def test_nothing_is_read_where_nothing_is_served_over_tls(told):
    assert told("certificate_file=server.pem", "private_key_file=server.key").tls is None


@pytest.mark.parametrize("line", [HTTPS, "metrics_address=https://127.0.0.1:8443", "enable_grpc_ssl=true"])
def test_what_asks_for_tls_gets_it_from_files_beside_the_working_directory(told, tmp_path, line):
    tls = told(line, *PAIR, "guard.client_ca=ca.pem").tls
    assert tls is not None
    assert tls.sources.files == (tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    assert tls.client_ca == ROOT.pem


REFUSED = {
    (HTTPS,): (2, "inference_address", "openssl req -x509"),
    (HTTPS, "certificate_file=server.pem"): (2, "inference_address", "`private_key_file` is not given"),
    (HTTPS, "certificate_file=server.key", PAIR[1]): (3, "certificate_file", "no certificate"),
    (HTTPS, PAIR[0], "private_key_file=ca.pem"): (4, "private_key_file", "0 private keys"),
    (HTTPS, "keystore=server.pem"): (3, "keystore", "neither PKCS#12 nor JKS"),
    (HTTPS, *PAIR, "keystore_type=JCEKS"): (5, "keystore_type", "neither PKCS12 nor JKS"),
    (HTTPS, *PAIR, "guard.client_ca=server.key"): (5, "guard.client_ca", "PRIVATE KEY"),
    ("guard.client_ca=ca.pem",): (2, "guard.client_ca", "no listener is `https://`"),
}


@pytest.mark.parametrize("lines", REFUSED)
def test_what_cannot_be_served_is_told_with_its_line(told, lines):
    line, key, reason = REFUSED[lines]
    with pytest.raises(ConfigError) as refused:
        told(*lines)
    (complaint,) = refused.value.complaints
    assert f"config.properties:{line}: " in complaint
    assert key in complaint
    assert reason in complaint


def test_a_key_store_beats_a_pair_as_in_torchserve(told, tmp_path):
    (tmp_path / "store.p12").write_bytes(b"no store")
    with pytest.raises(ConfigError, match="key store cannot be opened"):
        told(HTTPS, *PAIR, "keystore=store.p12")
