"""A manifest is believed when enough different trusted keys have signed exactly its bytes."""

from __future__ import annotations

import dataclasses
import os
from datetime import timedelta
from itertools import combinations
from pathlib import Path

import pki
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard import archives
from torchserve_guard.archives.signing import authority, bundle, signature, statement
from torchserve_guard.archives.signing.demand import Demand, Signer, different, verify_met
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError, VerificationError

RELEASE, SECURITY, OTHER = pki.key(), pki.key("Ed25519"), pki.key("P-384")
ROOT = pki.ROOT.by()
SUBJECT = archives.SubjectEntry(name="m.mar", kind="mar", size=1, sha256="0" * 64, members=())


def document(version: int = 1, days: int = 90) -> bytes:
    return archives.render_manifest(
        archives.Manifest(
            schema="tsguard-manifest/1",
            version=version,
            created=pki.NOW,
            expires=pki.NOW + timedelta(days=days),
            subjects=(SUBJECT,),
        )
    )


def sign(path: Path, key, who: str, *chain) -> Path:
    """One more signature beside a manifest."""
    made = signature.sign(statement.of_file(path.name, path.read_bytes()), key, chain)
    return pki.written(path.with_name(f"{path.name}.{who}.sigstore.json"), bundle.render(made))


@pytest.fixture
def manifest(tmp_path):
    return pki.written(tmp_path / "tsguard-manifest.json", document())


@pytest.fixture
def demand(tmp_path):
    """A demand of this threshold, with the keys of release and security, and the authority, trusted."""
    files = {
        "release": pki.written(tmp_path / "release.pub", pki.public_pem(RELEASE)),
        "security": pki.written(tmp_path / "security.pub", pki.public_pem(SECURITY)),
        "root": pki.written(tmp_path / "root.pem", ROOT.pem),
    }

    def made(count: int, *roles: str, keys=("release", "security", "root")) -> Demand:
        return Demand(tuple((role, files[role]) for role in keys), count, roles)

    return made


def test_signed_by_enough_it_is_what_was_signed(manifest, demand):
    sign(manifest, RELEASE, "release")
    sign(manifest, SECURITY, "security")
    found = archives.authorize(manifest, demand(2), pki.NOW)
    assert found.manifest == archives.parse_manifest(manifest.read_bytes(), "m")
    assert [signer.roles for signer in sorted(found.signers, key=str)] == [{"release"}, {"security"}]
    assert found.ignored == ()


def test_unsigned_it_does_not_count_where_keys_are_trusted(manifest, demand):
    with pytest.raises(VerificationError, match=r"(?s)nobody whose word counts.*tsguard manifest sign"):
        archives.authorize(manifest, demand(1), pki.NOW)


def test_unsigned_it_counts_where_none_are(manifest):
    assert archives.authorize(manifest, Demand(), pki.NOW).signers == ()


def test_one_byte_changed_after_the_signing_is_refused(manifest, demand):
    sign(manifest, RELEASE, "release")
    data = manifest.read_bytes()
    archives.authorize(manifest, demand(1), pki.NOW)
    for changed in (data + b" ", data.replace(b'"version": 1', b'"version": 2'), data.replace(b"  ", b" ", 1)):
        manifest.write_bytes(changed)
        with pytest.raises(VerificationError, match="signs something else"):
            archives.authorize(manifest, demand(1), pki.NOW)


def test_the_signature_of_another_manifest_is_refused(manifest, demand, tmp_path):
    other = pki.written(tmp_path / "other.json", document(2))
    sign(other, RELEASE, "release").rename(tmp_path / "tsguard-manifest.json.release.sigstore.json")
    with pytest.raises(VerificationError, match="signs something else"):
        archives.authorize(manifest, demand(1), pki.NOW)


def test_the_signature_of_a_folder_that_holds_the_manifest_is_not_one_of_the_manifest(manifest, demand, tmp_path):
    stated = signature.state_folder(tmp_path, ())
    made = bundle.render(signature.sign(stated, RELEASE))
    pki.written(tmp_path / "tsguard-manifest.json.sigstore.json", made)
    with pytest.raises(VerificationError, match="files of a folder"):
        archives.authorize(manifest, demand(1), pki.NOW)


def test_one_key_is_one_signer_however_often_and_in_whatever_form_it_signs(manifest, demand):
    held = pki.SIGNER.but(private=RELEASE).by(ROOT)
    sign(manifest, RELEASE, "once")
    sign(manifest, RELEASE, "twice")
    sign(manifest, RELEASE, "certified", held.certificate)
    assert len(archives.authorize(manifest, demand(1), pki.NOW).signers) == 1
    with pytest.raises(VerificationError, match="2 different trusted keys"):
        archives.authorize(manifest, demand(2), pki.NOW)
    # In two roles, release by the key and root by the certificate, it is one signer all the same.
    with pytest.raises(VerificationError, match="different"):
        archives.authorize(manifest, demand(2, "release", "root"), pki.NOW)


def test_each_role_needs_a_signer_of_its_own(manifest, demand):
    sign(manifest, RELEASE, "release")
    sign(manifest, pki.SIGNER.by(ROOT).key, "nobody")
    held = pki.SIGNER.by(ROOT)
    sign(manifest, held.key, "root", held.certificate)
    assert len(archives.authorize(manifest, demand(2), pki.NOW).signers) == 2
    with pytest.raises(VerificationError, match="release,security"):
        archives.authorize(manifest, demand(2, "release", "security"), pki.NOW)
    sign(manifest, SECURITY, "security")
    found = archives.authorize(manifest, demand(2, "release", "security"), pki.NOW)
    assert len(found.signers) == 3
    assert len(found.ignored) == 1
    assert "nobody" in found.ignored[0]


def alternative(*names: str) -> tuple:
    return ((x509.SubjectAlternativeName([x509.RFC822Name(name) for name in names]), False),)


ALICE = pki.SIGNER.but(name="Alice", extensions=alternative("alice@example.org"))


@pytest.mark.parametrize(
    ("renewed", "signers"),
    [
        (ALICE, 1),
        (ALICE.but(name=" ALICE "), 1),
        (ALICE.but(kind="P-384", ends=pki.NOW + timedelta(days=3)), 1),
        (ALICE.but(name="Bob"), 2),
        (ALICE.but(extensions=alternative("bob@example.org")), 2),
        (ALICE.but(extensions=()), 2),
    ],
    ids=[
        "renewed",
        "spelt otherwise",
        "of another kind",
        "other name",
        "other alternative name",
        "no alternative name",
    ],
)
def test_a_renewed_certificate_is_no_second_signer(renewed, signers, manifest, demand):
    for number, wanted in enumerate((ALICE, renewed)):
        held = wanted.by(ROOT)
        sign(manifest, held.key, f"alice{number}", held.certificate)
    found = archives.authorize(manifest, demand(1), pki.NOW).signers
    assert len(found) == signers
    assert max(one.until for one in found) == pki.NOW + timedelta(days=30)
    if signers == 1:
        with pytest.raises(
            VerificationError, match=r"(?s)2 different trusted keys.*several signatures are one signer's"
        ):
            archives.authorize(manifest, demand(2), pki.NOW)
    else:
        archives.authorize(manifest, demand(2), pki.NOW)


def test_a_certificate_renewed_by_another_authority_below_the_trusted_one_is_no_second_signer(manifest, demand):
    for name in ("middle", "other"):
        middle = pki.MIDDLE.but(name=name).by(ROOT)
        held = ALICE.by(middle)
        sign(manifest, held.key, name, held.certificate, middle.certificate)
    assert len(archives.authorize(manifest, demand(1), pki.NOW).signers) == 1


def test_certificates_that_are_listed_themselves_are_one_signers_if_one_authority_gave_them_one_name(
    manifest, tmp_path
):
    for wanted, issuer, signers in ((ALICE, ROOT, 1), (ALICE, None, 2)):
        listed = []
        for number in range(2):
            held = wanted.by(issuer)
            listed.append((None, pki.written(tmp_path / f"{number}.pem", held.pem)))
            # By the key alone, and with the certificate.
            sign(manifest, held.key, f"alice{number}", *([held.certificate] if number else []))
        # Who certifies himself can call himself anything: then it is the keys that were listed, and they are two.
        assert len(archives.authorize(manifest, Demand(tuple(listed), 1), pki.NOW).signers) == signers


def test_one_person_fills_one_of_the_roles_of_an_authority_and_that_it_has_several_is_told(manifest, tmp_path):
    path = pki.written(tmp_path / "root.pem", ROOT.pem)
    both = Demand((("release", path), ("security", path)), 2, ("release", "security"))
    for number in range(2):
        held = ALICE.by(ROOT)
        sign(manifest, held.key, f"alice{number}", held.certificate)
    with pytest.raises(VerificationError, match="a different key in each role"):
        archives.authorize(manifest, both, pki.NOW)
    bob = ALICE.but(name="Bob").by(ROOT)
    sign(manifest, bob.key, "bob", bob.certificate)
    found = archives.authorize(manifest, both, pki.NOW)
    assert len(found.signers) == 2
    assert found.shared == (
        "`CN=root` vouches for `release` and `security` alike: two of those whom it certifies are enough",
    )


def test_what_one_authority_certifies_for_another_role_is_told_and_what_is_apart_is_not(manifest, demand, tmp_path):
    middle = pki.MIDDLE.by(ROOT)
    for who, key in (("release", RELEASE), ("security", SECURITY)):
        sign(manifest, key, who)
    files = {
        "root": ROOT.pem,
        "middle": middle.pem,
        "other": pki.ROOT.but(name="other").by().pem,
        "signer": ALICE.by(ROOT).pem,
    }
    paths = {name: pki.written(tmp_path / f"{name}.pem", data) for name, data in files.items()}

    def told(release: str, security: str) -> tuple[str, ...]:
        more = (("release", paths[release]), ("security", paths[security]))
        asked = demand(2, "release", "security", keys=("release", "security"))
        return archives.authorize(manifest, dataclasses.replace(asked, keys=asked.keys + more), pki.NOW).shared

    assert len(told("root", "middle")) == 1
    assert told("root", "other") == told("root", "signer") == ()


def test_the_role_in_which_nobody_has_signed_is_named_and_who_has(manifest, demand):
    sign(manifest, RELEASE, "release")
    with pytest.raises(VerificationError) as refused:
        archives.authorize(manifest, demand(2, "release", "security"), pki.NOW)
    first, *more = refused.value.complaints
    assert "release.pub (release)" in first
    assert first.endswith("asks for `security` too, and in that role nobody has signed")
    assert "no other signature is beside it" in more[0]
    assert "tsguard manifest sign" in more[0]


def test_signatures_that_do_not_count_are_told_and_do_not_hinder(manifest, demand, tmp_path):
    sign(manifest, RELEASE, "release")
    sign(manifest, OTHER, "other")
    pki.written(tmp_path / "tsguard-manifest.json.empty.sigstore.json", b"")
    pki.written(tmp_path / "tsguard-manifest.json.large.sigstore.json", b" " * (bundle.LARGEST + 1))
    (tmp_path / "tsguard-manifest.json.folder.sigstore.json").mkdir()
    os.mkfifo(tmp_path / "tsguard-manifest.json.pipe.sigstore.json")
    (tmp_path / "tsguard-manifest.json.loop.sigstore.json").symlink_to("tsguard-manifest.json.loop.sigstore.json")
    (tmp_path / "tsguard-manifest.jsonx.sigstore.json").write_bytes(b"another file's")
    told = archives.authorize(manifest, demand(1), pki.NOW).ignored
    assert [next(word for word in WORDS if f".{word}." in line) for line in told] == sorted(WORDS)


WORDS = ("empty", "folder", "large", "loop", "other", "pipe")


def test_there_is_a_limit_to_signatures(manifest, demand, tmp_path):
    for number in range(authority.MOST + 1):
        pki.written(tmp_path / f"tsguard-manifest.json.{number}.sigstore.json", b"{}")
    with pytest.raises(ConfigError, match="more than 32"):
        archives.authorize(manifest, demand(1), pki.NOW)


def test_a_signed_manifest_expires_all_the_same(manifest, demand):
    sign(manifest, RELEASE, "release")
    with pytest.raises(VerificationError, match="expired"):
        archives.authorize(manifest, demand(1), pki.NOW + timedelta(days=91))


def test_nothing_is_parsed_before_its_signature_counts(manifest, demand):
    manifest.write_bytes(b"{" * 1000)
    with pytest.raises(VerificationError, match="nobody whose word counts"):
        archives.authorize(manifest, demand(1), pki.NOW)


def test_what_is_parsed_is_what_was_verified_though_the_file_is_swapped(manifest, demand, monkeypatch):
    sign(manifest, RELEASE, "release")
    beside = authority.beside

    def swapped(path):
        path.write_bytes(document(7))
        return beside(path)

    # The moment after the one reading of the manifest, at which somebody else replaces it.
    monkeypatch.setattr(authority, "beside", swapped)
    assert archives.authorize(manifest, demand(1), pki.NOW).manifest.version == 1
    with pytest.raises(VerificationError, match="signs something else"):
        archives.authorize(manifest, demand(1), pki.NOW)


def test_a_link_that_is_turned_to_another_manifest_is_refused(manifest, demand, tmp_path):
    releases = [tmp_path / name for name in ("one", "two")]
    for number, folder in enumerate(releases, 1):
        folder.mkdir()
        pki.written(folder / "tsguard-manifest.json", document(number))
    sign(releases[0] / "tsguard-manifest.json", RELEASE, "release")
    current = tmp_path / "current"
    current.symlink_to(releases[0])
    link = current / "tsguard-manifest.json"
    assert archives.authorize(link, demand(1), pki.NOW).manifest.version == 1
    current.unlink()
    current.symlink_to(releases[1])
    with pytest.raises(VerificationError, match="nobody whose word counts"):
        archives.authorize(link, demand(1), pki.NOW)


def test_sums_are_signed_in_the_same_way(tmp_path, demand):
    path = pki.written(tmp_path / "SHA256SUMS", b"0" * 64 + b"  m.mar\n")
    sign(path, RELEASE, "release")
    assert archives.authorize(path, demand(1), pki.NOW).manifest.subjects[0].name == "m.mar"


def store_bundle(tmp_path, key=RELEASE) -> Path:
    store = tmp_path / "store"
    (store / "sub").mkdir(parents=True)
    for name in ("m.mar", "n.mar", "README.md", "sub/deep.mar"):
        (store / name).write_bytes(name.encode())
    made = signature.sign(signature.state_folder(store, ()), key)
    return pki.written(tmp_path / "store.sig", bundle.render(made))


def test_a_signed_store_is_manifest_and_signature_in_one(tmp_path, demand):
    path = store_bundle(tmp_path)
    found = archives.authorize(path, demand(1), pki.NOW)
    assert [(one.name, one.kind, one.size) for one in found.manifest.subjects] == [
        ("m.mar", "mar", None),
        ("n.mar", "mar", None),
    ]
    assert (found.manifest.version, len(found.signers)) == (0, 1)


def test_a_signed_store_is_signed_a_second_time_like_any_manifest(tmp_path, demand):
    path = store_bundle(tmp_path)
    with pytest.raises(VerificationError, match="2 different"):
        archives.authorize(path, demand(2), pki.NOW)
    sign(path, SECURITY, "security")
    assert len(archives.authorize(path, demand(2, "release", "security"), pki.NOW).signers) == 2


@pytest.mark.parametrize("name", ["tsguard-manifest.json", "release.json"])
def test_what_never_expires_does_not_take_the_place_of_what_does(name, tmp_path, demand):
    bundled = store_bundle(tmp_path).rename(tmp_path / name)
    with pytest.raises(VerificationError, match="has the name of a manifest"):
        archives.authorize(bundled, demand(1), pki.NOW)
    bundled.write_text(f"{'0' * 64}  m.mar\n")
    sign(bundled, RELEASE, "release")
    with pytest.raises(VerificationError, match="has the name of a manifest"):
        archives.authorize(bundled, demand(1), pki.NOW)
    bundled.rename(tmp_path / "SHA256SUMS")
    sign(tmp_path / "SHA256SUMS", RELEASE, "release")
    assert archives.authorize(tmp_path / "SHA256SUMS", demand(1), pki.NOW)


def test_a_store_signed_by_somebody_else_is_refused(tmp_path, demand):
    with pytest.raises(VerificationError, match="not trusted"):
        archives.authorize(store_bundle(tmp_path, OTHER), demand(1), pki.NOW)


def test_a_signature_of_one_file_is_no_manifest(manifest, tmp_path, demand):
    path = sign(manifest, RELEASE, "release")
    with pytest.raises(ConfigError, match=r"lists no `\.mar` archive"):
        archives.authorize(path, demand(1), pki.NOW)


def test_a_member_called_like_a_field_of_a_bundle_makes_no_bundle_of_a_manifest():
    member = archives.MemberEntry(path="dsseEnvelope", size=0, sha256="0" * 64)
    subject = SUBJECT.model_copy(update={"members": (member,)})
    whole = archives.parse_manifest(document(), "m").model_copy(update={"subjects": (subject,)})
    assert archives.parse_manifest(archives.render_manifest(whole), "m") == whole


def test_a_link_in_a_store_is_not_signed(tmp_path):
    (tmp_path / "m.mar").symlink_to("/etc/passwd")
    with pytest.raises(VerificationError, match="symbolic link"):
        signature.state_folder(tmp_path, ())


signers = st.builds(
    Signer,
    fingerprint=st.sampled_from("abcd"),
    name=st.just("n"),
    roles=st.frozensets(st.sampled_from(["r", "s", "t"])),
)
demands = st.integers(0, 3).map(lambda n: Demand((), n)) | st.lists(st.sampled_from(["r", "s", "t"]), max_size=3).map(
    lambda roles: Demand((), len(roles), tuple(roles))
)


def test_one_signer_in_two_roles_fills_one_of_them():
    both, nobody = Signer("a", "a", frozenset({"r", "s"})), Signer("b", "b")
    with pytest.raises(Rejected, match="a different key in each role"):
        verify_met(Demand((), 2, ("r", "s")), different([both, nobody]))
    verify_met(Demand((), 2, ("r", "s")), different([both, Signer("b", "b", frozenset({"r"}))]))


def test_the_roles_of_one_key_are_those_of_all_its_signatures():
    bare, certified = Signer("a", "a", frozenset({"r"})), Signer("a", "CN=a", frozenset({"s"}), pki.NOW)
    other = Signer("b", "b", frozenset({"r"}))
    verify_met(Demand((), 2, ("r", "s")), different([bare, certified, other]))
    assert different([certified, bare])[0].until is None


@given(st.lists(signers, max_size=6), demands)
def test_what_is_met_is_met_by_that_many_different_keys(found, demand):
    once = different(found)
    assert len({one.fingerprint for one in once}) == len(once)
    try:
        verify_met(demand, once)
    except Rejected:
        return
    assert len(once) >= demand.count
    assert set(demand.roles) <= {role for one in found for role in one.roles}


@given(st.lists(signers, max_size=5), signers, demands)
def test_one_more_signature_never_makes_it_less(found, more, demand):
    try:
        verify_met(demand, different(found))
    except Rejected:
        return
    verify_met(demand, different([*found, more]))


certified = st.builds(
    lambda key, name: Signer(key, "n", frozenset({"r"}), holders=frozenset({name})),
    st.sampled_from("abcd"),
    st.sampled_from("AB"),
)


@given(st.lists(certified, max_size=6), st.randoms(use_true_random=False))
def test_whoever_shares_a_key_or_a_name_is_one_in_whatever_order_they_come(found, random):
    once = different(found)
    assert all(one.holders.isdisjoint(other.holders) for one, other in combinations(once, 2))
    assert len({one.fingerprint for one in once}) == len(once) <= 2
    assert {name for one in once for name in one.holders} == {name for one in found for name in one.holders}
    random.shuffle(found)
    assert different(found) == once


@given(st.lists(signers, max_size=5), demands)
def test_signing_twice_makes_it_no_more(found, demand):
    try:
        verify_met(demand, different(found + found))
    except Rejected:
        with pytest.raises(Rejected):
            verify_met(demand, different(found))
