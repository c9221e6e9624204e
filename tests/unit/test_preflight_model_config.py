"""What an archive's configuration asks for is judged at a start and at a registration, whichever scanners are named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from corpus.archives import HANDLER_ENTRY, MANIFEST, Entry, archive, manifest

from torchserve_guard import archives
from torchserve_guard.errors import VerificationError
from torchserve_guard.findings import Severity
from torchserve_guard.preflight import preflight, stopping
from torchserve_guard.registration import Registration
from torchserve_guard.settings import Flags, Surroundings, load
from torchserve_guard.wire import Listener, classify

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path):
    """Make settings for one listed archive with this configuration, and these lines more."""

    def make(config: bytes, more: str = ""):
        models = tmp_path / "models"
        models.mkdir()
        entries = (HANDLER_ENTRY, Entry("c.yaml", config), Entry(MANIFEST, manifest(configFile="c.yaml")))
        (models / "m.mar").write_bytes(archive(*entries))
        made = archives.create_manifest(models, None, version=1, created=NOW)
        (models / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))
        path = tmp_path / "config.properties"
        path.write_text(f"model_store=models\nload_models=m.mar\n{more}")
        return load(path, Flags(), Surroundings({}, tmp_path, tmp_path))

    return make


@pytest.mark.parametrize("more", ["", "guard.scanners=shadowing\n"])
def test_a_start_is_stopped_by_what_the_configuration_asks_for(settings, tmp_path, more):
    told = settings(b"minWorkers: 1\nuseVenv: true\n", more)
    report = preflight(told, archives.Store(tmp_path / "store"), NOW).report
    (found,) = (one for one in report.findings if one.rule.startswith("TSG10"))
    assert (found.rule, str(found.location)) == ("TSG102", f"{tmp_path}/models/m.mar!c.yaml:2")
    assert stopping(report, Severity.HIGH)


def test_a_waiver_for_this_archive_lets_it_start(settings, tmp_path):
    (tmp_path / "waivers.yaml").write_text("")
    (tmp_path / "waivers.yaml").chmod(0o600)
    told = settings(b"useVenv: true\n", "guard.waivers=waivers.yaml\n")
    store = archives.Store(tmp_path / "store")
    found = next(one for one in preflight(told, store, NOW).report.findings if one.rule == "TSG102")
    waiver = f"{{rule: TSG102, subject: 'sha256:{found.digest}', reason: why, owner: who, expires: 2030-02-01}}"
    (tmp_path / "waivers.yaml").write_text(f"- {waiver}\n")
    told = load(tmp_path / "config.properties", Flags(), Surroundings({}, tmp_path, tmp_path))
    assert not stopping(preflight(told, store, NOW).report, Severity.HIGH)


@pytest.mark.parametrize(
    "config", [b"useVenv: true\n", b"a: [", b"parallelType: tp\ntorchrun: {}\n", b"minWorkers: 300\n"]
)
async def test_a_registration_is_refused_and_nothing_is_shown(settings, tmp_path, config):
    exposed, told = tmp_path / "exposed", settings(config)
    registration = Registration(told, archives.Store(tmp_path / "store"), exposed, tmp_path / "links", lambda: NOW)
    with pytest.raises(VerificationError, match="TSG10"):
        await registration.prepare(classify(Listener.MANAGEMENT, "POST", b"/models?url=m.mar"))
    assert not exposed.exists()
