"""Archives from elsewhere: a real HTTPS host, good or hostile, and what the guard takes from it."""

import contextlib
import dataclasses
import fcntl
import hashlib
import ipaddress
import os
import re
import socket
import threading
import time

import authority
import origins
import pytest
import servers

from torchserve_guard import origin
from torchserve_guard.archives import MemberEntry, SubjectEntry
from torchserve_guard.archives.remote import addresses, https, quarantine
from torchserve_guard.archives.remote.failure import Unfetched
from torchserve_guard.archives.remote.fetching import fetched
from torchserve_guard.archives.remote.quarantine import KEPT, Quarantine
from torchserve_guard.errors import ConfigError, GuardError, VerificationError
from torchserve_guard.origin import Scheme
from torchserve_guard.terms import Proxy, Terms

pytestmark = pytest.mark.usefixtures("forgotten")
DATA = os.urandom(1 << 20)
HALF = len(DATA) // 2
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
ANYWHERE = (re.compile(".*"),)


@pytest.fixture
def terms(site):
    return Terms(ANYWHERE, LOOPBACK, site.authorities, timeout=60, stall=20)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "quarantine"


def listed(data: bytes = DATA, **more) -> SubjectEntry:
    member = MemberEntry(path="MAR-INF/MANIFEST.json", size=1, sha256="0" * 64)
    known = {"name": "m.mar", "kind": "mar", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return SubjectEntry(**{**known, "members": (member,), **more})


def fetch(url, terms, place, subject=None, **more) -> bytes:
    """Fetch, and return what was lent."""
    where = origin.parse(url)
    with fetched(where, subject or listed(), terms, Quarantine(place, time.time()), **more) as path:
        return path.read_bytes()


def ranges(site) -> list[str | None]:
    return [headers.get("Range") for _, headers in site.asked]


def left(place) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def broken_off(data=DATA, etag='"one"', after=HALF):
    """Say that all of it comes, and hang up in the middle."""

    def behave(handler):
        handler.say(200, data[:after], **{"Content-Length": str(len(data)), "ETag": etag})

    return behave


def begun(site, terms, place, path="/m.mar", **more) -> str:
    """Leave half of the archive in the quarantine; return the address, which now has all of it."""
    url = site.does(path, broken_off(**more))
    with pytest.raises(Unfetched, match="are kept for the next time"):
        fetch(url, terms, place)
    site.behaviours.clear()
    site.asked.clear()
    return site.has(path, DATA)


# --- what comes, and what is asked for ---------------------------------------------------------------------------


def test_a_listed_archive_is_lent_whole_and_gone_from_the_quarantine_afterwards(site, terms, place):
    counted = []
    assert fetch(site.has("/a/m.mar", DATA), terms, place, progress=counted.append) == DATA
    assert sum(counted) == len(DATA)
    assert left(place) == []
    assert os.stat(place).st_mode & 0o777 == 0o700


def test_nothing_is_asked_for_but_plain_bytes_and_nobody_is_told_who_asks(site, terms, place):
    fetch(site.has("/m.mar", DATA), terms, place)
    ((path, headers),) = site.asked
    assert path == "/m.mar"
    assert headers["Accept-Encoding"] == "identity"
    assert headers.keys() == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}


def test_while_it_is_lent_it_lies_under_the_digest_and_is_private(site, terms, place):
    with fetched(origin.parse(site.has("/m.mar", DATA)), listed(), terms, Quarantine(place, 0.0)) as path:
        assert path.name == f"mar-{listed().sha256}"
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_query_is_sent_and_is_in_no_message(site, terms, place):
    site.has("/m.mar", DATA)
    assert fetch(site.url("/m.mar?X-Amz-Signature=hunter2"), terms, place) == DATA
    assert site.asked[0][0] == "/m.mar?X-Amz-Signature=hunter2"
    with pytest.raises(VerificationError) as caught:
        fetch(site.url("/m.mar?X-Amz-Signature=hunter2"), terms, place, listed(b"other" * 100, size=None))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Unfetched) as failed:
        fetch(site.url("/none/m.mar?X-Amz-Signature=hunter2"), terms, place)
    assert "hunter2" not in str(failed.value)
    assert "404" in str(failed.value)


def test_the_secret_of_an_address_is_not_on_the_disk(site, terms, place):
    site.does("/m.mar", broken_off())
    with pytest.raises(Unfetched):
        fetch(site.url("/m.mar?sig=hunter2"), terms, place)
    assert len(left(place)) == 2
    assert not any(b"hunter2" in path.read_bytes() for path in place.iterdir() if path.suffix == ".json")


# --- resuming ------------------------------------------------------------------------------------------------------


def test_what_was_begun_is_continued_at_the_next_start(site, terms, place):
    url = begun(site, terms, place)
    assert fetch(url, terms, place) == DATA
    assert ranges(site) == [f"bytes={HALF}-"]


def test_within_one_start_the_rest_is_asked_for_as_long_as_something_comes(site, terms, place):
    def behave(handler):
        site.behaviours.clear()
        broken_off()(handler)

    site.has("/m.mar", DATA)
    assert fetch(site.does("/m.mar", behave), terms, place) == DATA
    assert ranges(site) == [None, f"bytes={HALF}-"]


def test_another_signature_of_the_same_address_continues_the_same_file(site, terms, place):
    begun(site, terms, place)
    assert fetch(site.url("/m.mar?sig=new"), terms, place) == DATA
    assert ranges(site) == [f"bytes={HALF}-"]


@pytest.mark.parametrize("change", ["etag", "address", "note lost", "note nonsense", "no validator"])
def test_what_cannot_be_continued_is_begun_anew(site, terms, place, change):
    url = begun(site, terms, place, etag="" if change == "no validator" else '"one"')
    note = next(path for path in place.iterdir() if path.suffix == ".json")
    if change == "etag":
        url = site.has("/m.mar", DATA, '"two"')
    elif change == "address":
        url = site.has("/elsewhere/m.mar", DATA)
    elif change == "note lost":
        note.unlink()
    elif change == "note nonsense":
        note.write_text('{"origin": [], "validator": 1, "total": "x"}')
    assert fetch(url, terms, place) == DATA
    assert ranges(site) == [f"bytes={HALF}-" if change == "etag" else None]
    assert left(place) == []


def test_a_weak_etag_continues_nothing(site, terms, place):
    url = begun(site, terms, place, etag='W/"one"')
    fetch(url, terms, place)
    assert ranges(site) == [None]


def test_a_first_half_of_something_else_is_forgotten_and_all_of_it_fetched_again(site, terms, place):
    """The host says that it is the same file; its digest says that it is not."""
    url = begun(site, terms, place, data=os.urandom(len(DATA)))
    assert fetch(url, terms, place) == DATA
    assert ranges(site) == [f"bytes={HALF}-", None]


def test_a_damaged_partial_file_is_found_out(site, terms, place):
    url = begun(site, terms, place)
    part = next(path for path in place.iterdir() if path.suffix != ".json")
    with part.open("r+b") as file:
        file.write(b"damage")
    assert fetch(url, terms, place) == DATA


def test_what_is_whole_already_is_not_asked_for(site, terms, place):
    """The guard was killed between the last byte and the staging."""
    url = begun(site, terms, place)
    part = next(path for path in place.iterdir() if path.suffix != ".json")
    part.write_bytes(DATA)
    assert fetch(url, terms, place) == DATA
    assert site.asked == []


def test_a_host_that_has_nothing_more_is_asked_for_all_of_it(site, terms, place):
    url = begun(site, terms, place, after=HALF)
    site.does("/m.mar", lambda handler: handler.say(416) if "Range" in handler.headers else handler.say(200, DATA))
    assert fetch(url, terms, place) == DATA
    assert ranges(site) == [f"bytes={HALF}-", None]


def test_an_archive_of_a_manifest_without_members_is_kept_and_not_fetched_twice(site, terms, place):
    """Of a SHA256SUMS: the unpacked tree cannot be compared with anything, so the archive itself is kept."""
    bare = listed(size=None, members=())
    url = site.has("/m.mar", DATA)
    assert fetch(url, terms, place, bare) == fetch(url, terms, place, bare) == DATA
    assert len(site.asked) == 1


def test_two_who_want_the_same_fetch_it_once_each_after_the_other(site, terms, place):
    url, found = site.has("/m.mar", DATA), []
    with fetched(origin.parse(url), listed(), terms, Quarantine(place, time.time())):
        other = threading.Thread(target=lambda: found.append(fetch(url, terms, place)))
        other.start()
        deadline = time.monotonic() + 10
        while other.is_alive() and not any("tsguard-watch" in one.name for one in threading.enumerate()):
            assert time.monotonic() < deadline
        assert found == []
    other.join(30)
    assert found == [DATA]


def test_who_waits_for_another_to_fetch_it_waits_no_longer_than_it_is_wanted(site, terms, place):
    url, stop = site.has("/m.mar", DATA), threading.Event()
    stop.set()
    with (
        fetched(origin.parse(url), listed(), terms, Quarantine(place, time.time())),
        pytest.raises(Unfetched, match="the guard stops"),
    ):
        fetch(url, terms, place, stop=stop)


def test_a_file_that_its_holder_removed_meanwhile_is_not_lent(site, terms, place, monkeypatch):
    """Between the opening and the lock the one who had it was done with it."""
    taken = []

    def late(descriptor):
        if not taken:
            next(place.glob("mar-*")).unlink()
        taken.append(descriptor)
        return fcntl.flock(descriptor, fcntl.LOCK_EX) is None

    monkeypatch.setattr(quarantine, "taken", late)
    assert fetch(site.has("/m.mar", DATA), terms, place) == DATA
    assert len(taken) == 2


def test_what_nobody_wanted_for_long_is_removed(site, terms, place):
    begun(site, terms, place)
    Quarantine(place, time.time())
    assert len(left(place)) == 2
    Quarantine(place, time.time() + KEPT + 60)
    assert left(place) == []


# --- what is refused -------------------------------------------------------------------------------------------------


def answers(status=200, body=DATA, **headers):
    return lambda handler: handler.say(
        status, body, **{name.replace("_", "-"): value for name, value in headers.items()}
    )


@pytest.mark.parametrize(
    ("behave", "why"),
    [
        (answers(body=os.urandom(len(DATA))), "has the sha256 .* and the manifest lists"),
        (answers(body=DATA + b"x"), f"has {len(DATA) + 1} bytes, and the manifest lists {len(DATA)}"),
        (answers(body=DATA[:-1]), "and the manifest lists"),
        (answers(Content_Encoding="gzip"), "`Content-Encoding: gzip`, which was not asked for"),
        (answers(Transfer_Encoding="gzip, chunked", Content_Length=None), "`Transfer-Encoding: gzip, chunked`"),
        (answers(206, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"), "which was not asked for"),
        (answers(302, b"", Location="https://evil.example/m.mar"), "redirects are not followed"),
        (answers(302, b"", Location="http://127.0.0.1/m.mar"), "redirects are not followed"),
        (answers(307, b"", Location="file:///etc/passwd"), "redirects are not followed"),
        (answers(301, b"", Location="https://127.0.0.1:1/m.mar"), "redirects are not followed"),
        (answers(308, b"", Location="/other/m.mar"), "redirects are not followed"),
        (answers(304, b""), "redirects are not followed"),
        (answers(Content_Length=None, body=DATA * 2), f"sends more than {len(DATA)} bytes"),
    ],
    ids=lambda value: "" if callable(value) else value[:40],
)
def test_what_is_not_the_listed_archive_is_refused_and_nothing_of_it_stays(site, terms, place, behave, why):
    site.has("/other/m.mar", DATA)
    with pytest.raises(VerificationError, match=why) as caught:
        fetch(site.does("/m.mar", behave), terms, place)
    assert caught.value.exit_code == 4
    assert left(place) == []
    assert len(site.asked) == 1


def test_a_mismatch_names_both_digests_the_archive_and_the_address(site, terms, place):
    other = os.urandom(len(DATA))
    url = site.has("/a/m.mar", other)
    with pytest.raises(VerificationError) as caught:
        fetch(url, terms, place)
    assert all(one in str(caught.value) for one in (url, "`m.mar`", listed().sha256, hashlib.sha256(other).hexdigest()))


def test_where_a_redirect_leads_is_told_without_what_opens_it(site, terms, place):
    url = site.does("/m.mar", answers(302, b"", Location="https://u:pw@other.example/m.mar?X-Amz-Signature=hunter2"))
    with pytest.raises(VerificationError) as caught:
        fetch(url, terms, place)
    assert "other.example/m.mar" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("hunter2", "pw"))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (f"bytes 0-{len(DATA) - 1}/{len(DATA)}", "was asked for what follows"),
        (f"bytes {HALF}-{len(DATA) - 2}/{len(DATA)}", "was asked for what follows"),
        (f"bytes {HALF}-{len(DATA) - 1}/*", "which was not asked for"),
        (f"bytes {HALF + 1}-{len(DATA) - 1}/{len(DATA)}", "was asked for what follows"),
        (f"bytes {HALF}-{len(DATA)}/{len(DATA) + 1}", "was asked for what follows"),
        (None, "which was not asked for"),
    ],
)
def test_a_part_that_is_not_the_one_that_was_asked_for_is_refused(site, terms, place, told, why):
    url = begun(site, terms, place)
    site.does("/m.mar", answers(206, DATA[HALF:], Content_Range=told, ETag='"one"'))
    with pytest.raises(VerificationError, match=why):
        fetch(url, terms, place)
    assert left(place) == []


def test_a_part_that_begins_elsewhere_is_refused_though_it_is_true_to_itself(site, terms, place):
    url = begun(site, terms, place)
    told = f"bytes {HALF + 1}-{len(DATA) - 1}/{len(DATA)}"
    site.does("/m.mar", answers(206, DATA[HALF + 1 :], Content_Range=told, ETag='"one"'))
    with pytest.raises(VerificationError, match="was asked for what follows"):
        fetch(url, terms, place)


def test_a_part_of_another_file_is_refused(site, terms, place):
    url = begun(site, terms, place)
    whole = f"bytes {HALF}-{len(DATA) - 1}/{len(DATA)}"
    site.does("/m.mar", answers(206, DATA[HALF:], Content_Range=whole, ETag='"two"'))
    with pytest.raises(VerificationError, match="continues another file"):
        fetch(url, terms, place)


def test_a_body_without_an_end_is_cut_at_what_is_listed(site, terms, place):
    written = []

    def endless(handler):
        handler.say(200, b"", **{"Content-Length": None, "Connection": "close"})
        while not site.ended.is_set():
            handler.wfile.write(DATA)
            written.append(len(DATA))

    with pytest.raises(VerificationError, match="sends more than"):
        fetch(site.does("/m.mar", endless), terms, place)
    assert sum(written) < 64 * len(DATA)
    assert left(place) == []


@pytest.mark.parametrize("told", ["Content-Length", None])
def test_what_is_larger_than_the_limit_is_refused_where_the_manifest_says_nothing_of_its_size(site, terms, place, told):
    small = dataclasses.replace(terms, largest=1000)
    url = site.does("/m.mar", lambda handler: handler.say(200, DATA, **({} if told else {"Content-Length": None})))
    with pytest.raises(VerificationError, match=r"1000"):
        fetch(url, small, place, listed(size=None))
    assert left(place) == []


def test_what_is_listed_as_larger_than_the_limit_is_not_asked_for(site, terms, place):
    with pytest.raises(VerificationError, match=r"guard\.fetch_max_size"):
        fetch(site.has("/m.mar", DATA), dataclasses.replace(terms, largest=1000), place)
    assert site.asked == []


def test_what_the_disk_has_no_room_for_is_not_begun(site, terms, place):
    huge = 1 << 60
    url = site.does("/m.mar", answers(body=b"", Content_Length=str(huge)))
    with pytest.raises(GuardError, match="no room"):
        fetch(url, dataclasses.replace(terms, largest=huge), place, listed(size=huge))


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
def test_what_is_not_to_be_had_is_said_with_the_status_and_exit_code_4(site, terms, place, status):
    with pytest.raises(Unfetched, match=f"answers {status}") as caught:
        fetch(site.does("/m.mar", answers(status, b"no")), terms, place)
    assert caught.value.exit_code == 4


def test_an_address_that_is_not_allowed_is_not_asked(site, terms, place):
    for expression in ("https://other/.*", f"{site.url('/m')}", "(?!)"):
        with pytest.raises(VerificationError, match="`allowed_urls`"):
            fetch(site.has("/m.mar", DATA), dataclasses.replace(terms, allowed=(re.compile(expression),)), place)
    assert site.asked == []


# --- time ------------------------------------------------------------------------------------------------------------


def drip(*, head: bool):
    """Send a byte now and then, so that no single reading is late."""

    def behave(handler):
        ended = handler.host.ended
        if head:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        else:
            handler.say(200, b"", **{"Content-Length": str(len(DATA))})
        while not ended.wait(0.05):
            handler.wfile.write(b"x")

    return behave


@pytest.mark.parametrize("head", [True, False], ids=["head", "body"])
def test_a_slow_drip_is_a_stall(site, terms, place, head):
    impatient = dataclasses.replace(terms, stall=1)
    began = time.monotonic()
    with pytest.raises(Unfetched, match=r"guard\.fetch_stall_timeout"):
        fetch(site.does("/m.mar", drip(head=head)), impatient, place)
    assert time.monotonic() - began < 30


def test_an_answer_that_never_begins_is_a_stall(site, terms, place):
    impatient = dataclasses.replace(terms, stall=1)
    with pytest.raises(Unfetched):
        fetch(site.does("/m.mar", lambda handler: handler.host.ended.wait(30)), impatient, place)


def test_a_fetch_ends_when_its_time_is_over_and_what_came_is_kept(site, terms, place):
    def steady(handler):
        handler.say(200, b"", **{"Content-Length": str(len(DATA)), "ETag": '"one"'})
        for begin in range(0, len(DATA) - 4096, 4096):
            handler.wfile.write(DATA[begin : begin + 4096])
            if handler.host.ended.wait(0.2):
                return

    with pytest.raises(Unfetched, match=r"guard\.fetch_timeout"):
        fetch(site.does("/m.mar", steady), dataclasses.replace(terms, timeout=4), place)
    assert len(left(place)) == 2


def test_a_fetch_is_given_up_when_it_is_no_longer_wanted(site, terms, place):
    stop, asked = threading.Event(), threading.Event()

    def behave(handler):
        asked.set()
        handler.host.ended.wait(30)

    threading.Thread(target=lambda: asked.wait(30) and stop.set()).start()
    with pytest.raises(Unfetched, match="the guard stops"):
        fetch(site.does("/m.mar", behave), terms, place, stop=stop)


def test_a_host_that_never_shakes_hands_is_a_stall(terms, place):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(Unfetched):
            fetch(f"https://127.0.0.1:{mute.getsockname()[1]}/m.mar", dataclasses.replace(terms, stall=1), place)


def test_a_host_that_is_not_there_is_said_to_be_so(terms, place):
    (port,) = servers.free_ports(1)
    with pytest.raises(Unfetched, match="no connection to the host"):
        fetch(f"https://127.0.0.1:{port}/m.mar", terms, place)


# --- who it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "certificate",
    [
        {"addresses": ("127.0.0.2",), "dns": ()},
        {"addresses": (), "dns": ("localhost",)},
        {"days": -0.5, "since": -1},
        {"usage": authority.CLIENT},
    ],
    ids=["another address", "only a name", "expired", "for clients"],
)
def test_a_certificate_that_is_not_the_hosts_is_refused(tmp_path, terms, place, certificate):
    with origins.host(tmp_path, **certificate) as other:
        with pytest.raises(VerificationError, match="certificate that does not verify"):
            fetch(other.has("/m.mar", DATA), dataclasses.replace(terms, authorities=other.authorities), place)
        assert other.asked == []


def test_a_certificate_of_an_authority_that_nobody_named_is_refused(site, terms, place):
    with pytest.raises(VerificationError, match="certificate that does not verify"):
        fetch(site.has("/m.mar", DATA), dataclasses.replace(terms, authorities=None), place)
    assert site.asked == []


def test_a_bundle_that_holds_no_certificates_is_said_to_be_so(site, terms, place, tmp_path):
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"guard\.fetch_ca"):
        fetch(site.has("/m.mar", DATA), dataclasses.replace(terms, authorities=tmp_path / "empty.pem"), place)


def test_loopback_is_refused_unless_it_is_allowed(site, terms, place):
    with pytest.raises(VerificationError, match="which is not public"):
        fetch(site.has("/m.mar", DATA), dataclasses.replace(terms, networks=()), place)
    assert site.asked == []


def test_a_name_is_asked_for_its_addresses_once_and_connected_to_the_one_that_was_judged(site, terms, place):
    """DNS rebinding: the second answer would be another address."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])

    def transfer(errand):
        https.transfer(errand, lambda *_: next(answers))

    site.has("/m.mar", DATA)
    url = f"https://localhost:{site.port}/m.mar"
    assert fetch(url, terms, place, transfers={Scheme.HTTPS: transfer}) == DATA
    assert next(answers) == ["127.0.0.2"]


def test_a_connection_goes_to_the_judged_address_and_the_certificate_is_the_names(tmp_path, terms, place):
    """The name is known to nobody but the one who is asked for its addresses."""

    def transfer(errand):
        https.transfer(errand, lambda *_: ["127.0.0.1"])

    with origins.host(tmp_path, dns=("models.example",), addresses=()) as other:
        other.has("/m.mar", DATA)
        trusting = dataclasses.replace(terms, authorities=other.authorities)
        url = f"https://models.example:{other.port}/m.mar"
        assert fetch(url, trusting, place, transfers={Scheme.HTTPS: transfer}) == DATA
        assert other.asked[0][1]["Host"] == f"models.example:{other.port}"
        wrong = f"https://other.example:{other.port}/m.mar"
        with pytest.raises(VerificationError, match="certificate that does not verify"):
            fetch(wrong, trusting, place, transfers={Scheme.HTTPS: transfer})


def test_one_bad_address_of_several_is_one_too_many(site, terms, place):
    def transfer(errand):
        https.transfer(errand, lambda *_: ["127.0.0.1", "169.254.169.254"])

    site.has("/m.mar", DATA)
    with pytest.raises(VerificationError, match="hands out credentials"):
        fetch(f"https://localhost:{site.port}/m.mar", terms, place, transfers={Scheme.HTTPS: transfer})
    assert site.asked == []


def test_the_next_address_is_tried_when_one_does_not_answer(site, terms, place):
    def transfer(errand):
        https.transfer(errand, lambda *_: ["::1", "127.0.0.1"])

    site.has("/m.mar", DATA)
    url = f"https://localhost:{site.port}/m.mar"
    both = dataclasses.replace(terms, networks=(*LOOPBACK, ipaddress.ip_network("::1")))
    # Nobody listens on that port of the first address: the host is bound to the second alone.
    assert fetch(url, both, place, transfers={Scheme.HTTPS: transfer}) == DATA


def test_the_system_is_asked_for_all_addresses():
    assert "127.0.0.1" in addresses.resolve("localhost", 443)


# --- proxies ---------------------------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_not_used(site, terms, place, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(site.has("/m.mar", DATA), terms, place) == DATA


class Relay(threading.Thread):
    """A proxy that knows CONNECT, once, and keeps what it was told."""

    def __init__(self, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
        super().__init__(daemon=True)
        self.answer = answer
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.head = b""
        self.start()

    def run(self):
        with self.listening, self.listening.accept()[0] as client:
            while b"\r\n\r\n" not in self.head:
                self.head += client.recv(4096)
            client.sendall(self.answer)
            if b" 200 " not in self.answer:
                return
            host, _, port = self.head.split(b" ")[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as there:
                back = threading.Thread(target=_pour, args=(there, client), daemon=True)
                back.start()
                _pour(client, there)
                back.join(30)


def _pour(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_a_proxy_that_was_named_connects_us_and_sees_no_more_than_the_host(site, terms, place):
    relay = Relay()
    through = dataclasses.replace(terms, proxy=Proxy("127.0.0.1", relay.port, "user:hunter2"))
    site.has("/m.mar", DATA)
    assert fetch(site.url("/m.mar?sig=secret"), through, place) == DATA
    relay.join(30)
    assert relay.head.startswith(f"CONNECT 127.0.0.1:{site.port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in relay.head
    assert b"secret" not in relay.head
    assert "Proxy-Authorization" not in site.asked[0][1]


def test_a_proxy_that_refuses_is_said_to(site, terms, place):
    relay = Relay(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    with pytest.raises(Unfetched, match="407"):
        fetch(site.has("/m.mar", DATA), dataclasses.replace(terms, proxy=Proxy("127.0.0.1", relay.port)), place)
    relay.join(30)
    assert site.asked == []


def test_an_address_is_judged_behind_a_proxy_as_well(site, terms, place):
    through = dataclasses.replace(terms, proxy=Proxy("127.0.0.1", 1), networks=())
    with pytest.raises(VerificationError, match="which is not public"):
        fetch(site.has("/m.mar", DATA), through, place)


# --- who has the same user, or is slow where no socket is ours ------------------------------------------------------


def test_a_name_that_nobody_answers_for_is_a_stall(terms, place):
    """The system's resolver knows no limit of time."""
    answer = threading.Event()

    def transfer(errand):
        https.transfer(errand, lambda *_: answer.wait(60) and ["127.0.0.1"])

    patient = dataclasses.replace(terms, stall=1)
    try:
        with pytest.raises(Unfetched, match="has no address"):
            fetch("https://models.example/m.mar", patient, place, transfers={Scheme.HTTPS: transfer})
    finally:
        answer.set()


def test_who_waits_for_a_name_waits_no_longer_than_it_is_wanted(terms, place):
    stop, answer = threading.Event(), threading.Event()

    def ask(*_):
        stop.set()
        return answer.wait(60) and ["127.0.0.1"]

    try:
        with pytest.raises(Unfetched, match="the guard stops"):
            fetch(
                "https://models.example/m.mar",
                terms,
                place,
                stop=stop,
                transfers={Scheme.HTTPS: lambda errand: https.transfer(errand, ask)},
            )
    finally:
        answer.set()


def test_a_connection_that_nobody_takes_is_given_up_when_the_fetch_is(terms, place):
    """A host whose queue is full answers no SYN."""
    stop = threading.Event()
    with contextlib.ExitStack() as full:
        deaf = full.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            waiting = full.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(deaf.getsockname())
        threading.Timer(0.5, stop.set).start()
        began = time.monotonic()
        with pytest.raises(Unfetched, match="the guard stops"):
            fetch(f"https://127.0.0.1:{deaf.getsockname()[1]}/m.mar", terms, place, stop=stop)
        assert time.monotonic() - began < terms.stall / 2


def partial_of(place):
    place.mkdir(mode=0o700)
    return place / f"mar-{listed().sha256}"


def test_a_planted_file_of_any_size_is_forgotten_and_not_read(site, terms, place):
    """A sparse file of 4 TiB takes no room, and an hour to hash."""
    with partial_of(place).open("wb") as file:
        file.truncate(4 << 40)
    assert fetch(site.has("/m.mar", DATA), terms, place) == DATA


def test_who_reads_what_came_before_stops_when_the_fetch_does(site, terms, place):
    huge, stop = 4 << 40, threading.Event()
    with partial_of(place).open("wb") as file:
        file.truncate(huge)
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(Unfetched, match="the guard stops"):
        fetch(site.url("/m.mar"), dataclasses.replace(terms, largest=huge), place, listed(size=huge), stop=stop)


def test_a_pipe_in_the_place_of_a_note_keeps_nobody_waiting(site, terms, place):
    path = partial_of(place)
    path.write_bytes(DATA[:HALF])
    os.mkfifo(path.with_name(f"{path.name}.json"), 0o600)
    assert fetch(site.has("/m.mar", DATA), terms, place) == DATA


def test_a_note_with_a_line_of_its_own_adds_none_to_a_request(site, terms, place):
    url = begun(site, terms, place)
    (note,) = place.glob("*.json")
    note.write_text(note.read_text().replace("one", "one\\r\\nX-Evil: yes"))
    assert fetch(url, terms, place) == DATA
    assert ranges(site) == [None]


def nested(place):
    partial = partial_of(place)
    partial.write_bytes(DATA[:HALF])
    partial.with_name(f"{partial.name}.json").write_text("[" * 16000)


def test_a_note_that_is_nothing_but_brackets_says_nothing(site, terms, place):
    nested(place)
    assert fetch(site.has("/m.mar", DATA), terms, place) == DATA


@pytest.mark.parametrize("kind", ["a second name", "a pipe", "a link"])
def test_what_is_not_a_file_of_its_own_is_not_written_to(site, terms, place, tmp_path, kind):
    precious, path = tmp_path / "audit.jsonl", partial_of(place)
    precious.write_bytes(b"what was recorded")
    if kind == "a pipe":
        os.mkfifo(path, 0o600)
    else:
        (path.hardlink_to if kind == "a second name" else path.symlink_to)(precious)
    with pytest.raises(GuardError, match=r"guard's own|cannot be kept"):
        fetch(site.has("/m.mar", DATA), terms, place)
    assert precious.read_bytes() == b"what was recorded"


def test_a_host_that_tells_no_size_cannot_fill_the_disk(site, terms, place, monkeypatch):
    """A guard that cannot write its record serves nobody."""
    free = os.statvfs(place.parent)
    monkeypatch.setattr(quarantine, "LEFT", free.f_bavail * free.f_frsize * 2)

    def endless(handler):
        handler.say(200, **{"Content-Length": None, "Transfer-Encoding": "chunked"})
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(DATA), DATA))

    with pytest.raises(GuardError, match="no room"):
        fetch(site.does("/m.mar", endless), terms, place, listed(size=None))
    assert sum(path.stat().st_size for path in place.glob("mar-*[0-9a-f]") if path.suffix != ".json") == 0


@pytest.mark.parametrize("said", ["300 \x1b[2JX", "https://evil.example/\x1b[31m/m.mar?sig=hunter2"])
def test_what_a_host_says_reaches_no_terminal_raw(site, terms, place, said):
    url = site.does("/m.mar", lambda handler: handler.say(302, Location=said))
    with pytest.raises(VerificationError) as caught:
        fetch(url, terms, place)
    assert str(caught.value).isprintable()
    assert "hunter2" not in str(caught.value)


def test_an_expression_that_takes_for_ever_ends_in_time(site, terms, place):
    slow = dataclasses.replace(terms, allowed=(re.compile("https://(?:[0-9.:]|[0-9.:/a-z])*(?:a|a)*b"),))
    began = time.process_time()
    with pytest.raises(VerificationError, match="takes too long"):
        fetch(site.has(f"/{'a' * 200}/m.mar", DATA), slow, place)
    assert time.process_time() - began < 1  # not in this process, whose interpreter the door needs
    assert site.asked == []
