"""A client certificate stands for somebody, as long as it is good, and for no more than two keys."""

from __future__ import annotations

import authority
import pki
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from torchserve_guard.access import ANONYMOUS, CERTIFIED, SERVER, Action, Mode, Operation, Principal
from torchserve_guard.identity import Certificate, read_certificate
from torchserve_guard.policy import Access, decide

CLIENTS = authority.root("Clients")
API = Principal("api-key", frozenset({"api"}))


def read(issued: authority.Issued) -> Certificate | None:
    return read_certificate(issued.certificate.public_bytes(serialization.Encoding.DER))


def test_its_name_is_its_subject_and_its_other_names_are_kept():
    certificate = read(CLIENTS.issue("alice", dns=["a.example"], addresses=[], uris=["spiffe://example/a"]))
    assert certificate is not None
    assert certificate.principal == Principal("CN=alice", frozenset({CERTIFIED}))
    assert certificate.names == ("DNS:a.example", "URI:spiffe://example/a")


def test_without_a_subject_its_name_is_its_first_other_name():
    certificate = read(CLIENTS.issue("", dns=[], addresses=[], uris=["spiffe://example/a"]))
    assert certificate is not None
    assert certificate.principal.name == "URI:spiffe://example/a"


def test_who_has_no_name_at_all_is_nobody():
    assert read(CLIENTS.issue("", dns=[], addresses=[])) is None
    assert read_certificate(b"\x30\x00") is None


@pytest.mark.parametrize("name", [b"\xa3\0", b"\xa5\0"], ids=["X.400", "EDI"])
def test_who_has_a_name_of_a_kind_that_nobody_reads_is_nobody(name):
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), bytes([0x30, len(name)]) + name)
    assert read_certificate(pki.SIGNER.but(extensions=((names, False),)).by().der) is None


@pytest.mark.parametrize("name", ["anonymous", "api-key", "management-key", "a,CN=root", "x\\0y", "<b>\n"])
def test_no_name_is_taken_for_another_principals(name):
    certificate = read(CLIENTS.issue(name))
    assert certificate is not None
    assert certificate.principal.name.startswith("CN=")
    assert certificate.principal.name.replace("\\,", "").count(",") == 0


def test_a_long_name_is_cut():
    certificate = read(CLIENTS.issue("", dns=[], addresses=[], uris=["spiffe://example/" + "a" * 5000]))
    assert certificate is not None
    assert len(certificate.principal.name) == 256


def test_it_stands_for_nobody_outside_its_dates_and_takes_nothing_from_a_key():
    certificate = read(CLIENTS.issue("alice"))
    assert certificate is not None
    before, after = certificate.not_before - 1, certificate.not_after + 1
    within = certificate.not_before + 1
    for other in (ANONYMOUS, API):
        assert certificate.together(other, before) is other
        assert certificate.together(other, after) is other
    assert certificate.together(ANONYMOUS, within) == certificate.principal
    both = certificate.together(API, within)
    assert both == Principal("CN=alice with api-key", frozenset({CERTIFIED, "api"}))


@pytest.mark.parametrize("keys_required", [True, False])
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("action", Action)
def test_it_permits_what_two_keys_permit_and_nothing_else(action, mode, keys_required):
    access, operation = Access(mode, keys_required), Operation(action, SERVER, "any")
    certified = decide(access, Principal("CN=alice", frozenset({CERTIFIED})), operation)
    keyed = decide(access, Principal("keys", frozenset({"inference", "management"})), operation)
    assert certified.effect is keyed.effect
