"""Archives built once, a stock server and a guarded one to compare, and guards of a test's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import servers

BUILD = Path(__file__).parents[1] / "models" / "build.py"
LOADED = "noop.mar,noop_v2.mar,doubled.mar,mirror.mar"
READY = ("noop", "doubled", "mirror")


@pytest.fixture(scope="session")
def archives() -> Path:
    """A store of every example model; not to be changed."""
    with servers.folder("tsg-m-") as folder:
        subprocess.run([sys.executable, str(BUILD), str(folder)], check=True, capture_output=True)
        yield folder


@pytest.fixture(scope="session")
def listed(archives: Path) -> Path:
    """The same store with its manifest."""
    servers.manifest(archives)
    return archives


@pytest.fixture(scope="session")
def stock(listed: Path):
    """A stock TorchServe with the models of `LOADED`, model control enabled, no tokens."""
    with servers.folder("tsg-s-") as folder:
        server = servers.Stock(folder, listed, {"load_models": LOADED}, arguments=("--enable-model-api",))
        with servers.serving(server, READY):
            yield server


@pytest.fixture(scope="session")
def guarded(listed: Path):
    """A guarded TorchServe with the same configuration, in mode none."""
    with servers.folder("tsg-g-") as folder:
        server = servers.Guarded(folder, listed, {"load_models": LOADED})
        with servers.serving(server):
            yield server


@pytest.fixture
def place():
    """A short folder of the test's own."""
    with servers.folder("tsg-t-") as folder:
        yield folder


@pytest.fixture
def own_store(archives: Path, place: Path):
    """A copy of some archives, for a test that changes them: `own_store("noop.mar")`."""

    def copy(*names: str) -> Path:
        store = place / "store"
        store.mkdir(exist_ok=True)
        for name in names:
            shutil.copy(archives / name, store / name)
        servers.manifest(store)
        return store

    return copy


@pytest.fixture
def guard(place: Path):
    """Make guards of the test's own, not yet started; ended afterwards."""
    made: list[servers.Guarded] = []

    def make(store: Path, settings: dict[str, str], **more) -> servers.Guarded:
        made.append(servers.Guarded(place / f"guard{len(made)}", store, settings, **more))
        return made[-1]

    yield make
    for server in made:
        servers.end(server)
