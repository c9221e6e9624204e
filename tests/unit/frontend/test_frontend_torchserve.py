"""TorchServe as installed: found without running it, and not where we happen to stand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend.torchserve import find_torchserve, installed, verify_workers


def package(directory: Path, version: str | None = "0.12.0", jars: tuple[str, ...] = ("model-server.jar",)) -> Path:
    (directory / "ts" / "frontend").mkdir(parents=True)
    (directory / "ts" / "__init__.py").write_text("raise SystemExit('imported')\n")
    if version is not None:
        (directory / "ts" / "version.txt").write_text(f"{version}\n")
    for jar in jars:
        (directory / "ts" / "frontend" / jar).touch()
    return directory


def test_it_is_found_with_its_version_and_jars_and_not_imported(tmp_path):
    found = find_torchserve([str(package(tmp_path))])
    assert (found.home, found.version, found.jars) == (tmp_path, "0.12.0", (tmp_path / "ts/frontend/model-server.jar",))
    assert "ts" not in sys.modules


@pytest.mark.parametrize(
    ("version", "tokens"), [("0.12.0", True), ("0.11.1", True), ("0.9.0", False), ("0.11.0", False)]
)
def test_versions_know_tokens_or_do_not(tmp_path, version, tokens):
    assert find_torchserve([str(package(tmp_path, version))]).tokens is tokens


def test_the_directory_that_we_stand_in_is_no_place_to_look(tmp_path, monkeypatch):
    monkeypatch.chdir(package(tmp_path))
    monkeypatch.syspath_prepend("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in installed()
    assert all(Path(place).is_absolute() for place in installed())


def test_none_installed_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(FrontendError, match="pip install torchserve"):
        find_torchserve([str(tmp_path)])


@pytest.mark.parametrize("broken", [{"version": None}, {"jars": ()}])
def test_half_a_torchserve_is_an_error(tmp_path, broken):
    with pytest.raises(FrontendError, match="install it anew"):
        find_torchserve([str(package(tmp_path, **broken))])


def test_a_module_that_the_workers_lack_is_named_by_what_to_install():
    with pytest.raises(FrontendError, match="pip install pyyaml"):
        verify_workers(lambda module: None if module == "yaml" else object())


def test_workers_that_have_everything_pass():
    verify_workers(lambda _: object())
