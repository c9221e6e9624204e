"""The address of a listener."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.settings.address import Address, parse

hosts = st.sampled_from(["127.0.0.1", "0.0.0.0", "localhost", "model-server", "10.1.2.3"])
addresses = st.one_of(
    st.builds(Address, st.sampled_from(["http", "https"]), hosts, st.integers(1, 65535)),
    st.builds(lambda name: parse("unix:/" + name), st.text("abc/._-", max_size=50)),
)


@given(addresses)
def test_what_is_printed_is_what_is_read(address):
    assert parse(str(address)) == address


@given(addresses, addresses)
def test_overlap_is_mutual_and_everything_overlaps_itself(first, second):
    assert first.overlaps(second) == second.overlaps(first)
    assert first.overlaps(first)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("http://127.0.0.1:1", "http://localhost:1", True),
        ("http://0.0.0.0:1", "http://10.1.2.3:1", True),
        ("http://10.1.2.3:1", "http://10.1.2.4:1", False),
        ("http://127.0.0.1:1", "http://127.0.0.1:2", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a/./s", "unix:/a/s", True),
        ("unix:/a//b/../s", "unix:/a/s", True),
        ("unix:/a", "http://127.0.0.1:1", False),
        ("http://h", "http://h:80", True),
        ("https://h", "https://h:443", True),
    ],
)
def test_two_addresses_overlap_when_they_cannot_both_be_listened_on(one, other, overlap):
    assert parse(one).overlaps(parse(other)) is overlap


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9:1", True),
        ("http://localhost:1", True),
        ("unix:/a", True),
        ("http://0.0.0.0:1", False),
        ("http://10.0.0.1:1", False),
        ("http://example:1", False),
    ],
)
def test_local_is_what_only_this_machine_reaches(text, local):
    assert parse(text).local is local


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://h:1/",
        "ftp://h:1",
        "unix:a",
        "http://[::1]:1",
        " http://h:1",
        "http://h:1\n",
        "http://\ud800:1",
        "http://a..b:1",
        "http://" + "a" * 64 + ":1",
        "unix:/\ud800",
        "http://a b:1",
        "http://user@h:1",
        "http://h?x:1",
        "http://h#x:1",
        "http://h\t:1",
        "http://h%41:1",
    ],
)
def test_what_torchserve_could_not_listen_on_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse(text)
