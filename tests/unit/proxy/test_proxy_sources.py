"""The sources: whose connections count together."""

import pytest

from torchserve_guard.proxy.sources import Sources, source_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%lo", "fe80::2%eth0", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_an_address_is_one_source_and_a_64_of_ipv6_is_one(one, other, same):
    assert (source_of((one, 1, 0, 0)) == source_of((other, 2))) is same


def test_a_unix_socket_has_no_source_and_is_never_full():
    sources = Sources(1)
    assert source_of("") is source_of(b"") is source_of(None) is None
    sources.enter(None)
    sources.enter(None)
    assert not sources.is_full(None)
    sources.leave(None)


def test_who_has_as_many_as_there_may_be_is_full_until_one_leaves_and_is_then_forgotten():
    sources = Sources(2)
    sources.enter(b"a")
    sources.enter(b"a")
    assert (sources.is_full(b"a"), sources.is_full(b"b")) == (True, False)
    sources.leave(b"a")
    assert not sources.is_full(b"a")
    sources.leave(b"a")
    sources.leave(b"a")
    assert len(sources) == 0
    assert not Sources(None).is_full(b"a")
