"""The ready steps for pipelines do what their comments say: their commands are taken from the files, and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from corpus.archives import GOOD, Entry, archive

from torchserve_guard import archives

ROOT = Path(__file__).parents[2]
STEPS = ROOT / "deploy" / "ci"
ELSEWHERE = "# elsewhere:"
INSTALLS = re.compile(r"(\S+/)?python -m (pip install torchserve-guard|venv \S+) # elsewhere: [a-z ]+")


def github() -> list[str]:
    steps = yaml.safe_load((STEPS / "github-actions.yml").read_text("utf-8"))["jobs"]["check"]["steps"]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def gitlab() -> list[str]:
    job = yaml.safe_load((STEPS / "gitlab-ci.yml").read_text("utf-8"))["tsguard"]
    return [*job["before_script"], *job["script"]]


def jenkins() -> list[str]:
    text = "\n".join(line for line in (STEPS / "Jenkinsfile").read_text("utf-8").splitlines() if "//" not in line)
    commands = re.findall(r"\bsh '([^']+)'", text)
    assert len(commands) == len(re.findall(r"\bsh\b", text)), "a step that is not written as sh '...' would not be run"
    return commands


PIPELINES: dict[str, tuple[Callable[[], list[str]], tuple[str, ...]]] = {
    "github": (github, ("tsguard.sarif",)),
    "gitlab": (gitlab, ("tsguard-quality.json", "tsguard-junit.xml")),
    "jenkins": (jenkins, ("tsguard-junit.xml",)),
}
everywhere = pytest.mark.parametrize("pipeline", PIPELINES)


@pytest.fixture
def checkout(tmp_path):
    """What a pipeline has checked out: configurations, and a store of archives with its manifest."""
    folder = tmp_path / "checkout"
    (folder / "models").mkdir(parents=True)
    (folder / "deploy" / "torchserve").mkdir(parents=True)
    (folder / "deploy/torchserve/config.properties").write_text("model_store=models\nload_models=m.mar\n")
    listed(folder, archive(*GOOD))
    return folder


def listed(folder: Path, data: bytes) -> None:
    (folder / "models" / "m.mar").write_bytes(data)
    made = archives.create_manifest(folder / "models", None, version=1, created=datetime(2030, 1, 1, tzinfo=UTC))
    (folder / "models" / "tsguard-manifest.json").write_bytes(archives.render_manifest(made))


def run(pipeline: str, checkout: Path) -> tuple[int, str]:
    """Run the commands of a pipeline until one fails, as it does; return its exit code and what was said."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(checkout.parent),
        "LANG": "C.UTF-8",
    }
    said = ""
    for command in PIPELINES[pipeline][0]():
        if ELSEWHERE in command:
            continue
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]
        done = subprocess.run(
            shell, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        said += done.stdout + done.stderr
        if done.returncode:
            return done.returncode, said
    return 0, said


def reports(pipeline: str, checkout: Path) -> list[set[str]]:
    """Return what each report says of the configuration: its rules that fail."""
    return [failing(checkout / name) for name in PIPELINES[pipeline][1]]


def failing(report: Path) -> set[str]:
    if report.suffix == ".xml":
        root = ET.parse(report).getroot()  # noqa: S314 - our own
        return {bad.get("type", "") for bad in (*root.iter("failure"), *root.iter("error"))}
    document = json.loads(report.read_text("utf-8"))
    if report.suffix == ".sarif":
        return {one["ruleId"] for one in document["runs"][0]["results"] if one["level"] == "error"}
    return {row["check_name"] for row in document if row["severity"] in {"blocker", "critical"}}


@everywhere
def test_what_is_not_run_here_only_installs(pipeline):
    commands = PIPELINES[pipeline][0]()
    elsewhere = [command for command in commands if ELSEWHERE in command]
    assert elsewhere
    assert all(INSTALLS.fullmatch(command.strip()) for command in elsewhere)
    assert any(command.startswith("tsguard check") for command in commands)


@everywhere
def test_a_good_checkout_passes_and_the_reports_are_there(pipeline, checkout):
    code, said = run(pipeline, checkout)
    assert code == 0, said
    assert reports(pipeline, checkout) == [set() for _ in PIPELINES[pipeline][1]]
    assert "1 configurations: 1 pass" in said


@everywhere
def test_a_finding_fails_the_step_and_is_in_every_report(pipeline, checkout):
    listed(checkout, archive(*GOOD, Entry("sitecustomize.py", b"x = 1\n")))
    code, said = run(pipeline, checkout)
    assert code == 3, said
    assert reports(pipeline, checkout) == [{"TSG-SCAN-001"} for _ in PIPELINES[pipeline][1]]
    assert "TSG-SCAN-001" in said


@everywhere
def test_a_broken_configuration_fails_the_step_and_is_in_every_report(pipeline, checkout):
    with (checkout / "deploy/torchserve/config.properties").open("a") as file:
        file.write("model_snapshot=x\n")
    code, said = run(pipeline, checkout)
    assert code == 2, said
    assert reports(pipeline, checkout) == [{"TSG-CONFIG"} for _ in PIPELINES[pipeline][1]]


@everywhere
def test_an_archive_that_was_changed_fails_the_step_and_is_in_every_report(pipeline, checkout):
    (checkout / "models/m.mar").write_bytes(archive(*GOOD, Entry("more.py", b"x = 1\n")))
    code, said = run(pipeline, checkout)
    assert code == 4, said
    assert reports(pipeline, checkout) == [{"TSG-VERIFY"} for _ in PIPELINES[pipeline][1]]


def test_a_clone_that_everyone_may_write_to_is_put_right_where_runners_make_such():
    assert "chmod -R go-w ." in gitlab()


def test_what_is_published_is_what_the_check_writes():
    steps = yaml.safe_load((STEPS / "github-actions.yml").read_text("utf-8"))["jobs"]["check"]["steps"]
    (upload,) = [step for step in steps if "upload" in step.get("uses", "")]
    assert upload["with"]["sarif_file"] in PIPELINES["github"][1]
    assert "!cancelled()" in upload["if"]
    artifacts = yaml.safe_load((STEPS / "gitlab-ci.yml").read_text("utf-8"))["tsguard"]["artifacts"]
    assert artifacts["when"] == "always"
    assert set(artifacts["reports"].values()) == set(PIPELINES["gitlab"][1])
    text = (STEPS / "Jenkinsfile").read_text("utf-8")
    assert re.findall(r"testResults: '([^']+)'", text) == list(PIPELINES["jenkins"][1])
    assert text.index("always {") < text.index("junit testResults")
