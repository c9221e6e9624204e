"""Archives from elsewhere on their way into a start, a check and a registration; the host is a real one."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
import servers
from corpus.archives import GOOD, Entry, archive

from torchserve_guard import archives
from torchserve_guard.archives.remote.failure import Unfetched
from torchserve_guard.audit.entry import Entry as AuditEntry
from torchserve_guard.audit.entry import render as render_entry
from torchserve_guard.errors import ConfigError, Forbidden, Unavailable, VerificationError
from torchserve_guard.findings import Severity
from torchserve_guard.preflight import preflight
from torchserve_guard.registration import Registration
from torchserve_guard.settings import Flags, Surroundings, load
from torchserve_guard.wire import Listener, classify

pytestmark = pytest.mark.usefixtures("forgotten")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
ONE, TWO = archive(*GOOD), archive(*GOOD, Entry("more.txt", b"more"))


COMMAND = "from torchserve_guard.cli import main; main()"
LISTENERS = ("inference", "management", "metrics")


def variables(place) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(place)}


@pytest.fixture(autouse=True)
def removable(tmp_path):
    """Let pytest remove the read-only trees that a test leaves behind."""
    yield
    for directory, _, _ in os.walk(tmp_path):
        Path(directory).chmod(0o700)


@pytest.fixture
def place(tmp_path):
    """A folder with an empty model store; what a test lists was somewhere else when it was listed."""
    (tmp_path / "models").mkdir()
    return tmp_path


def listed(place, **named: bytes) -> archives.Manifest:
    """Write the manifest of these archives, `one=...` for one.mar; none of them is in the model store."""
    built = place / "built"
    built.mkdir(exist_ok=True)
    for name, data in named.items():
        (built / f"{name}.mar").write_bytes(data)
    made = archives.create_manifest(built, None, version=1, created=NOW)
    (place / "manifest.json").write_bytes(archives.render_manifest(made))
    return made


def configured(place, site, *lines, models="", manifest="manifest.json", profile=None):
    config = place / "config.properties"
    text = [
        *("model_store=models", "guard.state_dir=state", f"load_models={models}"),
        *(f"allowed_urls={site.url('/').replace('.', chr(92) * 2 + '.')}.*", "guard.fetch_networks=127.0.0.0/8"),
        f"guard.fetch_ca={site.authorities}",
        *([f"guard.manifest={manifest}"] if manifest else []),
        *lines,
    ]
    config.write_text("".join(f"{line}\n" for line in text))
    return load(config, Flags(profile=profile), Surroundings({}, place, place))


def opened(settings) -> archives.Store:
    return archives.Store(settings.state_dir / "store")


def quarantined(settings) -> list[Path]:
    return sorted((settings.state_dir / "quarantine").iterdir())


# --- a start -----------------------------------------------------------------------------------------------------


def test_a_listed_archive_is_fetched_staged_and_put_down_with_its_origin(place, site):
    made = listed(place, one=ONE)
    settings = configured(place, site, models="renamed=" + site.has("/a/one.mar", ONE) + "?sig=hunter2")
    done = preflight(settings, opened(settings), NOW)
    (model,) = done.models
    assert (model.staged.name, model.staged.digest, model.model) == ("one.mar", made.subjects[0].sha256, "renamed")
    assert (model.staged.tree / "handler.py").exists()
    (arrival,) = done.arrivals
    assert (arrival.archive, arrival.origin, arrival.size) == ("one.mar", site.url("/a/one.mar"), len(ONE))
    assert [one.state for one in done.report.subjects] == ["verified"]
    assert quarantined(settings) == []


def test_what_the_store_holds_is_not_fetched_again(place, site):
    listed(place, one=ONE)
    settings = configured(place, site, models=site.has("/one.mar", ONE))
    first = preflight(settings, opened(settings), NOW)
    site.asked.clear()
    again = preflight(settings, opened(settings), NOW)
    assert site.asked == []
    assert again.models == first.models
    assert again.arrivals == ()


def test_a_tree_that_was_changed_in_the_store_is_fetched_anew(place, site):
    listed(place, one=ONE)
    settings = configured(place, site, models=site.has("/one.mar", ONE))
    tree = preflight(settings, opened(settings), NOW).models[0].staged.tree
    tree.chmod(0o700)
    handler = tree / "handler.py"
    handler.chmod(0o600)
    handler.write_bytes(b"evil")
    site.asked.clear()
    preflight(settings, opened(settings), NOW)
    assert len(site.asked) == 1
    assert handler.read_bytes() != b"evil"


def test_what_a_checksum_file_lists_is_fetched_once_and_kept_for_the_next_start(place, site):
    digest = listed(place, one=ONE).subjects[0].sha256
    (place / "SHA256SUMS").write_text(f"{digest}  one.mar\n")
    settings = configured(place, site, models=site.has("/one.mar", ONE), manifest="SHA256SUMS")
    for _ in range(2):
        assert preflight(settings, opened(settings), NOW).models[0].staged.digest == digest
    assert len(site.asked) == 1


def test_local_archives_files_and_addresses_load_side_by_side(place, site):
    listed(place, one=ONE, two=TWO, three=archive(*GOOD, Entry("3.txt", b"3")))
    (place / "models" / "one.mar").write_bytes((place / "built" / "one.mar").read_bytes())
    three = site.has("/three.mar", (place / "built" / "three.mar").read_bytes())
    models = f"a=one.mar,b=file://{place}/built/two.mar,c={three},d={three}"
    settings = configured(place, site, f"allowed_urls={site.url('/')}.*,file://{place}/.*", models=models)
    assert [(one.model, one.staged.name) for one in preflight(settings, opened(settings), NOW).models] == [
        ("a", "one.mar"),
        ("b", "two.mar"),
        ("c", "three.mar"),
        ("d", "three.mar"),
    ]
    assert len(site.asked) == 1


@pytest.mark.timeout(60)
def test_one_archive_under_two_names_is_fetched_once_and_nobody_waits_for_himself(place, site):
    listed(place, one=ONE, two=ONE)
    models = f"a={site.has('/one.mar', ONE)},b={site.has('/two.mar', ONE)}"
    settings = configured(place, site, models=models)
    done = preflight(settings, opened(settings), NOW)
    assert [(one.model, one.staged.name) for one in done.models] == [("a", "one.mar"), ("b", "two.mar")]
    assert len(site.asked) == 1
    assert quarantined(settings) == []


@pytest.mark.timeout(120)
def test_two_starts_that_want_the_same_archives_in_another_order_both_get_them(place, site):
    listed(place, one=ONE, two=TWO)
    one, two = site.has("/one.mar", ONE), site.has("/two.mar", TWO)
    first, second = (configured(place, site, models=models) for models in (f"a={one},b={two}", f"b={two},a={one}"))
    found = []
    starts = [
        threading.Thread(target=lambda told=told: found.append(preflight(told, opened(told), NOW)))
        for told in (first, second)
    ]
    for start in starts:
        start.start()
    for start in starts:
        start.join(100)
    assert sorted(tuple(one.model for one in done.models) for done in found) == [("a", "b"), ("b", "a")]


def test_another_archive_than_the_listed_one_gets_no_name_in_the_store(place, site):
    made = listed(place, one=ONE)
    settings = configured(place, site, models=site.has("/one.mar", ONE[:-1] + b"x"))
    with pytest.raises(VerificationError) as caught:
        preflight(settings, opened(settings), NOW)
    assert made.subjects[0].sha256 in str(caught.value)
    assert list((settings.state_dir / "store" / "subjects").iterdir()) == []
    assert quarantined(settings) == []


def test_an_archive_that_the_manifest_does_not_list_is_not_asked_for(place, site):
    listed(place, one=ONE)
    settings = configured(place, site, models=site.has("/two.mar", TWO))
    with pytest.raises(VerificationError, match=r"two\.mar"):
        preflight(settings, opened(settings), NOW)
    assert site.asked == []


def test_without_a_manifest_nothing_is_fetched_in_compat_either(place, site):
    settings = configured(place, site, models=site.has("/one.mar", ONE), manifest="", profile="compat")
    with pytest.raises(VerificationError, match="there is no manifest"):
        preflight(settings, opened(settings), NOW)
    assert site.asked == []


def test_a_signature_that_is_asked_for_is_asked_for_before_anything_is_fetched(place, site):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    listed(place, one=ONE)
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (place / "key.pub").write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    settings = configured(place, site, "guard.trusted_keys=key.pub", models=site.has("/one.mar", ONE))
    with pytest.raises((VerificationError, ConfigError)):
        preflight(settings, opened(settings), NOW)
    assert site.asked == []


def test_a_guard_that_is_killed_while_it_fetches_goes_on_at_its_next_start(place, site):
    listed(place, one=ONE)
    half, sent = len(ONE) // 2, threading.Event()

    def behave(handler):
        handler.say(200, ONE[:half], **{"Content-Length": str(len(ONE)), "ETag": '"one"'})
        sent.set()
        handler.host.ended.wait(60)

    ports = [
        f"{name}_address=http://127.0.0.1:{port}" for name, port in zip(LISTENERS, servers.free_ports(3), strict=True)
    ]
    off = ("grpc_inference_port=0", "grpc_management_port=0")
    settings = configured(place, site, *ports, *off, models=site.does("/one.mar", behave))
    command = [sys.executable, "-c", COMMAND, "start", "--config", "config.properties"]
    with subprocess.Popen(command, cwd=place, env=variables(place), stderr=subprocess.DEVNULL) as guard:
        try:
            assert sent.wait(60)
            begun = settings.state_dir / "quarantine"
            deadline = time.monotonic() + 60
            while sum(path.stat().st_size for path in begun.glob("mar-*") if path.suffix != ".json") < half:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            guard.kill()
    site.behaviours.clear()
    site.has("/one.mar", ONE)
    site.asked.clear()
    assert preflight(settings, opened(settings), NOW).models[0].staged.name == "one.mar"
    assert [headers.get("Range") for _, headers in site.asked] == [f"bytes={half}-"]


# --- a check -----------------------------------------------------------------------------------------------------


def test_a_check_fetches_nothing_and_says_so(place, site):
    made = listed(place, one=ONE, two=TWO)
    (place / "models" / "two.mar").write_bytes(TWO)
    settings = configured(place, site, models="two.mar," + site.has("/one.mar", ONE))
    done = preflight(settings, opened(settings), NOW, fetch=False)
    assert site.asked == []
    (finding,) = (one for one in done.report.findings if one.rule == "TSG110")
    assert (finding.severity, made.subjects[0].sha256 in finding.message) == (Severity.LOW, True)
    assert [(one.name, one.state) for one in done.report.subjects] == [
        ("two.mar", "verified"),
        ("one.mar", "not fetched"),
    ]
    assert [one.item.archive for one in done.models] == ["two.mar"]


def test_a_check_holds_that_the_manifest_lists_the_archive(place, site):
    listed(place, one=ONE)
    settings = configured(place, site, models=site.url("/two.mar"))
    with pytest.raises(VerificationError, match=r"two\.mar"):
        preflight(settings, opened(settings), NOW, fetch=False)


def tsguard(place, *arguments):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=place,
        env=variables(place),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_fetches_when_it_is_told_to_and_leaves_nothing_behind(place, site):
    listed(place, one=ONE)
    configured(place, site, models=site.has("/one.mar", ONE) + "?X-Amz-Signature=hunter2")
    checked = tsguard(place, "check", "--config", "config.properties", "--format", "json")
    assert (checked.returncode, site.asked) == (0, [])
    assert "TSG110" in checked.stdout
    fetched = tsguard(place, "check", "--config", "config.properties", "--format", "json", "--fetch")
    assert (fetched.returncode, len(site.asked)) == (0, 1)
    (subject,) = json.loads(fetched.stdout)["subjects"]
    assert subject["state"] == "verified"
    assert not (place / "state").exists()
    site.has("/one.mar", TWO)
    refused = tsguard(place, "check", "--config", "config.properties", "--fetch")
    assert refused.returncode == 4
    explained = tsguard(place, "config", "explain", "load_models", "--config", "config.properties")
    site.files.clear()
    gone = tsguard(place, "check", "--config", "config.properties", "--fetch")
    assert gone.returncode == 4
    told = "".join(one.stdout + one.stderr for one in (checked, fetched, refused, explained, gone))
    assert "hunter2" not in told
    assert site.url("/one.mar") in explained.stdout


# --- a registration ----------------------------------------------------------------------------------------------


def asked_for(url: str, *more: str):
    return classify(Listener.MANAGEMENT, "POST", "&".join((f"/models?url={quote(url, safe='')}", *more)).encode())


@pytest.fixture
def registering(place, site):
    """A registration with a store of its own, and one listed archive in the model store: `registering(...)`."""
    made = []

    def make(*lines, **named: bytes):
        listed(place, local=ONE, **named)
        (place / "models" / "local.mar").write_bytes(ONE)
        settings = configured(place, site, "model-control-mode=explicit", *lines)
        (place / "exposed").mkdir(exist_ok=True)
        made.append(Registration(settings, opened(settings), place / "exposed", place / "links", lambda: NOW))
        return made[-1]

    yield make
    for one in made:
        one.end()


async def test_a_registration_fetches_and_goes_on_with_the_bare_name(place, site, registering):
    registration = registering(two=TWO)
    url = site.has("/a/two.mar", TWO) + "?X-Amz-Signature=hunter2"
    prepared = await registration.prepare(asked_for(url, "initial_workers=1"))
    assert prepared.parameter("url") == "two.mar"
    assert prepared.parameter("initial_workers") == "1"
    shown = registration.shown(prepared)
    assert (shown["archive"], shown["origin"]) == ("two.mar", site.url("/a/two.mar"))
    assert (place / "exposed" / "two.mar" / "more.txt").read_bytes() == b"more"
    await registration.settled(prepared, 200)
    assert [one["archive"] for one in registration.listed()] == ["two.mar"]
    assert "hunter2" not in f"{registration.listed()} {prepared}"


async def test_while_an_archive_comes_slowly_another_is_registered_and_the_loop_goes_on(place, site, registering):
    registration, go_on, begun = registering(two=TWO), threading.Event(), threading.Event()

    def slowly(handler):
        begun.set()
        go_on.wait(60)
        handler.say(200, TWO)

    slow = asyncio.create_task(registration.prepare(asked_for(site.does("/two.mar", slowly))))
    await asyncio.to_thread(begun.wait, 60)
    await registration.prepare(asked_for("local.mar"))
    assert not slow.done()
    go_on.set()
    assert (await slow).parameter("url") == "two.mar"


async def test_what_is_being_fetched_is_given_up_when_the_guard_stops(place, site, registering):
    registration = registering(two=TWO)
    begun = threading.Event()
    url = site.does("/two.mar", lambda handler: begun.set() or handler.host.ended.wait(60))
    slow = asyncio.create_task(registration.prepare(asked_for(url)))
    await asyncio.to_thread(begun.wait, 60)
    registration.stop_fetching()
    with pytest.raises(Unfetched, match="the guard stops"):
        await slow


async def test_no_more_than_a_few_wait_to_be_fetched(place, site, registering):
    registration = registering(two=TWO)
    url = site.does("/two.mar", lambda handler: handler.host.ended.wait(60))
    waiting = [asyncio.create_task(registration.prepare(asked_for(url))) for _ in range(12)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert all(isinstance(one.exception(), Unavailable) for one in done)
    registration.stop_fetching()
    await asyncio.wait(waiting)
    rules = [getattr(one.exception(), "rule", None) for one in waiting]
    assert rules.count("register-fetching") == 4
    assert rules.count("register-stopping") == 6
    assert sum(isinstance(one.exception(), Unfetched) for one in waiting) == 2
    with pytest.raises(Unavailable, match="stopping"):
        await registration.prepare(asked_for(url))


async def test_an_archive_that_was_listed_anew_while_it_came_is_not_registered(place, site, registering):
    registration = registering(two=TWO)
    other = archive(*GOOD, Entry("other.txt", b"other"))

    def relisted(handler):
        listed(place, local=ONE, two=other)
        handler.say(200, TWO)

    with pytest.raises(Unavailable, match="manifest has changed"):
        await registration.prepare(asked_for(site.does("/two.mar", relisted)))
    assert not (place / "exposed" / "two.mar").exists()


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/two.mar?sig=hunter2",
        "http://u:hunter2@127.0.0.1/two.mar",
        "https://u:hunter2@127.0.0.1/two.mar",
        "file:///etc/two.mar",
        "s3://bucket/two.mar",
        "https://169.254.169.254/two.mar",
        "../two.mar",
        "/models/two.mar",
    ],
)
async def test_an_address_that_is_not_allowed_is_refused_and_its_secret_told_to_nobody(place, site, registering, url):
    with pytest.raises(Forbidden) as caught:
        await registering(two=TWO).prepare(asked_for(url))
    assert "hunter2" not in f"{caught.value} {caught.value.reason}"


async def test_an_archive_that_is_not_listed_or_another_is_refused(place, site, registering):
    registration = registering(two=TWO)
    for url in (site.has("/three.mar", TWO), site.has("/two.mar", ONE)):
        with pytest.raises(VerificationError):
            await registration.prepare(asked_for(url))
    with pytest.raises(Unfetched):
        await registration.prepare(asked_for(site.url("/none/two.mar")))
    assert list((place / "exposed").iterdir()) == []


def test_what_is_put_on_record_holds_no_secret_of_an_address():
    secret = "https://u:hunter2@host/m.mar?X-Amz-Signature=hunter2"
    fields = {
        "parameters": {"url": secret},
        "target": f"/models?url={quote(secret, safe='')}",
        "reason": f"`{secret}` is not allowed",
    }
    line = render_entry(AuditEntry(0.0, "request", fields), 1)
    assert b"hunter2" not in line
    assert json.loads(line)["parameters"]["url"].endswith("@host/m.mar?...")


async def test_an_address_that_an_expression_takes_for_ever_over_is_refused_while_the_loop_goes_on(place, registering):
    slow = "allowed_urls=https://(?:[a-z.:0-9/]+)*b"
    asking = asyncio.create_task(registering(slow, two=TWO).prepare(asked_for(f"https://{'a.' * 60}example/two.mar")))
    ticks = 0
    while not asking.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert isinstance(asking.exception(), Forbidden)
    assert "simpler expressions" in asking.exception().reason
    assert ticks > 5
