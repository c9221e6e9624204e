"""TorchServe's keys: taken once, whole, and shown to nobody."""

from __future__ import annotations

import json

import pytest

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend.tokens import UpstreamKeys, take_keys

WRITTEN = {
    "management": {"key": "bWFuYWdl", "expiration time": "2121-01-01T00:00:00Z"},
    "inference": {"key": "aW5mZXJl", "expiration time": "2121-01-01T00:00:00Z"},
    "API": {"key": "YXBpa2V5"},
}


def test_keys_are_taken_and_their_file_deleted(tmp_path):
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps(WRITTEN))
    assert take_keys(file) == UpstreamKeys("aW5mZXJl", "bWFuYWdl", "YXBpa2V5")
    assert not file.exists()


@pytest.mark.parametrize("length", [0, 1, 40, 120])
def test_a_file_that_is_still_being_written_is_waited_for(tmp_path, length):
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps(WRITTEN)[:length])
    assert take_keys(file) is None
    assert file.exists()


def test_a_file_that_is_not_there_is_waited_for(tmp_path):
    assert take_keys(tmp_path / "key_file.json") is None


@pytest.mark.parametrize(
    "change", [{"API": {}}, {"management": "x"}, {"inference": {"key": 5}}, {"API": {"key": "a\r\nb: c"}}]
)
def test_a_file_without_the_keys_is_an_error_that_quotes_none(tmp_path, change):
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps(WRITTEN | change))
    with pytest.raises(FrontendError) as caught:
        take_keys(file)
    assert "aW5mZXJl" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text(json.dumps(WRITTEN))
    (tmp_path / "key_file.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FrontendError):
        take_keys(tmp_path / "key_file.json")


def test_keys_do_not_show(tmp_path):
    keys = UpstreamKeys("aW5mZXJl", "bWFuYWdl", "YXBpa2V5")
    assert not any(key in f"{keys!r} {keys}" for key in ("aW5mZXJl", "bWFuYWdl", "YXBpa2V5"))
