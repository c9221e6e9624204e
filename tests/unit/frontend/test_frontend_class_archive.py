"""The class archive: another one for another Java or other jars, and none that somebody else could have written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend import class_archive
from torchserve_guard.frontend.java import Java

JAVA = Java(Path("/usr/bin/java"), "17.0.15")


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    path = tmp_path / "model-server.jar"
    path.write_bytes(b"classes")
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir(mode=0o755)
    return folder


def written(place: Path, jar: Path) -> Path:
    made = place / "made"
    made.write_bytes(b"x")
    return class_archive.keep(made, class_archive.stem_of(JAVA, (jar,)))


def test_an_archive_of_ours_is_used(place, jar):
    path = written(place, jar)
    assert class_archive.using(JAVA, (jar,), place) == (f"-XX:SharedArchiveFile={path}",)


def test_where_there_is_none_nothing_is_said(place, jar):
    assert class_archive.using(JAVA, (jar,), place) == ()


def test_another_java_and_other_jars_have_another_archive(place, jar):
    written(place, jar)
    assert class_archive.using(Java(JAVA.path, "17.0.16"), (jar,), place) == ()
    assert class_archive.using(Java(Path("/opt/java"), JAVA.version), (jar,), place) == ()
    jar.write_bytes(b"other classes")
    assert class_archive.using(JAVA, (jar,), place) == ()


def test_jars_of_another_time_are_other_jars(place, jar):
    written(place, jar)
    os.utime(jar, ns=(1, 1))
    assert class_archive.using(JAVA, (jar,), place) == ()


@pytest.mark.parametrize("content", [b"", b"y", b"x\0"])
def test_an_archive_that_is_not_whole_is_not_used(place, jar, content):
    path = written(place, jar)
    path.chmod(0o644)
    path.write_bytes(content)
    assert class_archive.using(JAVA, (jar,), place) == ()


def test_a_java_that_writes_no_classes_is_an_error_with_its_words(tmp_path, jar):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n")
    java.chmod(0o755)
    with pytest.raises(FrontendError, match="does not write its classes: no such option"):
        class_archive.dump(Java(java, "17"), (jar,), tmp_path / "names", tmp_path / "made")


@pytest.mark.parametrize("mode", [0o464, 0o446])
def test_an_archive_that_others_may_write_is_not_used(place, jar, mode):
    written(place, jar).chmod(mode)
    assert class_archive.using(JAVA, (jar,), place) == ()


def test_an_archive_in_a_folder_that_others_may_write_is_not_used(place, jar):
    written(place, jar)
    place.chmod(0o777)
    assert class_archive.using(JAVA, (jar,), place) == ()


def test_a_link_is_not_used(place, jar, tmp_path):
    path = written(place, jar)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert class_archive.using(JAVA, (jar,), place) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_an_archive_of_another_user_is_not_used(place, jar):
    os.chown(written(place, jar), 65534, 65534)
    assert class_archive.using(JAVA, (jar,), place) == ()
