"""A bundle is one signature over one payload: read strictly, and a changed one never counts."""

from __future__ import annotations

import base64
import hashlib
import json
import string

import authority
import pki
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchserve_guard.archives import document, manifest
from torchserve_guard.archives.document import Malformed
from torchserve_guard.archives.signing import bundle, certificates, keys, signature, statement, trust
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError
from torchserve_guard.identity import read_certificate

DATA = b'{"a manifest": "for what it is worth"}'
KEY = pki.key()
ROOT = pki.ROOT.by()
MIDDLE = pki.MIDDLE.by(ROOT)
SIGNER = pki.SIGNER.by(MIDDLE)
STATED = statement.of_file("tsguard-manifest.json", DATA)
BY_KEY = bundle.render(signature.sign(STATED, KEY))
BY_CERTIFICATE = bundle.render(signature.sign(STATED, SIGNER.key, (MIDDLE.certificate, SIGNER.certificate)))
ANCHORS = (
    trust.Anchor("release.pub", "release", KEY.public_key()),
    trust.Anchor("root.pem", None, None, ROOT.certificate),
)


def accepted(data: bytes) -> bundle.Bundle:
    """The whole way of a bundle: parsed, its statement read, its signer told; raises for all that does not count."""
    found = bundle.parse(data)
    statement.parse(found.payload)
    trust.signer(found, ANCHORS, pki.NOW)
    return found


def changed(path: str, value: object, base: bytes = BY_KEY) -> bytes:
    """The bundle with one place set to another value; `None` removes it."""
    whole = json.loads(base)
    *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place = whole
    for part in above:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return json.dumps(whole).encode()


def stated(**changes: object) -> bytes:
    """A bundle whose payload, well signed, has other fields."""
    payload = json.dumps(json.loads(statement.render(STATED)) | changes).encode()
    draft = bundle.Bundle(payload, b"", keys.fingerprint(KEY.public_key()))
    return bundle.render(bundle.Bundle(payload, keys.sign(KEY, draft.signed), draft.hint))


@pytest.mark.parametrize("data", [BY_KEY, BY_CERTIFICATE], ids=["key", "certificate"])
def test_parse_is_the_inverse_of_render(data):
    assert bundle.render(accepted(data)) == data


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "Ed25519"])
def test_every_kind_of_key_signs_and_verifies(kind):
    private = pki.key(kind)
    made = bundle.parse(bundle.render(signature.sign(STATED, private)))
    signer = trust.signer(made, (trust.Anchor("k.pub", None, private.public_key()),), pki.NOW)
    assert signer.fingerprint == hashlib.sha256(pki.public_pem(private)).hexdigest()


def test_the_statement_of_a_file_is_about_its_bytes():
    assert statement.parse(bundle.parse(BY_KEY).payload).files == ((".", hashlib.sha256(DATA).hexdigest()),)


def test_the_signed_bytes_are_those_of_the_protocol():
    found = bundle.parse(BY_KEY)
    head = f"DSSEv1 28 application/vnd.in-toto+json {len(found.payload)} ".encode()
    assert found.signed == head + found.payload


SHAPES = {
    "no media type": ("mediaType", None),
    "an older media type": ("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.2"),
    "one more field": ("extra", 1),
    "a message signature as well": ("messageSignature", {"messageDigest": {}}),
    "no material": ("verificationMaterial", None),
    "material without a key": ("verificationMaterial", {"tlogEntries": []}),
    "a key in it": ("verificationMaterial.publicKey.rawBytes", "AAAA"),
    "an empty hint": ("verificationMaterial.publicKey.hint", ""),
    "a log entry": ("verificationMaterial.tlogEntries", [{"logIndex": "1"}]),
    "a time stamp": ("verificationMaterial.timestampVerificationData", {"rfc3161Timestamps": []}),
    "no signature": ("dsseEnvelope.signatures", []),
    "two signatures": ("dsseEnvelope.signatures", json.loads(BY_KEY)["dsseEnvelope"]["signatures"] * 2),
    "another payload type": ("dsseEnvelope.payloadType", "text/plain"),
    "a number for a signature": ("dsseEnvelope.signatures.0.sig", 7),
    "an empty signature": ("dsseEnvelope.signatures.0.sig", ""),
    "a key identifier": ("dsseEnvelope.signatures.0.keyid", "release"),
    "base64 with a blank": ("dsseEnvelope.payload", json.loads(BY_KEY)["dsseEnvelope"]["payload"] + " "),
    "base64 of the web": ("dsseEnvelope.payload", "e30_"),
    "a chain of nothing": ("verificationMaterial", {"x509CertificateChain": {"certificates": []}}),
    "a chain without end": (
        "verificationMaterial",
        {"x509CertificateChain": {"certificates": [{"rawBytes": base64.b64encode(SIGNER.der).decode()}] * 9}},
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_bundle_of_another_shape_is_refused(name):
    with pytest.raises(Malformed):
        bundle.parse(changed(*SHAPES[name]))


def test_base64_has_one_spelling():
    # 64 bytes leave four bits of the last letter without a meaning.
    whole = json.loads(bundle.render(signature.sign(STATED, pki.key("Ed25519"))))
    text = whole["dsseEnvelope"]["signatures"][0]["sig"]
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    respelt = text[:-3] + letters[letters.index(text[-3]) + 1] + "=="
    assert base64.b64decode(respelt) == base64.b64decode(text)
    with pytest.raises(Malformed, match="one spelling"):
        bundle.parse(changed("dsseEnvelope.signatures.0.sig", respelt, json.dumps(whole).encode()))


def test_an_entry_of_a_log_of_the_second_generation_is_refused_by_its_name():
    material = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": [{"logIndex": "1"}]}
    with pytest.raises(Malformed, match="Rekor v2"):
        bundle.parse(changed("verificationMaterial", material))


@pytest.mark.parametrize(
    "text",
    [
        BY_KEY.replace(b'"mediaType"', b'"mediaType": "x", "mediaType"', 1),
        BY_KEY.replace(b'"hint"', b'"hint": "' + b"0" * 64 + b'", "hint"', 1),
        BY_KEY.replace(b'"keyid": ""', b'"keyid": "", "keyid": ""', 1),
        b"\xef\xbb\xbf" + BY_KEY,
        BY_KEY + b"{}",
        BY_KEY.decode().encode("utf-16"),
        b"",
        b"null",
        b"[]",
        b'{"dsseEnvelope": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"' + b'\\"' * 300_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_two_readers_could_read_differently_is_refused(text):
    with pytest.raises(Malformed):
        bundle.parse(text)


def test_depth_is_refused_before_anything_is_built():
    with pytest.raises(Malformed, match="nested more than 16 deep"):
        document.parse(b"[" * 17 + b"]" * 17, deepest=16)
    assert document.parse(b'["[[[[{{{", {"\\"[": 1}]', deepest=2) == ["[[[[{{{", {'"[': 1}]


def test_a_long_document_costs_no_more_than_its_length():
    # Each was minutes, or gigabytes: a search from the front for each key, a complaint for each wrong row.
    many = 100_000
    keys_ = ",".join(f'"{number}": 1' for number in range(many))
    with pytest.raises(Malformed, match=f"`{many - 1}` twice"):
        document.parse(f'{{{keys_}, "{many - 1}": 2}}'.encode())
    with pytest.raises(Malformed, match="more than 1000 keys"):
        bundle.parse(f"{{{keys_}}}".encode())
    with pytest.raises(ConfigError) as told:
        manifest.parse(b'{"schema": "tsguard-manifest/1", "subjects": [' + b",".join([b"0"] * many) + b"]}", "m")
    assert len(told.value.complaints) < 10
    with pytest.raises(Malformed) as why:
        bundle.parse(changed("dsseEnvelope.signatures", [0] * many))
    assert len(str(why.value)) < 1000


STATEMENTS = {
    "another type": {"_type": "https://in-toto.io/Statement/v0.1"},
    "another predicate": {"predicateType": "https://slsa.dev/provenance/v1"},
    "an older predicate": {"predicateType": "https://model_signing/Digests/v0.1"},
    "two subjects": {"subject": json.loads(statement.render(STATED))["subject"] * 2},
    "a subject of another digest": {"subject": [{"name": "x", "digest": {"sha256": "0" * 64}}]},
    "no subject": {"subject": []},
    "one more field": {"more": True},
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_well_signed_statement_of_another_form_is_refused(name):
    with pytest.raises(Malformed):
        accepted(stated(**STATEMENTS[name]))


def test_a_file_stated_twice_is_refused():
    rows = [("a.mar", "0" * 64), ("a.mar", "1" * 64)]
    with pytest.raises(Malformed, match="twice"):
        statement.parse(statement.render(statement.Statement("store", tuple(rows))))


@pytest.mark.parametrize(
    "change",
    [{"hash_type": "blake2b"}, {"method": "shards", "shard_size": 1}, {"allow_symlinks": "no"}, {"ignore_paths": [1]}],
)
def test_another_way_of_hashing_is_refused(change):
    whole = json.loads(statement.render(STATED))
    whole["predicate"]["serialization"] |= change
    with pytest.raises(Malformed):
        statement.parse(json.dumps(whole).encode())


def test_a_bundle_names_a_key_or_certificates_and_not_both():
    material = json.loads(BY_KEY)["verificationMaterial"] | json.loads(BY_CERTIFICATE)["verificationMaterial"]
    with pytest.raises(Malformed, match="or both"):
        bundle.parse(changed("verificationMaterial", material))


def test_the_hint_of_another_trusted_key_does_not_make_it_that_keys_signature():
    other = pki.key()
    anchors = (*ANCHORS, trust.Anchor("other.pub", "security", other.public_key()))
    forged = changed("verificationMaterial.publicKey.hint", keys.fingerprint(other.public_key()))
    with pytest.raises(Rejected, match="not by that key"):
        trust.signer(bundle.parse(forged), anchors, pki.NOW)


def test_an_untrusted_key_is_not_believed():
    made = signature.sign(STATED, pki.key())
    with pytest.raises(Rejected, match="not trusted"):
        trust.signer(made, ANCHORS, pki.NOW)


def meaning(data: bytes) -> object:
    """What a bundle says, without its spelling; a certificate's and a signature's bytes are part of it."""
    return json.loads(data)


bundles = st.sampled_from([BY_KEY, BY_CERTIFICATE])


@st.composite
def mutations(draw):
    """A good bundle with some of its bytes replaced, removed, repeated or added."""
    good = draw(bundles)
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        alphabet = st.sampled_from((string.ascii_letters + string.digits + '+/="{}[]:, \n\\').encode())
        data[start:end] = draw(st.lists(alphabet, max_size=8).map(bytes) | st.binary(max_size=4))
    return good, bytes(data)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations())
def test_a_mutated_bundle_counts_only_if_it_says_the_same(mutation):
    good, data = mutation
    try:
        accepted(data)
    except (Malformed, Rejected):
        return
    assert meaning(data) == meaning(good)


@st.composite
def other_bytes(draw):
    """A good bundle one of whose base64 fields, certificate, signature, payload, has a bit flipped or bytes changed."""
    good = draw(bundles)
    whole = json.loads(good)
    places = [(whole["dsseEnvelope"], "payload"), (whole["dsseEnvelope"]["signatures"][0], "sig")]
    chain = whole["verificationMaterial"].get("x509CertificateChain", {"certificates": []})
    places += [(one, "rawBytes") for one in chain["certificates"]]
    holder, name = draw(st.sampled_from(places))
    raw = bytearray(base64.b64decode(holder[name]))
    for _ in range(draw(st.integers(1, 2))):
        raw[draw(st.integers(0, len(raw) - 1))] ^= 1 << draw(st.integers(0, 7))
    holder[name] = base64.b64encode(raw).decode()
    return good, json.dumps(whole).encode()


@settings(max_examples=500, deadline=None)
@given(other_bytes())
def test_a_flipped_bit_in_payload_signature_or_certificate_never_counts(mutation):
    good, data = mutation
    if meaning(data) == meaning(good):
        return
    with pytest.raises((Malformed, Rejected)):
        accepted(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_certificate_or_rejected(data):
    with pytest.raises(Rejected):
        certificates.decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["", "e30=", bundle.MEDIA_TYPE]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PLACES = [
    "mediaType",
    "verificationMaterial",
    "verificationMaterial.publicKey",
    "verificationMaterial.publicKey.hint",
    "verificationMaterial.tlogEntries",
    "dsseEnvelope",
    "dsseEnvelope.payload",
    "dsseEnvelope.payloadType",
    "dsseEnvelope.signatures",
    "dsseEnvelope.signatures.0",
    "dsseEnvelope.signatures.0.sig",
    "dsseEnvelope.signatures.0.keyid",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), json_values)
def test_any_value_anywhere_is_refused_or_means_the_same(place, value):
    data = changed(place, value)
    try:
        accepted(data)
    except (Malformed, Rejected):
        return
    # `tlogEntries` and `keyid` may be left out; nothing else may be anything else.
    assert meaning(data) == meaning(BY_KEY) or (
        place in {"verificationMaterial.tlogEntries", "dsseEnvelope.signatures.0.keyid"} and value is None
    )


def test_a_certificate_of_a_version_that_there_is_not_is_refused_and_names_nobody():
    der = authority.root().certificate.public_bytes(serialization.Encoding.DER)
    other = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x03", 1)
    assert certificates.decode(der)
    with pytest.raises(Rejected, match="cannot be read"):
        certificates.decode(other)
    assert read_certificate(der) is not None
    assert read_certificate(other) is None
