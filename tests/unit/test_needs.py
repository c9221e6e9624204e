"""What the workers' interpreter lacks is a finding, with the place in the archive and what to install."""

import os
from pathlib import Path

import pytest
from corpus.archives import GOOD, Entry, archive

from torchserve_guard import archives, needs
from torchserve_guard.findings import Severity
from torchserve_guard.workers import Answers, Interpreter, Walked
from torchserve_guard.workers.questions import Missing

NOTHING = Walked((), ())


class Told:
    """An interpreter with another set of packages than the one that runs the tests."""

    def __init__(self, answers):
        self.answers = answers

    def ask(self, _codes):
        return self.answers


@pytest.fixture
def staged(tmp_path):
    """Stage an archive of these entries."""

    def stage(*entries: Entry) -> archives.Staged:
        path = tmp_path / "m.mar"
        path.write_bytes(archive(*entries))
        return archives.Store(tmp_path / "store").stage(path, archives.describe(path))

    return stage


def found(answers, one) -> list:
    return needs.check(Told(answers), Path("/models"), (one,))


def test_a_worker_without_pyyaml_is_critical_and_names_the_package(staged):
    lacking = Walked((Missing("yaml", "ts.model_service_worker", 1),), ())
    (finding,) = found(Answers("2.6.0", lacking, (NOTHING,)), staged(*GOOD))
    assert (finding.rule, finding.severity) == ("TSG072", Severity.CRITICAL)
    assert "pip install pyyaml" in finding.remedy


@pytest.mark.parametrize(
    ("version", "weights", "severity"),
    [
        ("2.5.1", "w.pt", Severity.HIGH),
        ("1.13.1+cpu", "deep/w.PTH", Severity.HIGH),
        ("2.5.1", None, Severity.MEDIUM),
        ("2.6.0", "w.pt", None),
        ("2.10.0", "w.pt", None),
        ("2.13.0+cpu", "w.pt", None),
        (None, "w.pt", None),
    ],
)
def test_a_torch_that_unpickles_is_worse_where_there_is_something_to_unpickle(staged, version, weights, severity):
    one = staged(*GOOD, *([Entry(weights, b"w")] if weights else []))
    findings = found(Answers(version, NOTHING, (NOTHING,)), one)
    assert [(finding.rule, finding.severity) for finding in findings] == ([("TSG075", severity)] if severity else [])


def test_no_answer_is_a_finding(staged):
    (finding,) = found(None, staged(*GOOD))
    assert (finding.rule, finding.severity) == ("TSG076", Severity.MEDIUM)


def test_a_staged_archive_is_looked_into_by_the_real_interpreter(staged):
    handler = next(entry.name for entry in GOOD if entry.name.endswith(".py"))
    kept = [entry for entry in GOOD if entry.name != handler]
    one = staged(*kept, Entry(handler, b"import os\nimport nobody_has_this\n"))
    with Interpreter(os.environ) as interpreter:
        (finding,) = needs.check(interpreter, Path("/models"), (one,))
    assert (finding.rule, finding.severity, finding.digest) == ("TSG073", Severity.HIGH, one.digest)
    assert str(finding.location) == f"/models/m.mar!{handler}:2"
