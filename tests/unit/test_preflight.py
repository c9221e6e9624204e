"""The preflight: what a scanner finds in an archive is in the report, and stops what is above the threshold."""

from datetime import UTC, datetime

import pytest
from corpus.archives import GOOD, Entry, archive

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
    """A listed archive with a `sitecustomize.py` in it."""
    models = tmp_path / "models"
    models.mkdir()
    (models / "m.mar").write_bytes(archive(*GOOD, Entry("sitecustomize.py", b"import os\n")))
    made = archives.create_manifest(models, None, version=1, created=NOW)
    (models / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))
    config = tmp_path / "config.properties"
    config.write_text("model_store=models\nload_models=m.mar\n")
    return load(config, Flags(), Surroundings({}, tmp_path, tmp_path))


def test_a_finding_of_a_scanner_stops_a_start(settings, tmp_path):
    report = preflight(settings, archives.Store(tmp_path / "store"), NOW).report
    assert [(f.rule, f.location.member) for f in report.findings] == [("TSG-SCAN-001", "sitecustomize.py")]
    assert stopping(report, settings.fail_on)
    assert not stopping(report, Severity.CRITICAL)


async def test_a_finding_of_a_scanner_refuses_a_registration_and_nothing_is_shown(settings, tmp_path):
    exposed = tmp_path / "exposed"
    registration = Registration(settings, archives.Store(tmp_path / "store"), exposed, tmp_path / "links", lambda: NOW)
    with pytest.raises(VerificationError, match="TSG-SCAN-001"):
        await registration.prepare(classify(Listener.MANAGEMENT, "POST", b"/models?url=m.mar"))
    assert not exposed.exists()
