"""Waivers: they apply to what they were written for, until their day, and are told when they do not."""

import dataclasses
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from corpus.archives import GOOD, Entry, archive
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard import archives
from torchserve_guard.access import Mode
from torchserve_guard.errors import ConfigError, VerificationError
from torchserve_guard.findings import Finding, Location, Severity, Waiver
from torchserve_guard.preflight import preflight, stopping
from torchserve_guard.registration import Registration
from torchserve_guard.settings import Flags, Surroundings, load
from torchserve_guard.settings.waivers import accepted, waived
from torchserve_guard.wire import Listener, classify

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
LAST = date(2030, 1, 31)
DIGEST = "ab" * 32
HERE = Location("waivers.yaml", 3)
BY_VALUE = Waiver("TSG021", "ann", "why", LAST, HERE, key="k", value="v")
BY_DIGEST = Waiver("TSG-SCAN-001", "ann", "why", LAST, HERE, subject=DIGEST)
KEY_FOUND = Finding("TSG021", Severity.HIGH, "m", "r", Location("config.properties", 2), key="k")
ARCHIVE_FOUND = Finding("TSG-SCAN-001", Severity.HIGH, "m", "r", Location("m.mar", member="x"), DIGEST)


@pytest.fixture
def around(tmp_path):
    return Surroundings({}, tmp_path, tmp_path)


@pytest.fixture
def settings(tmp_path, around):
    (tmp_path / "models").mkdir()
    config = tmp_path / "config.properties"
    config.write_text("model_store=models\nload_models=\n")
    return dataclasses.replace(load(config, Flags(), around), texts={"k": "v"})


def having(settings, *waivers, **changes):
    return dataclasses.replace(settings, waivers=waivers, **changes)


@pytest.mark.parametrize(("waiver", "finding"), [(BY_VALUE, KEY_FOUND), (BY_DIGEST, ARCHIVE_FOUND)])
def test_a_waiver_applies_to_what_it_is_bound_to(settings, waiver, finding):
    (told,) = accepted(having(settings, waiver), [finding], NOW)
    assert told == dataclasses.replace(finding, waiver=waiver)


@pytest.mark.parametrize(
    ("waiver", "finding"),
    [
        (BY_VALUE, dataclasses.replace(KEY_FOUND, rule="TSG022")),
        (BY_VALUE, dataclasses.replace(KEY_FOUND, key="l")),
        (BY_VALUE, dataclasses.replace(KEY_FOUND, key=None)),
        (dataclasses.replace(BY_VALUE, value="V"), KEY_FOUND),
        (dataclasses.replace(BY_VALUE, value=""), KEY_FOUND),
        (dataclasses.replace(BY_VALUE, path="/elsewhere"), KEY_FOUND),
        (BY_DIGEST, dataclasses.replace(ARCHIVE_FOUND, digest="cd" * 32)),
        (BY_DIGEST, dataclasses.replace(ARCHIVE_FOUND, digest=None)),
        (BY_DIGEST, dataclasses.replace(ARCHIVE_FOUND, rule="TSG-SCAN-002")),
    ],
)
def test_a_waiver_applies_to_nothing_else(settings, waiver, finding):
    told, stale = accepted(having(settings, waiver), [finding], NOW)
    assert told.waiver is None
    assert (stale.rule, stale.severity, stale.location) == ("TSG081", Severity.LOW, HERE)


def test_a_key_that_is_given_nothing_has_the_empty_value(settings):
    finding = dataclasses.replace(KEY_FOUND, key="not_given")
    waiver = dataclasses.replace(BY_VALUE, key="not_given", value="")
    (told,) = accepted(having(settings, waiver), [finding], NOW)
    assert told.waiver == waiver


def test_an_expired_waiver_is_a_finding_and_applies_no_more(settings):
    assert waived(having(settings, BY_VALUE), [KEY_FOUND], NOW)[0].waiver is not None
    told, stale = accepted(having(settings, BY_VALUE), [KEY_FOUND], NOW + timedelta(days=1))
    assert told.waiver is None
    assert (stale.rule, stale.severity, stale.location) == ("TSG080", Severity.MEDIUM, HERE)


def test_the_last_day_ends_when_it_ends_in_utc(settings):
    west = datetime(2030, 1, 31, 20, tzinfo=timezone(timedelta(hours=-8)))
    assert waived(having(settings, BY_VALUE), [KEY_FOUND], west)[0].waiver is None


def test_an_expired_waiver_does_not_hide_one_that_is_not(settings):
    expired = dataclasses.replace(BY_VALUE, expires=date(2020, 1, 1))
    told, stale = accepted(having(settings, expired, BY_VALUE), [KEY_FOUND], NOW)
    assert (told.waiver, stale.rule) == (BY_VALUE, "TSG080")


def test_what_may_be_met_later_or_elsewhere_is_not_said_to_be_useless(settings):
    assert [one.rule for one in accepted(having(settings, BY_DIGEST), [], NOW)] == ["TSG081"]
    assert accepted(having(settings, BY_DIGEST, mode=Mode.EXPLICIT), [], NOW) == ()
    elsewhere = dataclasses.replace(BY_VALUE, path="/other/config.properties")
    assert accepted(having(settings, elsewhere), [], NOW) == ()


@given(
    st.lists(st.sampled_from([KEY_FOUND, ARCHIVE_FOUND, dataclasses.replace(KEY_FOUND, key="l")]), max_size=5),
    st.sampled_from([BY_VALUE, BY_DIGEST]),
    st.sampled_from(list(Severity)),
)
def test_a_waiver_hides_nothing_and_stops_nothing_more_than_before(findings, waiver, threshold):
    bare = dataclasses.make_dataclass("Bare", ["waivers", "texts", "mode", "config"])
    told = waived(bare((waiver,), {"k": "v"}, Mode.NONE, "c"), findings, NOW)
    assert [dataclasses.replace(one, waiver=None) for one in told] == findings
    assert all(one.waiver in {None, waiver} for one in told)


# --- where waivers come from and count --------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path, around):
    """Return settings of a listed archive with a `sitecustomize.py` in it, after writing these waivers."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "m.mar").write_bytes(archive(*GOOD, Entry("sitecustomize.py", b"import os\n")))
    made = archives.create_manifest(models, None, version=1, created=NOW)
    (models / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))
    digest = made.subjects[0].sha256

    def settings(waivers, mode=0o644, more=""):
        path = tmp_path / "waivers.yaml"
        path.write_text(waivers.replace("DIGEST", digest))
        path.chmod(mode)
        config = tmp_path / "config.properties"
        config.write_text(f"model_store=models\nload_models=m.mar\nguard.waivers=waivers.yaml\n{more}")
        return load(config, Flags(), around)

    return settings


ACCEPT = "- {rule: TSG-SCAN-001, subject: 'sha256:DIGEST', reason: r, owner: o, expires: 2030-01-31}\n"


def test_a_waived_finding_does_not_stop_a_start_and_is_told(guarded, tmp_path):
    report = preflight(guarded(ACCEPT), archives.Store(tmp_path / "store"), NOW).report
    (found,) = [finding for finding in report.findings if finding.rule == "TSG-SCAN-001"]
    assert found.waiver.owner == "o"
    assert not stopping(report, Severity.HIGH)


def test_it_stops_a_start_when_the_waiver_has_expired(guarded, tmp_path):
    report = preflight(guarded(ACCEPT), archives.Store(tmp_path / "store"), NOW + timedelta(days=1)).report
    assert stopping(report, Severity.HIGH)
    assert "TSG080" in {finding.rule for finding in report.findings}


async def test_a_registration_at_run_time_obeys_the_waiver_and_its_day(guarded, tmp_path):
    settings = guarded(ACCEPT, more="model-control-mode=explicit\n")
    clock = [NOW]
    (tmp_path / "exposed").mkdir()
    registration = Registration(
        settings, archives.Store(tmp_path / "store"), tmp_path / "exposed", tmp_path / "links", lambda: clock[0]
    )
    asked = classify(Listener.MANAGEMENT, "POST", b"/models?url=m.mar")
    await registration.settled(await registration.prepare(asked), 400)
    clock[0] += timedelta(days=1)
    with pytest.raises(VerificationError, match="TSG-SCAN-001"):
        await registration.prepare(asked)


def test_a_file_that_others_may_write_waives_nothing_and_is_a_finding(guarded, tmp_path):
    settings = guarded(ACCEPT, mode=0o666)
    assert settings.waivers == ()
    report = preflight(settings, archives.Store(tmp_path / "store"), NOW).report
    assert stopping(report, Severity.HIGH)
    assert any(one.rule == "TSG007" and "waivers.yaml" in one.message for one in report.findings)


def test_a_waiver_for_a_key_is_bound_to_what_the_key_is_given(guarded, tmp_path):
    text = '- {rule: TSG021, key: enable_modle_api, value: "true", reason: r, owner: o, expires: 2030-01-31}\n'
    for given_value, applies in (("true", True), ("false", False)):
        settings = guarded(text, more=f"enable_modle_api={given_value}\n")
        (found,) = [one for one in waived(settings, settings.findings, NOW) if one.rule == "TSG021"]
        assert (found.waiver is not None) is applies


def test_a_file_that_cannot_be_used_is_a_configuration_error(guarded):
    with pytest.raises(ConfigError, match=r"waivers\.yaml:1: "):
        guarded("- nonsense\n")


def test_what_keys_were_given_is_not_shown_with_the_settings(guarded):
    assert "hunter2" not in repr(guarded(ACCEPT, more="enable_modle_api=hunter2\n"))
