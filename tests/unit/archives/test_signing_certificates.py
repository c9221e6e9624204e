"""A certificate may sign if a trusted one vouches for it, now, for code: each thing that can be wrong, by itself."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pki
import pytest
from cryptography import x509

from torchserve_guard.archives.signing import certificates, keys, signature, statement, trust
from torchserve_guard.archives.signing.rejection import Rejected
from torchserve_guard.errors import ConfigError

STATED = statement.of_file("m.json", b"{}")
ROOT = pki.ROOT.by()
MIDDLE = pki.MIDDLE.by(ROOT)
SIGNER = pki.SIGNER.by(MIDDLE)
DAY = timedelta(days=1)
NAMES = x509.NameConstraints([x509.DNSName("example.org")], None)


def believed(signer: pki.Held, chain=(MIDDLE,), trusted=ROOT, now=pki.NOW):
    """Who a bundle by these certificates is by, if anybody; raises Rejected."""
    made = signature.sign(STATED, signer.key, [signer.certificate, *(one.certificate for one in chain)])
    anchors = tuple(trust.Anchor(str(n), None, None, one.certificate) for n, one in enumerate([trusted]))
    return trust.signer(made, anchors, now)


def test_a_signer_is_vouched_for_by_the_trusted_authority():
    signer = believed(SIGNER)
    assert signer.name == "CN=release@example.org"
    assert signer.fingerprint == keys.fingerprint(SIGNER.key.public_key())
    assert signer.until == min(one.certificate.not_valid_after_utc for one in (SIGNER, MIDDLE))


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "Ed25519"])
def test_a_certificate_of_every_kind_of_key_may_sign(kind):
    assert believed(pki.SIGNER.but(kind=kind).by(MIDDLE)).name == "CN=release@example.org"


@pytest.mark.parametrize("kind", ["P-384", "P-521"])
def test_an_authority_of_every_curve_may_vouch(kind):
    root = pki.ROOT.but(kind=kind).by()
    assert believed(pki.SIGNER.by(root), (), root).name == "CN=release@example.org"


def test_the_certificates_may_come_in_any_order_and_with_the_trusted_one():
    for chain in itertools.permutations([MIDDLE, ROOT]):
        assert believed(SIGNER, chain)


def test_extended_usage_is_needed_only_where_there_is_any():
    assert believed(pki.SIGNER.but(extended=()).by(MIDDLE))
    assert believed(pki.SIGNER.but(extended=(pki.SERVER, pki.CODE_SIGNING)).by(MIDDLE))


LEAVES = {
    "expired": ({"ends": pki.NOW - DAY}, "not valid at"),
    "not yet valid": ({"begins": pki.NOW + DAY}, "not valid at"),
    "no key usage": ({"usage": False}, "missing required extension"),
    "key usage without digitalSignature": ({"digital_signature": False}, "digitalSignature"),
    "for servers": ({"extended": (pki.SERVER,)}, "codeSigning"),
    "for any purpose but by its name": ({"extended": (x509.ObjectIdentifier("2.5.29.37.0"),)}, "codeSigning"),
    "an authority": ({"ca": True, "digital_signature": True}, "authority"),
    "an unknown critical extension": ({"extensions": ((pki.UNKNOWN, True),)}, "critical"),
    "name constraints": ({"extensions": ((NAMES, False),)}, "2.5.29.30"),
    "a critical extension that nobody judges": (
        {"extensions": ((x509.CertificatePolicies([x509.PolicyInformation(pki.CODE_SIGNING, None)]), True),)},
        "critical|nobody here judges",
    ),
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_certificate_that_may_not_sign_is_rejected_for_its_own_reason(name):
    changes, why = LEAVES[name]
    with pytest.raises(Rejected, match=why):
        believed(pki.SIGNER.but(**changes).by(MIDDLE))


AUTHORITIES = {
    "expired": ({"ends": pki.NOW - DAY}, "not valid at"),
    "not yet valid": ({"begins": pki.NOW + DAY}, "not valid at"),
    "no basic constraints": ({"constraints": False}, "candidates exhausted|basicConstraints|basic constraints|missing"),
    "not an authority": ({"ca": False}, "basicConstraints"),
    "no key usage": ({"usage": False}, "missing required extension"),
    "key usage without keyCertSign": ({"may_issue": False}, "keyCertSign"),
    "for servers": ({"extended": (pki.SERVER,)}, "codeSigning"),
    "an unknown critical extension": ({"extensions": ((pki.UNKNOWN, True),)}, "critical"),
    "name constraints": ({"extensions": ((NAMES, True),)}, "2.5.29.30"),
}


@pytest.mark.parametrize("name", AUTHORITIES)
def test_an_authority_between_that_may_not_issue_vouches_for_nobody(name):
    changes, why = AUTHORITIES[name]
    middle = pki.MIDDLE.but(**({"path_length": None} | changes)).by(ROOT)
    with pytest.raises(Rejected, match=why):
        believed(pki.SIGNER.by(middle), (middle,))


@pytest.mark.parametrize(
    "name", ["expired", "not yet valid", "no key usage", "key usage without keyCertSign", "name constraints"]
)
def test_a_trusted_authority_is_held_to_the_same(name):
    changes, why = AUTHORITIES[name]
    root = pki.ROOT.but(**changes).by()
    with pytest.raises(Rejected, match=why):
        believed(pki.SIGNER.by(root), (), root)


def test_a_path_is_no_longer_than_its_authorities_say():
    below = pki.Wanted("below", ca=True).by(MIDDLE)
    with pytest.raises(Rejected, match="path length"):
        believed(pki.SIGNER.by(below), (below, MIDDLE))


def test_a_path_is_no_longer_than_the_limit():
    chain = [ROOT]
    for number in range(certificates.LONGEST_PATH + 1):
        chain.append(pki.Wanted(f"authority {number}", ca=True).by(chain[-1]))
    with pytest.raises(Rejected):
        believed(pki.SIGNER.by(chain[-1]), chain[1:])


def test_another_authority_of_the_same_name_vouches_for_nobody():
    impostor = pki.ROOT.by()
    with pytest.raises(Rejected, match="not vouched for"):
        believed(pki.SIGNER.by(impostor), (impostor,))


def test_a_certificate_that_the_authority_did_not_sign_is_rejected():
    forged = pki.SIGNER.by(MIDDLE, signed_with=pki.key())
    with pytest.raises(Rejected, match="not vouched for"):
        believed(forged)


def test_a_signer_issues_no_signers():
    middle = pki.MIDDLE.but(path_length=None).by(ROOT)
    signer = pki.SIGNER.by(middle)
    with pytest.raises(Rejected):
        believed(pki.SIGNER.but(name="mallory").by(signer), (signer, middle))


def test_a_certificate_without_a_part_in_the_path_is_rejected():
    with pytest.raises(Rejected, match="no part in the path"):
        believed(SIGNER, (MIDDLE, pki.Wanted("stray", ca=True).by(ROOT)))


def test_the_certificate_of_another_key_does_not_help():
    made = signature.sign(STATED, SIGNER.key, [SIGNER.certificate, MIDDLE.certificate])
    other = pki.SIGNER.by(MIDDLE)
    swapped = replace(made, certificates=(other.der, MIDDLE.der))
    with pytest.raises(Rejected, match="not by that key"):
        trust.signer(swapped, (trust.Anchor("root", None, None, ROOT.certificate),), pki.NOW)


def test_a_certificate_has_one_spelling():
    # Found by fuzzing: a signature's bit string of one unused bit, where that bit is 0 anyway.
    held = next(one for one in (pki.SIGNER.by(MIDDLE) for _ in range(100)) if one.der[-1] % 2 == 0)
    length = len(held.certificate.signature)
    respelt = held.der[: -length - 1] + b"\x01" + held.der[-length:]
    assert x509.load_der_x509_certificate(respelt).signature == held.certificate.signature
    with pytest.raises(Rejected, match="unused bits"):
        certificates.decode(respelt)


@pytest.mark.parametrize("name", [b"\xa3\0", b"\xa5\0"], ids=["X.400", "EDI"])
def test_a_name_of_a_kind_that_nobody_reads_is_a_rejection(name):
    # Found beside the fuzzing: what cryptography raises for these is no ValueError.
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), bytes([0x30, len(name)]) + name)
    with pytest.raises(Rejected, match="cannot be read"):
        certificates.decode(pki.SIGNER.but(extensions=((names, False),)).by(MIDDLE).der)


def test_time_passes():
    assert believed(SIGNER, now=pki.NOW)
    with pytest.raises(Rejected, match="not valid at"):
        believed(SIGNER, now=pki.NOW + 31 * DAY)


def pinned(held: pki.Held, role=None) -> trust.Anchor:
    return trust.Anchor("signer.pem", role, held.key.public_key(), held.certificate)


def test_a_certificate_may_be_trusted_by_itself_and_counts_for_its_key_while_it_is_good():
    by_key = signature.sign(STATED, SIGNER.key)
    by_certificate = signature.sign(STATED, SIGNER.key, [SIGNER.certificate])
    for made in (by_key, by_certificate):
        signer = trust.signer(made, (pinned(SIGNER),), pki.NOW)
        assert signer.fingerprint == keys.fingerprint(SIGNER.key.public_key())
        assert signer.until == SIGNER.certificate.not_valid_after_utc
        with pytest.raises(Rejected, match="is valid from"):
            trust.signer(made, (pinned(SIGNER),), pki.NOW + 31 * DAY)


@pytest.mark.parametrize("name", sorted(set(LEAVES) - {"an authority"}))
def test_a_certificate_that_is_trusted_by_itself_is_held_to_the_same(name):
    changes, _ = LEAVES[name]
    held = pki.SIGNER.but(**changes).by(MIDDLE)
    for chain in ([], [held.certificate]):
        with pytest.raises(Rejected):
            trust.signer(signature.sign(STATED, held.key, chain), (pinned(held),), pki.NOW)


def test_a_trusted_bare_key_does_not_carry_a_certificate_that_nobody_vouches_for():
    made = signature.sign(STATED, SIGNER.key, [SIGNER.certificate, MIDDLE.certificate])
    with pytest.raises(Rejected, match="no certificate is trusted"):
        trust.signer(made, (trust.Anchor("k.pub", None, SIGNER.key.public_key()),), pki.NOW)


def test_files_of_trusted_keys_hold_public_keys_or_certificates(tmp_path):
    pem = pki.written(tmp_path / "all.pem", ROOT.pem + SIGNER.pem)
    pub = pki.written(tmp_path / "k.pub", pki.public_pem(SIGNER.key))
    anchors = trust.load([(None, pem), ("release", pub)])
    assert [(one.role, one.key is None, one.certificate is None) for one in anchors] == [
        (None, True, False),
        (None, False, False),
        ("release", False, True),
    ]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not the PEM"),
        (b"\0" * 100, "not the PEM"),
        (pki.private_pem(SIGNER.key), "holds a private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate"),
        (b"x" * (trust.LARGEST + 1), "larger than"),
    ],
)
def test_a_file_that_holds_no_public_key_is_a_complaint(data, why, tmp_path):
    with pytest.raises(ConfigError, match=why):
        trust.load([(None, pki.written(tmp_path / "k", data))])


def test_keys_of_other_kinds_are_not_taken(tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    for private in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())):
        path = pki.written(tmp_path / "k", pki.public_pem(private))
        with pytest.raises(ConfigError, match="another kind"):
            trust.load([(None, path)])
        with pytest.raises(ConfigError, match="another kind"):
            keys.parse_private(pki.private_pem(private), None, "k.pem")
