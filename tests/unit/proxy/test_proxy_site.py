"""Where a change without a key may come from: never from a page, never under a name that could be rebound."""

import pytest

from torchserve_guard.errors import Forbidden
from torchserve_guard.proxy.head import RequestReader
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.site import verify_own
from torchserve_guard.wire import Listener


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8081", "127.0.0.1", "127.0.0.1:8081", "127.9.9.9:1", "[::1]", "[::1]:8081", None]
)
def test_a_name_of_loopback_is_its_own(host):
    verify_own(None if host is None else host.encode(), from_page=False)


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8081",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "localhost.",
        "0.0.0.0:8081",
        "10.0.0.5:8081",
        "[::]:8081",
        "[::ffff:10.0.0.5]",
        "2130706433",
        "0x7f.1",
        "127.1",
        "localhost@attacker.example",
        "localhost:8081:1",
        "localhost\u00e9",
        "[127.0.0.1.attacker.example]",
        "",
    ],
)
def test_another_name_is_not_and_may_have_been_rebound(host):
    with pytest.raises(Forbidden) as caught:
        verify_own(host.encode("latin-1"), from_page=False)
    assert caught.value.rule == "foreign-host"


def test_what_a_page_sends_is_refused_whatever_the_host():
    with pytest.raises(Forbidden) as caught:
        verify_own(b"localhost:8081", from_page=True)
    assert caught.value.rule == "cross-site"


@pytest.mark.parametrize("origin", ["https://attacker.example", "null", "http://localhost:8081", ""])
def test_the_reader_tells_the_host_and_whether_there_is_an_origin(origin):
    reader = RequestReader(Listener.MANAGEMENT, Limits())
    head = f"POST /models?url=a.mar HTTP/1.1\r\nHost: localhost:8081\r\noRiGiN: {origin}".encode()
    for _ in range(2):  # the second one from memory
        read = reader.read(head)
        assert (read.host, read.from_page) == (b"localhost:8081", True)
        assert not any(b"rigin" in line.lower() for line in read.passed)
    assert not reader.read(head.partition(b"\r\noR")[0]).from_page
