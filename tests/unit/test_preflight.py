"""The preflight: what a scanner finds in an archive is in the report, and stops what is above the threshold."""

from datetime import UTC, datetime

import pytest
from corpus.archives import GOOD, Entry, archive, manifest

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


@pytest.mark.parametrize(
    ("named", "model", "said"),
    [
        ({"modelName": "a b"}, "", "nm.mar: the model's name `a b` is not one that anybody could ask for: letters, "),
        (
            {"modelVersion": "1/2"},
            "",
            "nm.mar: the model's version `1/2` is not one that anybody could ask for: letters",
        ),
        ({}, "a..b=", "nm.mar: the model's name `a..b` is not one that anybody could ask for: letters, "),
    ],
)
def test_a_name_that_no_request_could_spell_is_told_in_one_sentence(tmp_path, named, model, said):
    models = tmp_path / "models"
    models.mkdir()
    (models / "nm.mar").write_bytes(archive(GOOD[0], Entry(GOOD[1].name, manifest(**named))))
    made = archives.create_manifest(models, None, version=1, created=NOW)
    (models / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))
    config = tmp_path / "config.properties"
    config.write_text(f"model_store=models\nload_models={model}nm.mar\n")
    told = load(config, Flags(), Surroundings({}, tmp_path, tmp_path))
    with pytest.raises(VerificationError) as refused:
        preflight(told, archives.Store(tmp_path / "store"), NOW)
    text = str(refused.value)
    assert text.startswith(said)
    assert text.endswith(
        "are expected; " + ("give it another in `load_models`" if model else "build the archive again with another")
    )
