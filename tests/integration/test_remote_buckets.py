"""Archives in buckets: the real clients of S3 and Google's storage against servers of their protocols, good or hostile.

Clients and servers are in an environment of their own, which the first run installs beside this one.
"""

import contextlib
import dataclasses
import functools
import hashlib
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import buckets
import environments
import pytest
from corpus.archives import GOOD, archive

from torchserve_guard import archives, origin
from torchserve_guard.archives import MemberEntry, SubjectEntry
from torchserve_guard.archives.remote import bucket, objects
from torchserve_guard.archives.remote.failure import Unfetched
from torchserve_guard.archives.remote.fetching import fetched
from torchserve_guard.archives.remote.quarantine import Quarantine
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.origin import Scheme
from torchserve_guard.terms import Proxy, Terms

DATA = os.urandom(1 << 20)
ANYWHERE = (re.compile(".*"),)
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
COMMAND = "from torchserve_guard.cli import main; main()"


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter that has the clients, the servers, and the guard."""
    return environments.made("buckets", buckets.PACKAGES, ours_too=True)


@pytest.fixture(scope="session")
def path(python) -> list[str]:
    """Where that interpreter looks for modules."""
    show = "import json, sys; print(json.dumps(sys.path[1:]))"
    return json.loads(subprocess.run([str(python), "-c", show], capture_output=True, check=True).stdout)


@pytest.fixture(scope="module", params=["s3", "gs"])
def service(request, python):
    with buckets.store(request.param, python) as serving:
        yield serving


@pytest.fixture(autouse=True)
def forgotten(request):
    """What a test told the service is forgotten."""
    yield
    if "service" in request.fixturenames:
        front = request.getfixturevalue("service").front
        front.behaviours.clear()
        front.asked.clear()


@pytest.fixture
def terms():
    return Terms(ANYWHERE, LOOPBACK, timeout=90, stall=30)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "quarantine"


@pytest.fixture
def fetch(service, python, path, place, tmp_path):
    """Fetch, and return what was lent: `fetch(url, terms, subject)`."""

    def fetching(url, terms, subject=None, stop=None, variables=(), **more) -> bytes:
        told = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **service.variables, **dict(variables), **more}
        begun = functools.partial(objects.reader, python=str(python), path=path, environment=told)
        transfers = dict.fromkeys((Scheme.S3, Scheme.GS), lambda errand: objects.transfer(errand, begun))
        quarantine = Quarantine(place, time.time())
        with fetched(origin.parse(url), subject or listed(), terms, quarantine, transfers=transfers, stop=stop) as lent:
            return lent.read_bytes()

    return fetching


def listed(data: bytes = DATA, **more) -> SubjectEntry:
    member = MemberEntry(path="MAR-INF/MANIFEST.json", size=1, sha256="0" * 64)
    known = {"name": "m.mar", "kind": "mar", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return SubjectEntry(**{**known, "members": (member,), **more})


def left(place) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def nth(number: int, behave):
    """Do this at the request of this number of a kind, counted from one, and forward all others."""
    seen = []

    def behaviour(handler):
        seen.append(handler.path)
        (behave if len(seen) == number else buckets.Handler.forward)(handler)

    return behaviour


def hang_up(handler):
    """Say that all comes, and send a part of it."""
    status, headers, body = handler.fetched()
    handler.send(status, headers, body[: len(body) // 2])


def answers(status: int, body: bytes = b"", **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send(status, named, b"" if handler.command == "HEAD" else body)


def drip(handler):
    """Send a byte now and then, so that no single reading is late: of the head, or of what was asked for."""
    handler.wfile.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1048576\r\n")
    handler.wfile.write(b"\r\n" if handler.kind == "data" else b"X: ")
    while not handler.front.ended.wait(0.05):
        handler.wfile.write(b"x")


# --- what comes ------------------------------------------------------------------------------------------------------


def test_a_listed_archive_is_lent_whole_and_gone_from_the_quarantine_afterwards(service, fetch, terms, place):
    assert fetch(service.has("a/m.mar", DATA), terms) == DATA
    assert left(place) == []
    parts = [tuple(int(number) for number in one.removeprefix("bytes=").split("-")) for one in service.front.ranges()]
    assert parts[0] == (0, bucket.SMALLEST - 1)
    assert parts[-1][1] == len(DATA) - 1


@pytest.mark.parametrize("key", ["a+b/m.mar", "a=b,c/m.mar", "a~!$&'()/@:/m.mar", "m.mar", "x" * 200 + "/m.mar"])
def test_a_key_of_odd_characters_is_the_one_that_was_written(service, fetch, terms, key):
    service.has(key.replace("+", " "), b"another")
    assert fetch(service.has(key, DATA), terms) == DATA


@pytest.mark.parametrize("key", ["a%2Fm.mar", "a//m.mar", "a/../m.mar", "a/./m.mar", "m.mar?versionId=1", "m.mar#1"])
def test_a_key_that_a_client_could_read_in_another_way_is_no_address(key):
    for scheme in ("s3", "gs"):
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
            origin.parse(f"{scheme}://models/{key}")


def test_of_an_object_with_versions_the_latest_is_fetched(service, fetch, terms):
    if service.scheme == "s3":
        on = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        service.front.put("/models?versioning", on)
    service.has("versions/m.mar", b"an older one")
    assert fetch(service.has("versions/m.mar", DATA), terms) == DATA


# --- resuming --------------------------------------------------------------------------------------------------------


def test_what_was_begun_is_continued_at_the_next_start(service, fetch, terms, place):
    url = service.has("m.mar", DATA)
    service.front.behaviours["data"] = lambda handler: (
        hang_up(handler) if len(service.front.ranges()) > 3 else handler.forward()
    )
    with pytest.raises(Unfetched):
        fetch(url, dataclasses.replace(terms, stall=4))
    kept = next(one for one in place.iterdir() if one.suffix != ".json").stat().st_size
    assert kept == 7 * bucket.SMALLEST
    service.front.behaviours.clear()
    service.front.asked.clear()
    assert fetch(url, terms) == DATA
    assert service.front.ranges()[0].startswith(f"bytes={kept}-")


def test_an_object_that_changed_meanwhile_is_begun_anew(service, fetch, terms):
    service.front.behaviours["data"] = lambda handler: (
        hang_up(handler) if len(service.front.ranges()) > 3 else handler.forward()
    )
    with pytest.raises(Unfetched):
        fetch(service.has("m.mar", os.urandom(len(DATA))), dataclasses.replace(terms, stall=4))
    service.front.behaviours.clear()
    service.front.asked.clear()
    assert fetch(service.has("m.mar", DATA), terms) == DATA
    assert service.front.ranges()[0].startswith("bytes=0-")


def test_an_object_that_is_replaced_while_it_comes_is_found_out_and_fetched_again(service, fetch, terms):
    def replace(handler):
        service.has("m.mar", DATA)
        handler.forward()

    service.front.behaviours["data"] = nth(3, replace)
    assert fetch(service.has("m.mar", os.urandom(len(DATA))), terms) == DATA
    assert sum(one.startswith("bytes=0-") for one in service.front.ranges()) == 2


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x"], ids=["shorter", "longer", "another"])
def test_another_object_is_refused_and_nothing_of_it_stays(service, fetch, terms, place, other):
    if other == DATA:
        other = DATA[:-1] + b"y"
    with pytest.raises(VerificationError, match="and the manifest lists") as caught:
        fetch(service.has("m.mar", other), terms)
    assert caught.value.exit_code == 4
    assert left(place) == []
    assert bool(service.front.ranges()) == (len(other) == len(DATA))


def test_what_is_larger_than_the_limit_is_refused_before_anything_of_it_is_asked_for(service, fetch, terms, place):
    url, small = service.has("m.mar", DATA), dataclasses.replace(terms, largest=1000)
    with pytest.raises(VerificationError, match=r"guard\.fetch_max_size"):
        fetch(url, small, listed(size=None))
    assert service.front.ranges() == []
    assert left(place) == []
    with pytest.raises(VerificationError, match=r"guard\.fetch_max_size"):
        fetch(url, small)


@pytest.mark.parametrize("where", ["models/none/m.mar", "nobucket/m.mar", "models/folder/m.mar"])
def test_what_is_not_there_is_said_to_be_so(service, fetch, terms, where):
    service.has("folder/m.mar/inside", b"x")
    with pytest.raises(Unfetched, match="FileNotFoundError") as caught:
        fetch(f"{service.scheme}://{where}", terms)
    assert caught.value.exit_code == 4


def test_a_service_that_gives_more_than_was_asked_for_is_not_believed(service, fetch, terms):
    url = service.has("m.mar", DATA)
    service.front.behaviours["data"] = answers(200, DATA)
    with pytest.raises(Unfetched, match="were asked for"):
        fetch(url, terms)


def test_a_service_that_gives_without_an_end_costs_the_guard_nothing(service, fetch, terms):
    def endless(handler):
        handler.send_response(206)
        handler.end_headers()
        piece = bytes(1 << 20)
        while not handler.front.ended.is_set():
            handler.wfile.write(piece)

    url = service.has("m.mar", DATA)
    service.front.behaviours["data"] = endless
    with pytest.raises(Unfetched):
        fetch(url, dataclasses.replace(terms, stall=10))


def test_an_answer_that_unpacks_to_something_larger_is_not_unpacked(service, fetch, terms):
    import gzip

    url, bomb = service.has("m.mar", DATA), gzip.compress(bytes(64 << 20))
    service.front.behaviours["data"] = answers(206, bomb, Content_Encoding="gzip")
    with pytest.raises(Unfetched, match=f"gives {len(bomb)} bytes"):
        fetch(url, terms)


@pytest.mark.parametrize("status", [302, 308])
@pytest.mark.parametrize("kind", ["look", "data"])
def test_a_redirect_is_not_followed_and_told_without_what_opens_it(service, fetch, terms, place, kind, status):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as elsewhere:
        elsewhere.settimeout(0)
        port = elsewhere.getsockname()[1]
        url = service.has("m.mar", DATA)
        to = f"http://127.0.0.1:{port}/m.mar?X-Amz-Signature=hunter2"
        service.front.behaviours[kind] = answers(status, DATA, Location=to)
        with pytest.raises(VerificationError, match="redirects are not followed") as caught:
            fetch(url, terms)
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize("region", ["eu-west-1", "127.0.0.2/", "@127.0.0.2"])
def test_a_region_that_a_service_names_leads_nowhere_else(service, fetch, terms, region):
    """S3 says so where a bucket is, and botocore asks there."""
    if service.scheme != "s3":
        pytest.skip("only S3 has this")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as elsewhere:
        elsewhere.settimeout(0)
        to = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/m.mar"
        url = service.has("m.mar", DATA)
        service.front.behaviours["look"] = answers(301, Location=to, x_amz_bucket_region=region)
        with pytest.raises((Unfetched, VerificationError)):
            fetch(url, terms)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


# --- where the service is --------------------------------------------------------------------------------------------


def test_a_service_that_is_not_public_is_not_asked_unless_its_network_is_allowed(service, fetch, terms):
    url = service.has("m.mar", DATA)
    with pytest.raises(VerificationError, match=r"which is not public; .*guard\.fetch_networks"):
        fetch(url, dataclasses.replace(terms, networks=()))
    assert service.front.asked == []


@pytest.mark.parametrize("service_url", ["http://169.254.169.254", "http://[fd00:ec2::254]:80"])
def test_where_clouds_hand_out_credentials_there_is_no_service(service, fetch, terms, service_url):
    everything = tuple(ipaddress.ip_network(one) for one in ("0.0.0.0/0", "::/0"))
    told = {name: service_url for name, value in service.variables.items() if value == service.front.url}
    with pytest.raises(VerificationError, match="hands out credentials"):
        fetch(f"{service.scheme}://models/m.mar", dataclasses.replace(terms, networks=everything), variables=told)


def test_what_a_process_connects_to_is_judged_whatever_led_there(service, fetch, terms):
    """The service is allowed, and the one that hands out credentials is not."""
    url = service.has("m.mar", DATA)
    if service.scheme == "s3":
        told = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.2:9/"}
        told |= dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    else:
        told = {"GCE_METADATA_IP": "127.0.0.2", "NO_GCE_CHECK": "false"}
    only = (ipaddress.ip_network("127.0.0.1"),)
    with pytest.raises(VerificationError, match=r"leads to the address 127\.0\.0\.2"):
        fetch(url, dataclasses.replace(terms, networks=only), variables=told)


def test_clear_text_is_for_networks_that_are_named():
    def ask(*_):
        return ["93.184.215.14"]

    assert bucket.service_fault("https://s3.example", (), ask) is None
    assert "in clear text" in bucket.service_fault("http://s3.example", (), ask)
    assert bucket.service_fault("http://s3.example", (ipaddress.ip_network("93.184.215.0/24"),), ask) is None


def test_an_address_that_is_not_allowed_is_not_asked(service, fetch, terms):
    url = service.has("m.mar", DATA)
    with pytest.raises(VerificationError, match="allowed_urls"):
        fetch(url, dataclasses.replace(terms, allowed=(re.compile(f"{service.scheme}://other/.*"),)))
    assert service.front.asked == []


def test_a_proxy_of_the_environment_is_not_used_and_one_that_was_named_is(service, fetch, terms):
    url = service.has("m.mar", DATA)
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1")
    assert fetch(url, terms, variables=proxies) == DATA
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        heads = []

        def refuse():
            with listening.accept()[0] as client:
                heads.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        named = Proxy("127.0.0.1", listening.getsockname()[1], "user:hunter2")
        with pytest.raises(Unfetched) as caught:
            fetch(url, dataclasses.replace(terms, proxy=named, stall=3))
    assert b"Proxy-Authorization: Basic dXNlcjpodW50ZXIy" in heads[0]
    assert "hunter2" not in str(caught.value)


# --- who asks --------------------------------------------------------------------------------------------------------

DENIED = {
    "s3": b"<Error><Code>InvalidAccessKeyId</Code><Message>No such key AKIAHUNTER2HUNTER2.</Message>"
    b"<AWSAccessKeyId>AKIAHUNTER2HUNTER2</AWSAccessKeyId></Error>",
    "gs": b'{"error": {"code": 403, "message": "No access for Bearer hunter2hunter2hunter2."}}',
}


@pytest.mark.parametrize("kind", ["look", "data"])
@pytest.mark.parametrize("status", [401, 403])
def test_who_may_not_read_is_told_so_without_his_credentials(service, fetch, terms, status, kind):
    url = service.has("m.mar", DATA)
    service.front.behaviours[kind] = answers(status, DENIED[service.scheme])
    with pytest.raises(Unfetched, match="is not to be had") as caught:
        fetch(url, terms)
    assert not any(one in str(caught.value) for one in (buckets.KEY, buckets.SECRET))


def test_who_has_no_credentials_is_told_so(service, fetch, terms):
    url = service.has("m.mar", DATA)
    if service.scheme == "gs":
        assert fetch(url, terms) == DATA  # gcsfs then asks as nobody, and public objects are to be had
        return
    without = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    with pytest.raises(Unfetched, match="credentials"):
        fetch(url, terms, variables=without)


def test_credentials_that_are_named_and_not_there_are_no_traceback(service, fetch, terms, tmp_path):
    url = service.has("m.mar", DATA)
    told = {"AWS_PROFILE": "none"} if service.scheme == "s3" else {}
    if service.scheme == "gs":
        (tmp_path / ".gcs_tokens").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "run").encode() + b"'\ntR.")
        assert fetch(url, terms) == DATA
        assert not (tmp_path / "run").exists()
        return
    with pytest.raises(Unfetched, match="ProfileNotFound"):
        fetch(url, terms, variables=told)


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["look", "data"])
@pytest.mark.parametrize("behave", [drip, lambda handler: handler.front.ended.wait(60)], ids=["drip", "silence"])
def test_a_service_that_drips_or_is_silent_stalls(service, fetch, terms, kind, behave):
    url = service.has("m.mar", DATA)
    service.front.behaviours[kind] = behave
    began = time.monotonic()
    with pytest.raises(Unfetched, match=r"guard\.fetch_stall_timeout"):
        fetch(url, dataclasses.replace(terms, stall=3))
    assert time.monotonic() - began < 40


def test_a_service_that_is_always_busy_is_given_up(service, fetch, terms):
    url = service.has("m.mar", DATA)
    service.front.behaviours["look"] = answers(503, b"<Error><Code>SlowDown</Code><Message>x</Message></Error>")
    began = time.monotonic()
    with pytest.raises(Unfetched):
        fetch(url, dataclasses.replace(terms, stall=4))
    assert time.monotonic() - began < 40


def test_a_fetch_ends_when_its_time_is_over_and_what_came_is_kept(service, fetch, terms, place):
    def slowly(handler):
        handler.front.ended.wait(0.7)
        handler.forward()

    url = service.has("m.mar", DATA)
    service.front.behaviours["data"] = slowly
    with pytest.raises(Unfetched, match=r"guard\.fetch_timeout"):
        fetch(url, dataclasses.replace(terms, timeout=6))
    assert len(left(place)) == 2


def test_a_fetch_is_given_up_when_it_is_no_longer_wanted_and_its_process_with_it(service, fetch, terms):
    stop, before = threading.Event(), children()

    def behave(handler):
        stop.set()
        handler.front.ended.wait(60)

    url = service.has("m.mar", DATA)
    service.front.behaviours["data"] = behave
    with pytest.raises(Unfetched, match="the guard stops"):
        fetch(url, terms, stop=stop)
    assert children() == before


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split())


def test_a_process_whose_guard_was_killed_ends(service, python, path, terms, tmp_path):
    asked = threading.Event()

    def behave(handler):
        asked.set()
        handler.front.ended.wait(60)

    service.has("m.mar", DATA)
    service.front.behaviours["look"] = behave
    order = bucket.Order(service.scheme, "models/m.mar", None, 0, 0, len(DATA), 60.0, ("127.0.0.0/8",))
    told = {"HOME": str(tmp_path), **service.variables}
    before = children()
    with objects.reader(order, str(python), path, told) as connection:
        assert asked.wait(60)
        (process,) = children() - before
        connection.shutdown(socket.SHUT_RDWR)  # as the system does when nobody holds it any more
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.02)


# --- without them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_what_a_scheme_needs_is_named_where_it_is_not_installed(terms, place, scheme, extra):
    where = origin.parse(f"{scheme}://models/m.mar")
    plain = [one for one in sys.path if "site-packages" not in one or (Path(one) / "pydantic").exists()]
    begun = functools.partial(objects.reader, path=plain)
    with (
        pytest.raises(ConfigError, match=rf"pip install torchserve-guard\[{extra}\]"),
        fetched(
            where,
            listed(),
            terms,
            Quarantine(place, time.time()),
            transfers={where.scheme: lambda errand: objects.transfer(errand, begun)},
        ),
    ):
        pass


def test_no_client_is_imported_into_the_guard(python):
    show = (
        "import sys, torchserve_guard.run, torchserve_guard.cli, torchserve_guard.archives.remote.fetching;"
        "print({'fsspec', 's3fs', 'gcsfs', 'botocore', 'aiohttp', 'google'} & set(sys.modules))"
    )
    assert subprocess.run([str(python), "-c", show], capture_output=True, text=True, check=True).stdout == "set()\n"


# --- the command -----------------------------------------------------------------------------------------------------

MODEL = archive(*GOOD)


@pytest.fixture
def tsguard(service, python, tmp_path):
    """Run the command where a manifest lists one.mar, which is wanted from this address: `tsguard(url, ...)`."""
    built, models = tmp_path / "built", tmp_path / "models"
    for folder in (built, models):
        folder.mkdir()
    (built / "one.mar").write_bytes(MODEL)
    from datetime import UTC, datetime

    made = archives.create_manifest(built, None, version=1, created=datetime(2030, 1, 1, tzinfo=UTC))
    (tmp_path / "manifest.json").write_bytes(archives.render_manifest(made))

    def run(url, code, allowed="(s3|gs)://(models|nobucket)/.*", networks="127.0.0.0/8"):
        text = (f"load_models={url}", "model_store=models", "guard.state_dir=state", "guard.manifest=manifest.json")
        where = (f"allowed_urls={allowed}", f"guard.fetch_networks={networks}")
        (tmp_path / "config.properties").write_text("".join(f"{one}\n" for one in (*text, *where)))
        told = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **service.variables}
        command = [str(python), "-c", COMMAND, "check", "--fetch", "--config", "config.properties", "--format", "json"]
        done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert not any(one in done.stdout + done.stderr for one in (buckets.KEY, buckets.SECRET))
        assert not (tmp_path / "state").exists()
        return done.stdout + done.stderr

    return run


def test_the_command_fetches_a_listed_archive(service, tsguard):
    told = tsguard(service.has("a/one.mar", MODEL), code=0)
    (subject,) = json.loads(told)["subjects"]
    assert subject["state"] == "verified"


def test_the_command_says_what_is_wrong_and_ends_with_the_code_of_it(service, tsguard):
    other = archive(*GOOD[:-1]) if len(GOOD) > 1 else MODEL[:-1]
    assert "and the manifest lists" in tsguard(service.has("one.mar", other), code=4)
    assert "FileNotFoundError" in tsguard(f"{service.scheme}://nobucket/one.mar", code=4)
    url = service.has("one.mar", MODEL)
    assert "allowed_urls" in tsguard(url, code=2, allowed="s3://x/.*")
    assert "guard.fetch_networks" in tsguard(url, code=4, networks="10.0.0.0/8")
    service.front.behaviours["look"] = answers(403, DENIED[service.scheme])
    assert "is not to be had" in tsguard(url, code=4)
