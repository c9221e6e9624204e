"""A signature by an identity counts when authority and logs vouch for it together, and for no part of that alone."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path

import pki
import pytest
import transparency
from cryptography import x509
from transparency import AT, ISSUER, NAME, Said, World, utf8

from torchserve_guard import archives
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.signing import (
    bundle,
    demand,
    keyless,
    log_entry,
    log_tree,
    statement,
    trust,
    trusted_root,
)
from torchserve_guard.archives.signing.demand import Identity
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError, VerificationError

WORLD, OTHER = World(), World()
ROOT = trusted_root.parse(WORLD.trusted())
WHO = Identity("release", NAME, ISSUER)
TRUSTED = keyless.Trusted(ROOT, (WHO,))
PAYLOAD = statement.render(statement.of_file("tsguard-manifest.json", b"what is signed"))
KEY = pki.key()
REAL = Path(__file__).parents[2] / "corpus" / "sigstore"


def signer(value: dict[str, object], trusted: keyless.Trusted | None = TRUSTED, now=pki.NOW) -> demand.Signer:
    return trust.signer(bundle.parse(json.dumps(value).encode()), (), now, trusted)


def refused(why: str, value: dict[str, object], trusted: keyless.Trusted | None = TRUSTED, now=pki.NOW) -> None:
    with pytest.raises((Rejected, Malformed), match=why):
        signer(value, trusted, now)


def included(entry: dict[str, object]) -> log_tree.Checkpoint:
    shown = log_entry.EntryShape.model_validate(entry).value()
    return log_tree.verify_included(shown.body, shown.proof)


def test_who_signed_is_told_by_name_and_issuer_with_the_role_that_the_operator_gives():
    found = signer(WORLD.bundle(PAYLOAD))
    assert str(found) == f"`{NAME}` of {ISSUER} (release)"
    assert (found.until, found.identity) == (None, True)


def test_a_workflow_is_an_identity_as_well():
    uri = "https://github.com/o/r/.github/workflows/release.yml@refs/heads/main"
    said = Said(names=(x509.UniformResourceIdentifier(uri),))
    assert signer(WORLD.bundle(PAYLOAD, said), keyless.Trusted(ROOT, (Identity(None, uri, ISSUER),))).name.startswith(
        f"`{uri}`"
    )


@pytest.mark.parametrize(("size", "index"), [(size, index) for size in range(1, 18) for index in range(size)])
def test_every_place_in_a_tree_has_a_proof_that_holds_and_holds_for_no_other(size, index):
    entry = json.loads(json.dumps(WORLD.entry(PAYLOAD, b"s", b"c", size=size, index=index)))
    included(entry)
    for other in range(size + 1):
        if other != index:
            entry["inclusionProof"]["logIndex"] = str(other)
            with pytest.raises(Rejected):
                included(entry)


def test_a_proof_longer_than_the_tree_is_high_does_not_count_even_where_it_leads_to_the_root():
    entry = WORLD.entry(PAYLOAD, b"s", b"c", size=1, index=0)
    proof = entry["inclusionProof"]
    root = transparency.node(bytes(32), base64.b64decode(proof["rootHash"]))
    proof |= {"hashes": [transparency.text(bytes(32))], "rootHash": transparency.text(root)}
    proof["checkpoint"] = {"envelope": transparency.checkpoint(WORLD.signatures, 1, root)}
    with pytest.raises(Rejected, match="does not lead"):
        included(entry)


EVIL = "https://evil.example.org"
# What the certificate says, and what the log of certificates promised: all else is right.
CERTIFICATES = {
    "another name": (Said(names=(x509.RFC822Name("mallory@example.org"),)), "is not trusted"),
    "a name that begins alike": (Said(names=(x509.RFC822Name(f"{NAME}.evil"),)), "is not trusted"),
    "a name in other case": (Said(names=(x509.RFC822Name(NAME.upper()),)), "is not trusted"),
    "the name as a URI": (Said(names=(x509.DNSName("example.org"),)), "names no single mail address"),
    "two names": (Said(names=(x509.RFC822Name(NAME), x509.RFC822Name("x@example.org"))), "names no single"),
    "no name": (Said(names=()), "names no single"),
    "another issuer": (Said(issuer=utf8(EVIL), old_issuer=EVIL.encode()), "is not trusted"),
    "no issuer": (Said(issuer=None, old_issuer=None), "names 0 issuers"),
    "two issuers": (Said(old_issuer=EVIL.encode()), "names 2 issuers"),
    "an issuer that is no text": (Said(issuer=b"\x0c\x02\xff\xff"), "is no text"),
    "an issuer with something behind": (Said(issuer=utf8(ISSUER) + b"x"), "is no text"),
    "an issuer of another type": (Said(issuer=b"\x13" + utf8(ISSUER)[1:]), "is no text"),
    "begun after the signature": (Said(begins=AT + timedelta(minutes=1), promised_at=AT), "not vouched for"),
    "ended before the signature": (Said(begins=AT - timedelta(hours=1)), "not vouched for"),
    "not for signing code": (Said(extended=(pki.SERVER,)), "codeSigning"),
    "for no purpose": (Said(extended=()), "codeSigning"),
    "an authority's": (Said(more=((x509.BasicConstraints(ca=True, path_length=None), True),)), "not vouched for"),
    "an extension that nobody judges": (Said(more=((pki.UNKNOWN, True),)), "not vouched for|not judged"),
    "never promised": (Said(promises=0), "carries 0 promises"),
    "promised twice": (Said(promises=2), "carries 2 promises"),
    "promised by an unknown log": (Said(promised_by=OTHER.certificates), "not in the trusted root"),
    "promised by the log of signatures": (Said(promised_by=WORLD.signatures), "not in the trusted root"),
    "promised for another authority": (Said(promised_under=OTHER.middle.key), "is not signed by that log"),
    "promised with another hash": (Said(promised_with=b"\5\3"), "of a kind that is not judged"),
    "promised with RSA": (Said(promised_with=b"\4\1"), "of a kind that is not judged"),
    "promised before the log counted": (Said(promised_at=AT - timedelta(days=300)), "did not count that log"),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_certificate_must_say_the_right_thing_and_be_noted(case):
    said, why = CERTIFICATES[case]
    refused(why, WORLD.bundle(PAYLOAD, said))


@pytest.mark.parametrize("said", [Said(issuer=None), Said(old_issuer=None)])
def test_an_issuer_may_stand_in_one_of_its_two_places(said):
    assert signer(WORLD.bundle(PAYLOAD, said)).roles == {"release"}


def test_a_certificate_cannot_be_changed():
    changed = WORLD.certificate(KEY).replace(NAME.encode(), b"mallory@example.org")
    mallory = keyless.Trusted(ROOT, (Identity(None, "mallory@example.org", ISSUER),))
    refused("not vouched for", WORLD.bundle(PAYLOAD, private=KEY, certificate=changed), mallory)


def test_a_certificate_by_another_authority_does_not_count():
    refused("not vouched for", WORLD.bundle(PAYLOAD, private=KEY, certificate=OTHER.certificate(KEY)))


def test_who_has_the_certificate_of_another_cannot_sign_by_it():
    theirs = WORLD.certificate(pki.key())
    refused("not by that key", WORLD.bundle(PAYLOAD, private=KEY, certificate=theirs))


def test_a_certificate_cannot_be_swapped_in_a_bundle():
    made = WORLD.bundle(PAYLOAD, private=KEY)
    made["verificationMaterial"]["certificate"]["rawBytes"] = transparency.text(WORLD.certificate(KEY))
    refused("about another signature", made)


def put(path: str, value: object, made: dict[str, object] | None = None) -> dict[str, object]:
    """A good bundle with one place set to another value."""
    whole = made or WORLD.bundle(PAYLOAD)
    *above, last = path.split(".")
    place = whole["verificationMaterial"]["tlogEntries"][0]
    for part in above:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return whole


PLACES = {
    "another time": ("integratedTime", str(int(AT.timestamp()) + 6), "promise is not signed"),
    "another number": ("logIndex", "7", "promise is not signed"),
    "another log": ("logId.keyId", transparency.text(bytes(32)), "not in the trusted root"),
    "the log of certificates": (
        "logId.keyId",
        transparency.text(transparency.identifier(WORLD.certificates)),
        "not in the trusted root",
    ),
    "no promise": ("inclusionPromise", None, "Rekor v2"),
    "a promise of nothing": ("inclusionPromise.signedEntryTimestamp", transparency.text(b"x"), "promise is not signed"),
    "no proof": ("inclusionProof", None, "inclusionProof"),
    "no checkpoint": ("inclusionProof.checkpoint", None, "checkpoint"),
    "another place in the tree": ("inclusionProof.logIndex", "3", "does not lead"),
    "a place outside the tree": ("inclusionProof.logIndex", "7", "does not lead"),
    "another size": ("inclusionProof.treeSize", "8", "of another tree"),
    "another root": ("inclusionProof.rootHash", transparency.text(bytes(32)), "of another tree"),
    "a proof too short": ("inclusionProof.hashes", [], "does not lead"),
    "a proof too long": ("inclusionProof.hashes", [transparency.text(bytes(32))] * 20, "does not lead"),
    "another body": ("canonicalizedBody", transparency.text(b"{}"), "promise is not signed"),
    "another kind": ("kindVersion.kind", "intoto", "kind"),
    "a kind of the future": ("kindVersion.version", "0.0.2", "version"),
    "a number as a number": ("logIndex", 7, "quotation marks"),
    "a negative number": ("inclusionProof.logIndex", "-1", "quotation marks"),
    "a number of another spelling": ("inclusionProof.treeSize", "07", "quotation marks"),
    "a number without end": ("integratedTime", "9" * 16, "quotation marks"),
    "a field more": ("inclusionProof.extra", "x", "extra"),
}


@pytest.mark.parametrize("case", PLACES)
def test_an_entry_of_a_log_cannot_be_changed_in_any_place(case):
    path, value, why = PLACES[case]
    refused(why, put(path, value))


NOTE = WORLD.bundle(PAYLOAD, certificate=WORLD.certificate(KEY), private=KEY)["verificationMaterial"]["tlogEntries"][0]
HEADER, _, UNDER = NOTE["inclusionProof"]["checkpoint"]["envelope"].partition("\n\n")
TREE = base64.b64decode(NOTE["inclusionProof"]["rootHash"])
NOTES = {
    "of another log": (transparency.checkpoint(OTHER.signatures, 7, TREE), "not signed by the log, once"),
    "of another tree": (transparency.checkpoint(WORLD.signatures, 7, bytes(32)), "of another tree"),
    "of another size": (transparency.checkpoint(WORLD.signatures, 8, TREE), "of another tree"),
    "of no origin": (transparency.checkpoint(WORLD.signatures, 7, TREE, origin=""), "no signed note"),
    "not signed": (f"{HEADER}\n", "no signed note"),
    "signed by nobody": (f"{HEADER}\n\n", "no signed note"),
    "signed by another": (f"{HEADER}\n\n\u2014 x {transparency.text(bytes(70))}\n", "not signed by the log, once"),
    "signed twice": (f"{HEADER}\n\n{UNDER}{UNDER}", "not signed by the log, once"),
    "signed by a crowd": (f"{HEADER}\n\n{UNDER * 9}", "no signed note"),
    "of another origin": (f"evil{HEADER}\n\n{UNDER}", "checkpoint is not signed"),
    "with a line more": (f"{HEADER}\nmore: 1\n\n{UNDER}", "checkpoint is not signed"),
    "with a size of another spelling": (HEADER.replace("\n7\n", "\n07\n") + f"\n\n{UNDER}", "no signed note"),
    "without its last line's end": (f"{HEADER}\n\n{UNDER[:-1]}", "no signed note"),
}


@pytest.mark.parametrize("case", NOTES)
def test_the_checkpoint_must_be_the_logs_own_and_of_that_tree(case):
    note, why = NOTES[case]
    entry = json.loads(json.dumps(NOTE))
    entry["inclusionProof"]["checkpoint"]["envelope"] = note
    shown = log_entry.EntryShape.model_validate(entry).value()
    with pytest.raises(Rejected, match=why):
        keyless._verify_logged(shown, ROOT, AT + timedelta(seconds=5))


def test_an_entry_about_something_else_does_not_count():
    other = statement.render(statement.of_file("tsguard-manifest.json", b"something else"))
    mine, theirs = WORLD.bundle(PAYLOAD), WORLD.bundle(other)
    mine["verificationMaterial"]["tlogEntries"] = theirs["verificationMaterial"]["tlogEntries"]
    refused("about another signature", mine)
    again = WORLD.bundle(PAYLOAD, payloadHash={"algorithm": "sha256", "value": "0" * 64})
    refused("about another signature", again)
    refused("not one of a signed statement", WORLD.bundle(PAYLOAD, signatures=[]))


def test_an_entry_about_another_signature_by_the_same_key_does_not_count():
    certificate = WORLD.certificate(KEY)
    first, second = (WORLD.bundle(PAYLOAD, private=KEY, certificate=certificate) for _ in range(2))
    first["dsseEnvelope"] = second["dsseEnvelope"]
    refused("about another signature", first)


def test_a_payload_cannot_be_changed():
    made = WORLD.bundle(PAYLOAD)
    made["dsseEnvelope"]["payload"] = transparency.text(PAYLOAD.replace(b"tsguard", b"tsgoard"))
    refused("about another signature", made)


def test_an_entry_by_a_log_that_is_not_trusted_does_not_count():
    refused("not in the trusted root", OTHER.bundle(PAYLOAD, private=KEY, certificate=WORLD.certificate(KEY)))


def _trust_in(world: World, **windows) -> keyless.Trusted:
    return keyless.Trusted(trusted_root.parse(world.trusted(**windows)), (WHO,))


@pytest.mark.parametrize(
    ("part", "why"),
    [("tlogs", "did not count that log"), ("ctlogs", "did not count that log"), ("authorities", "no authority")],
)
def test_each_part_of_the_trusted_root_counts_in_its_window_only(part, why):
    long_before, long_after = AT - timedelta(days=100), AT + timedelta(days=10)
    made = WORLD.bundle(PAYLOAD)
    assert signer(made, _trust_in(WORLD, **{part: (long_before, long_after)}))
    assert signer(made, _trust_in(WORLD, **{part: (AT, AT + timedelta(seconds=5))}))
    for window in ((long_before, AT - timedelta(days=1)), (AT + timedelta(minutes=1), None)):
        refused(why, made, _trust_in(WORLD, **{part: window}))


def test_a_time_that_is_still_to_come_does_not_count():
    refused("still to come", WORLD.bundle(PAYLOAD), now=AT)


def test_nobody_counts_where_no_identity_is_trusted():
    refused("no identity is trusted", WORLD.bundle(PAYLOAD), None)


def test_the_stamps_of_a_time_beside_the_logs_word_change_nothing():
    made = WORLD.bundle(PAYLOAD)
    for stamps in ({}, {"rfc3161Timestamps": [{"signedTimestamp": transparency.text(b"whatever")}]}):
        made["verificationMaterial"]["timestampVerificationData"] = stamps
        assert signer(made) == signer(WORLD.bundle(PAYLOAD))


def test_an_authority_that_is_trusted_as_a_certificate_vouches_for_no_identity():
    anchors = (trust.Anchor("root.pem", "release", None, WORLD.root.certificate),)
    made = bundle.parse(json.dumps(WORLD.bundle(PAYLOAD)).encode())
    with pytest.raises(Rejected, match="no identity is trusted"):
        trust.signer(made, anchors, pki.NOW)


def test_a_certificate_of_an_identity_does_not_count_without_its_log():
    made = WORLD.bundle(PAYLOAD)
    material = made["verificationMaterial"]
    material["tlogEntries"] = []
    refused("without the entry of a log", made)
    material["x509CertificateChain"] = {"certificates": [material.pop("certificate")]}
    refused("no certificate is trusted", made)


def test_an_entry_does_not_count_beside_a_key_or_a_chain():
    made = WORLD.bundle(PAYLOAD)
    material = made["verificationMaterial"]
    material["publicKey"] = {"hint": "a" * 64}
    refused("or both", made)
    del material["certificate"]
    refused("an entry without one", made)


def test_two_signatures_of_one_identity_are_one_signers():
    first, second = (signer(WORLD.bundle(PAYLOAD)) for _ in range(2))
    assert demand.different((first, second)) == (first,)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda root: root["tlogs"][0]["logId"].update(keyId=transparency.text(bytes(32))), "by another identifier"),
        (lambda root: root["tlogs"][0]["publicKey"].update(rawBytes=transparency.text(b"key")), "cannot be read"),
        (lambda root: root["tlogs"][0]["publicKey"].update(keyDetails="PKCS1_RSA_PKCS1V5"), "needs an authority"),
        (lambda root: root["ctlogs"][0]["publicKey"]["validFor"].pop("start"), "start"),
        (lambda root: root["ctlogs"][0]["publicKey"]["validFor"].update(start="yesterday"), "not a time"),
        (lambda root: root.update(ctlogs=[]), "needs an authority"),
        (lambda root: root.update(certificateAuthorities=[]), "needs an authority"),
        (lambda root: root["certificateAuthorities"][0]["certChain"].update(certificates=[]), "certificates"),
        (lambda root: root["certificateAuthorities"][0].pop("validFor"), "validFor"),
        (lambda root: root.update(mediaType="application/json"), "mediaType"),
        (lambda root: root.update(more=1), "more"),
    ],
)
def test_a_trusted_root_is_read_strictly(change, why, tmp_path):
    whole = json.loads(WORLD.trusted())
    change(whole)
    path = pki.written(tmp_path / "trusted_root.json", json.dumps(whole).encode())
    with pytest.raises(ConfigError, match=why) as told:
        trusted_root.load(path)
    assert str(path) in str(told.value)


REAL_NAME = (
    "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/"
    "extremely-dangerous-oidc-beacon.yml@refs/heads/main"
)
REAL_WHO = Identity(None, REAL_NAME, "https://token.actions.githubusercontent.com")


def test_what_the_public_sigstore_has_signed_counts():
    real = json.loads((REAL / "bundle.sigstore.json").read_bytes())
    root = trusted_root.load(REAL / "trusted_root.json")
    assert signer(real, keyless.Trusted(root, (REAL_WHO,))).name == str(REAL_WHO)
    refused("is not trusted", real, keyless.Trusted(root, (WHO,)))
    refused("not in the trusted root", real)
    real["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1"
    refused("did not count that log", real, keyless.Trusted(root, (REAL_WHO,)))


def test_the_little_sigstore_of_these_tests_writes_what_the_public_one_writes():
    def shape(value):
        if isinstance(value, dict):
            return {key: shape(value[key]) for key in sorted(value)}
        return type(value)

    real = json.loads((REAL / "bundle.sigstore.json").read_bytes())
    made = WORLD.bundle(PAYLOAD)
    assert shape(made) == shape(real)
    mine, theirs = (one["verificationMaterial"]["tlogEntries"][0] for one in (made, real))
    assert shape(mine) == shape(theirs)
    assert shape(body_of(mine)) == shape(body_of(theirs))
    trusted = (REAL / "trusted_root.json").read_bytes(), WORLD.trusted()
    assert len({tuple(shape(json.loads(one))) for one in trusted}) == 1


def body_of(entry: dict[str, object]) -> dict[str, object]:
    return json.loads(base64.b64decode(entry["canonicalizedBody"]))


def test_a_manifest_counts_when_a_trusted_identity_has_signed_it(tmp_path):
    subject = archives.SubjectEntry(name="m.mar", kind="mar", size=1, sha256="0" * 64, members=())
    made = archives.Manifest(schema="tsguard-manifest/1", version=1, created=AT, expires=None, subjects=(subject,))
    path = pki.written(tmp_path / "tsguard-manifest.json", archives.render_manifest(made))
    root = pki.written(tmp_path / "trusted_root.json", WORLD.trusted())
    wanted = archives.Demand(count=1, identities=(WHO,), root=root)
    beside = tmp_path / "tsguard-manifest.json.release.sigstore.json"
    signed = statement.render(statement.of_file(path.name, path.read_bytes()))
    beside.write_bytes(json.dumps(WORLD.bundle(signed)).encode())
    assert [str(one) for one in archives.authorize(path, wanted, pki.NOW).signers] == [f"{WHO} (release)"]
    # A signature of the folder that it lies in is a manifest and its signature in one.
    of_folder = statement.render(statement.of_files("store", [("m.mar", "0" * 64)]))
    whole = pki.written(tmp_path / "store.sigstore.json", json.dumps(WORLD.bundle(of_folder)).encode())
    assert archives.authorize(whole, wanted, pki.NOW).manifest.subject("m.mar") is not None
    beside.write_bytes(json.dumps(OTHER.bundle(signed)).encode())
    with pytest.raises(VerificationError, match="not in the trusted root"):
        archives.authorize(path, wanted, pki.NOW)
    beside.write_bytes(json.dumps(WORLD.bundle(PAYLOAD)).encode())
    with pytest.raises(VerificationError, match="signs something else"):
        archives.authorize(path, wanted, pki.NOW)
