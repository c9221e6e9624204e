"""Without a manifest, in the profile compat: what may be done without one, and when it may not."""

import threading
from datetime import UTC, datetime

import pytest
from corpus.archives import GOOD, archive

from torchserve_guard import archives, unlisted
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.findings import Severity
from torchserve_guard.preflight import preflight
from torchserve_guard.registration import Registration
from torchserve_guard.settings import Flags, LoadItem, Surroundings, load
from torchserve_guard.wire import Listener, classify

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    """Settings of a store with one archive and no manifest: `settings("guard.profile=strict")`."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "m.mar").write_bytes(archive(*GOOD))

    def make(*lines: str, profile: str = "compat"):
        config = tmp_path / "config.properties"
        text = ("model_store=models", "load_models=m.mar", "guard.state_dir=state", *lines)
        config.write_text("".join(f"{line}\n" for line in text))
        return load(config, Flags(profile=profile), Surroundings({}, tmp_path, tmp_path))

    return make


def list_all(settings):
    made = archives.create_manifest(settings.model_store, None, version=1, created=NOW)
    settings.manifest.write_bytes(archives.render_manifest(made))


def rules(report) -> dict[str, Severity]:
    return {finding.rule: finding.severity for finding in report.findings}


def test_each_archive_is_verified_and_named_with_its_digest_all_the_same(settings, tmp_path):
    made = settings()
    checked = preflight(made, archives.Store(tmp_path / "store"), NOW)
    assert rules(checked.report)["TSG070"] is Severity.HIGH
    listed = archives.describe(made.model_store / "m.mar")
    assert [(one.name, one.digest) for one in checked.report.subjects] == [("m.mar", listed.sha256)]


def test_a_damaged_archive_is_refused_all_the_same(settings, tmp_path):
    made = settings()
    path = made.model_store / "m.mar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VerificationError):
        preflight(made, archives.Store(tmp_path / "store"), NOW)


def test_with_a_manifest_the_profile_compat_is_as_strict_as_any(settings, tmp_path):
    made = settings()
    list_all(made)
    assert "TSG070" not in rules(preflight(made, archives.Store(tmp_path / "store"), NOW).report)
    (made.model_store / "m.mar").write_bytes(archive(*GOOD) + b"\0")
    with pytest.raises(VerificationError):
        preflight(made, archives.Store(tmp_path / "store"), NOW)


def test_what_is_not_in_the_manifest_is_not_loaded_in_any_profile(settings, tmp_path):
    made = settings("model-control-mode=explicit")
    list_all(made)
    (made.model_store / "planted.mar").write_bytes(archive(*GOOD))
    registration = Registration(made, archives.Store(tmp_path / "s"), tmp_path / "e", tmp_path / "l", lambda: NOW)
    made.manifest.unlink()
    with pytest.raises((ConfigError, VerificationError)):
        registration._admitted(LoadItem("planted.mar"), None, threading.Event())


@pytest.mark.parametrize(
    ("lines", "profile"),
    [
        ((), "strict"),
        (("guard.manifest=gone.json",), "compat"),
        (("guard.manifest=models/tsguard-manifest.json",), "compat"),
    ],
)
def test_a_manifest_is_not_done_without(settings, tmp_path, lines, profile):
    with pytest.raises(ConfigError, match="there is no manifest"):
        preflight(settings(*lines, profile=profile), archives.Store(tmp_path / "store"), NOW)


@pytest.mark.parametrize("what", ["nothing behind a link", "a folder", "nonsense"])
def test_whatever_stands_in_the_place_of_a_manifest_is_no_permission(settings, tmp_path, what):
    made = settings()
    if what == "a folder":
        made.manifest.mkdir()
    elif what == "nonsense":
        made.manifest.write_text("{")
    else:
        made.manifest.symlink_to(tmp_path / "gone")
    assert not unlisted.permitted(made)
    with pytest.raises(ConfigError):
        preflight(made, archives.Store(tmp_path / "store"), NOW)


async def test_at_run_time_a_bare_name_of_the_store_is_enough_until_there_is_a_manifest(settings, tmp_path):
    made = settings("model-control-mode=explicit")
    exposed = tmp_path / "exposed"
    exposed.mkdir()
    registration = Registration(made, archives.Store(tmp_path / "s"), exposed, tmp_path / "links", lambda: NOW)
    await registration.prepare(classify(Listener.MANAGEMENT, "POST", b"/models?url=m.mar"))
    list_all(made)
    (made.model_store / "later.mar").write_bytes(archive(*GOOD))
    later = classify(Listener.MANAGEMENT, "POST", b"/models?url=later.mar")
    with pytest.raises(VerificationError, match="not listed"):
        await registration.prepare(later)
    made.manifest.unlink()
    with pytest.raises((ConfigError, VerificationError)):
        await registration.prepare(later)


def test_a_link_is_followed_once_under_its_own_name_and_told_of(settings, tmp_path):
    made = settings()
    (made.model_store / "m.mar").rename(tmp_path / "other.mar")
    (made.model_store / "m.mar").symlink_to(tmp_path / "other.mar")
    report = preflight(made, archives.Store(tmp_path / "store"), NOW).report
    assert rules(report)["TSG071"] is Severity.HIGH
    assert [one.name for one in report.subjects] == ["m.mar"]


@pytest.mark.parametrize("target", ["gone.mar", "/dev/zero", "loop"])
def test_a_link_to_what_is_no_archive_is_refused_and_not_waited_for(settings, tmp_path, target):
    made = settings()
    (made.model_store / "m.mar").unlink()
    (made.model_store / "m.mar").symlink_to("m.mar" if target == "loop" else target)
    with pytest.raises((ConfigError, VerificationError)):
        preflight(made, archives.Store(tmp_path / "store"), NOW)
