"""The addresses of a host are judged by what they lead to, however they are written."""

import ipaddress

import pytest

from torchserve_guard import origin
from torchserve_guard.archives.remote.addresses import METADATA, fault, judged
from torchserve_guard.archives.remote.failure import Unfetched
from torchserve_guard.errors import VerificationError

EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
WHERE = origin.parse("https://models.example.com/m.mar")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.0.1",
        "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001:db8::1", "100::1",
        # an IPv4 address inside
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::",
        "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b:1::7f00:1",
        # not one that can be judged
        "fe80::1%eth0", "127.1", "localhost", "",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address):
    assert fault(address, ()) is not None


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_what_is_public_may_be_reached(address):
    assert fault(address, ()) is None


@pytest.mark.parametrize("address", sorted(map(str, METADATA)))
def test_where_clouds_hand_out_credentials_no_key_helps(address):
    assert "credentials" in str(fault(address, EVERYTHING))


def test_nor_does_another_spelling():
    for address in ("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"):
        assert "credentials" in str(fault(address, EVERYTHING))


def test_a_network_that_was_named_may_be_reached_and_no_other():
    named = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    assert [fault(one, named) is None for one in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1")] == [True] * 3
    assert [fault(one, named) is None for one in ("10.2.0.1", "127.0.0.1", "fe80::1")] == [False] * 3


def test_every_address_of_a_host_is_judged():
    assert judged(WHERE, 443, (), lambda *_: ["1.1.1.1", "8.8.8.8"]) == ["1.1.1.1", "8.8.8.8"]
    with pytest.raises(VerificationError, match=r"has the address 10\.0\.0\.1"):
        judged(WHERE, 443, (), lambda *_: ["1.1.1.1", "10.0.0.1"])


def test_a_host_without_addresses_is_not_to_be_had():
    def unknown(*_):
        raise OSError("Name or service not known")

    for ask in (unknown, lambda *_: []):
        with pytest.raises(Unfetched, match="has no address"):
            judged(WHERE, 443, (), ask)
