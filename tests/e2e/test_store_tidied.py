"""The store over several starts: what nobody lists and nobody uses goes, on record; what serves stays."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import servers

pytestmark = pytest.mark.e2e


def serve_once(server: servers.Guarded, *, look=None):
    server.launch()
    server.wait_serving()
    assert server.ask("POST", "/predictions/noop", b"x").body == b"x"
    if look is not None:
        look()
    server.signal(signal.SIGTERM)
    assert server.wait(60) == 0


def test_a_tree_that_was_idle_for_long_goes_and_the_one_that_serves_stays(guard, own_store):
    server = guard(own_store("noop.mar"), {"load_models": "noop.mar"})
    serve_once(server)
    (home,) = server.folder.rglob("subjects/mar-*")
    former = home.with_name(f"mar-{0:064}")
    shutil.copytree(home, former)
    (former / "idle").write_bytes(b"10")
    (home / "idle").write_bytes(b"10")

    def look():
        assert not former.exists()
        assert home.exists()
        assert not (home / "idle").exists()

    serve_once(server, look=look)
    (tidied,) = [entry for entry in server.audit() if entry["event"] == "store-tidied"]
    assert tidied["removed"] == [former.name]
    assert Path(home, "tree").is_dir()
