"""TorchServe's links: what it was shown it may link to, and nothing else, and it stays so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from torchserve_guard.vigil import Links, Strayed, links


class Place:
    """A private store that shows two archives, and TorchServe's links to them."""

    def __init__(self, root: Path, *, may_vanish: bool = False) -> None:
        self.exposed, self.links = root / "models", root / "ts" / "tmp" / "models"
        self.trees = {name: root / name / "tree" for name in ("a.mar", "b.mar", "evil")}
        for folder in (self.exposed, self.links, *self.trees.values()):
            folder.mkdir(parents=True)
        for folder in root.rglob("*"):
            folder.chmod(0o700)
        self.kept = Links(self.exposed, self.links, may_vanish=may_vanish)
        for name in ("a.mar", "b.mar"):
            (self.exposed / name).symlink_to(self.trees[name])
            self.kept.show(name, self.trees[name])
            self.torchserve_links(name, f"0{name[0]}")
        self.kept.pin()

    def torchserve_links(self, name: str, folder: str) -> None:
        """As ZipUtils.createSymbolicDir does."""
        (self.links / folder).mkdir(mode=0o700)
        (self.links / folder / name).symlink_to(self.exposed / name)

    @property
    def a(self) -> Path:
        return self.links / "0a" / "a.mar"


@pytest.fixture(params=["plain", "behind a link"])
def place(tmp_path, request):
    """Where the state directory is a link, what the guard calls a tree is not where it really lies."""
    if request.param == "plain":
        return Place(tmp_path)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    return Place(tmp_path / "link")


def relink(link: Path, target: Path) -> None:
    link.unlink()
    link.symlink_to(target)


def test_a_pinned_link_leads_to_the_tree_itself_and_nothing_strays(place):
    assert place.a.readlink() == place.trees["a.mar"].resolve()
    assert place.kept.check() == []
    assert place.kept.lead_to(place.trees["a.mar"])


def test_a_link_that_leads_elsewhere_has_strayed_from_its_tree(place):
    relink(place.a, place.trees["evil"])
    (strayed,) = place.kept.check()
    assert (strayed.archive, strayed.tree) == ("a.mar", place.trees["a.mar"])


def test_a_link_to_the_tree_of_another_model_has_strayed(place):
    relink(place.a, place.trees["b.mar"])
    assert [one.archive for one in place.kept.check()] == ["a.mar"]


def test_a_folder_in_the_place_of_a_link_has_strayed(place):
    place.a.unlink()
    shutil.copytree(place.trees["evil"], place.a)
    assert [one.what for one in place.kept.check()] == ["TorchServe's link leads to `no link`"]


def test_a_store_that_shows_something_else_has_strayed(place):
    relink(place.exposed / "a.mar", place.trees["evil"])
    assert [one.tree for one in place.kept.check()] == [place.trees["a.mar"]]


def test_what_torchserve_was_not_shown_has_strayed(place):
    (place.links / "0c").mkdir()
    (place.links / "0c" / "c.mar").mkdir()
    assert [(one.archive, one.tree) for one in place.kept.check()] == [("c.mar", None)]


def test_a_registration_under_way_has_not_strayed(place):
    place.torchserve_links("a.mar", "1a")
    assert place.kept.check() == []


def test_what_a_swapped_name_led_to_is_never_pinned(place):
    relink(place.exposed / "a.mar", place.trees["evil"])
    place.torchserve_links("a.mar", "1a")
    place.kept.pin()
    assert (place.links / "1a" / "a.mar").readlink() == place.exposed / "a.mar"
    assert place.kept.check()


@pytest.mark.parametrize("may_vanish", [False, True])
def test_a_link_goes_only_where_models_may(tmp_path, may_vanish):
    place = Place(tmp_path, may_vanish=may_vanish)
    shutil.rmtree(place.a.parent)
    assert [one.archive for one in place.kept.check()] == ([] if may_vanish else ["a.mar"])
    assert not place.kept.lead_to(place.trees["a.mar"])


@pytest.mark.parametrize("name", ["links", "exposed"])
def test_a_folder_of_links_that_was_replaced_by_a_link_concerns_everybody(place, name):
    folder = getattr(place, name)
    folder.rename(folder.with_name("good"))
    folder.symlink_to("good")
    assert Strayed("", None, f"`{folder}` is a link now, or below one") in place.kept.check()


def test_a_folder_of_links_that_others_may_write_concerns_everybody(place):
    place.links.chmod(0o777)
    assert [(one.archive, one.tree) for one in place.kept.check()] == [("", None)]


def test_links_that_are_gone_altogether_are_missed(place):
    shutil.rmtree(place.links.parent)
    assert [one.archive for one in sorted(place.kept.check(), key=lambda one: one.archive)] == ["a.mar", "b.mar"]


def test_before_the_first_model_there_is_no_folder_and_nothing_strayed(tmp_path):
    (tmp_path / "models").mkdir(mode=0o700)
    assert Links(tmp_path / "models", tmp_path / "none" / "models", may_vanish=True).check() == []


def test_a_link_in_a_folder_that_was_replaced_by_a_link_has_strayed(place):
    """It leads where it should, and its folder lies where nobody looks."""
    folder = place.a.parent
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")
    assert [one.archive for one in place.kept.check()] == ["a.mar"]


def test_a_flood_of_links_hides_none_that_was_pinned(tmp_path, monkeypatch):
    place = Place(tmp_path, may_vanish=True)
    monkeypatch.setattr(links, "MOST_ENTRIES", 1)
    strayed = place.kept.check()
    assert strayed
    assert place.kept.lead_to(place.trees["a.mar"])
    assert place.kept.lead_to(place.trees["b.mar"])


def test_a_link_that_torchserve_takes_away_meanwhile_is_not_pinned(place, monkeypatch):
    place.torchserve_links("a.mar", "1a")
    real, gone = links._replace, []

    def late(link, target):
        link.unlink()
        link.parent.rmdir()
        gone.append(link)
        real(link, target)

    monkeypatch.setattr(links, "_replace", late)
    place.kept.pin()
    assert gone == [place.links / "1a" / "a.mar"]
    assert place.kept.check() == []


def test_a_link_that_cannot_be_replaced_leaves_no_other_behind(place):
    taken = place.links / "1a" / "a.mar"
    taken.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        links._replace(taken, place.trees["a.mar"])
    assert list(taken.parent.iterdir()) == [taken]
