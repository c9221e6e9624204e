"""What is served stays what was verified, or its door closes: with the real TorchServe, over HTTP and gRPC."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import grpc
import messages
import pytest
import servers

pytestmark = pytest.mark.e2e

NUMBERS = json.dumps([1, 2, 3, 4])
SOON = 60.0


@pytest.fixture(scope="module")
def store(archives):
    """A store of its own, with a bomb where weights should be: a model whose weights are a program."""
    with servers.folder("tsg-d-") as folder:
        for name in ("noop.mar", "weighted.mar", "doubled.mar"):
            shutil.copy(archives / name, folder / name)
        _bomb(folder)
        servers.manifest(folder)
        yield folder


def _bomb(folder: Path) -> None:
    """Build `bomb.mar`: its weights are a pickle that makes a file."""
    source = (
        "import build, dataclasses, pathlib, sys, torch\n"
        "class Bomb:\n"
        "    def __reduce__(self): return open, (sys.argv[2], 'w')\n"
        "def made(directory):\n"
        "    torch.save({'weight': Bomb()}, directory / 'weights.pt')\n"
        "    return directory / 'weights.pt'\n"
        "recipe = dataclasses.replace(build.RECIPES['weighted'], model='bomb', serialized=made)\n"
        "build._build(pathlib.Path(sys.argv[1]), 'bomb', recipe)\n"
    )
    servers_python = str(servers.SCRIPTS / "python")
    models = str(Path(__file__).parents[1] / "models")
    subprocess.run(
        [servers_python, "-c", source, str(folder), str(folder / "fired")], check=True, capture_output=True, cwd=models
    )


def start(folder: Path, store: Path, **more) -> servers.Guarded:
    settings = {"load_models": "noop.mar,weighted.mar,doubled.mar", **more}
    return servers.Guarded(folder / "g", store, settings)


@pytest.fixture(scope="module")
def explicit(store):
    """A guard in mode explicit that looks only when it is asked to."""
    more = {"model-control-mode": "explicit", "guard.verify_interval": "0"}
    with servers.folder("tsg-x-") as folder, servers.serving(start(folder, store, **more)) as server:
        yield server


@pytest.fixture
def watching(store, place):
    """A guard in mode none that looks every second."""
    with servers.serving(start(place, store, **{"guard.verify_interval": "1"})) as server:
        yield server


def verify(server: servers.Guarded, code: int) -> dict:
    """What `tsguard status --verify` says of each model."""
    done = server.run("status", "--verify", "--json", "--config", str(server.config))
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "torchserve_guard/verification/v1"
    assert document["clean"] is (code == 0)
    return {one["model"]: one for one in document["models"]}


def doors(server: servers.Guarded) -> dict[str, str]:
    return {one["model"]: one["door"] for one in server.status()["models"]}


def tree(server: servers.Guarded, archive: str) -> Path:
    (digest,) = [one["digest"] for one in server.status()["models"] if one["archive"] == archive]
    return server.state / "store" / "subjects" / f"mar-{digest}" / "tree"


def tamper(path: Path) -> None:
    """Change a byte of a sealed file; size, mode and modification time stay."""
    status, data = path.stat(), path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    path.chmod(stat_mode(status))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def stat_mode(status: os.stat_result) -> int:
    return status.st_mode & 0o7777


def key(server: servers.Guarded) -> dict[str, str]:
    document = json.loads((server.folder / "key_file.json").read_text())
    return {"Authorization": f"Bearer {document['management']['key']}"}


def over_grpc(server: servers.Guarded, model: str) -> grpc.StatusCode:
    path = messages.INFERENCE + "Predictions"
    request = messages.request(path, model_name=model, input={"data": NUMBERS.encode()})
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc[0]}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            channel.unary_unary(path)(request, timeout=30)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def until(condition, what: str) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def predicted(server: servers.Guarded, model: str) -> int:
    return server.ask("POST", f"/predictions/{model}", NUMBERS).status


def test_weights_that_are_a_program_never_run(explicit, store):
    """The manifest lists them, so somebody signed them: who unpickles must not trust that either."""
    answer = explicit.manage("POST", "/models?url=bomb.mar&initial_workers=1", headers=key(explicit))
    assert answer.status == 500, answer.body
    until(lambda: "nothing of it was run" in explicit.output(), "no worker said why it does not load")
    assert not (store / "fired").exists()
    assert predicted(explicit, "weighted") == 200


def test_what_was_changed_is_found_on_demand_closed_and_open_again_when_registered_anew(explicit):
    assert {one["state"] for one in verify(explicit, 0).values()} == {"verified"}
    assert json.loads(explicit.ask("POST", "/predictions/weighted", NUMBERS).body) == [3, 6, 9, 12]

    tamper(tree(explicit, "noop.mar") / "noop.py")
    found = verify(explicit, 4)
    assert {name: (one["state"], one["closed"]) for name, one in found.items()} == {
        "noop": ("drifted", True),
        "weighted": ("verified", False),
        "doubled": ("verified", False),
    }
    assert found["noop"]["found"] == ["`noop.py` has other contents"]
    refused = explicit.ask("POST", "/predictions/noop", NUMBERS)
    assert (refused.status, refused.json["code"], refused.json["type"]) == (503, 503, "ServiceUnavailableException")
    assert "noop.py" not in refused.json["message"]
    assert over_grpc(explicit, "noop") is grpc.StatusCode.UNAVAILABLE
    assert over_grpc(explicit, "doubled") is grpc.StatusCode.OK
    assert predicted(explicit, "doubled") == 200
    assert explicit.ask("GET", "/ping").json == {"status": "Healthy"}
    assert explicit.manage("GET", "/models/noop", headers=key(explicit)).status == 200
    assert explicit.manage("PUT", "/models/noop?min_worker=2", headers=key(explicit)).status == 503
    assert doors(explicit) == {"noop": "closed", "weighted": "open", "doubled": "open"}
    (entry,) = [entry for entry in explicit.audit() if entry["event"] == "drift"]
    assert (entry["model"], entry["found"]) == ("noop", ["`noop.py` has other contents"])
    numbers = explicit.run("status", "--metrics", "--config", str(explicit.config)).stdout
    assert 'tsguard_model_open{model="noop",version="1.0"} 0\n' in numbers
    assert 'tsguard_model_open{model="doubled",version="1.0"} 1\n' in numbers
    assert "tsguard_drifts_total 1\n" in numbers

    # It was put back: the door stays closed, since nobody knows what ran meanwhile.
    tamper(tree(explicit, "noop.mar") / "noop.py")
    assert "changed back" in verify(explicit, 4)["noop"]["found"][0]

    assert explicit.manage("DELETE", "/models/noop/1.0", headers=key(explicit)).status == 200
    answer = explicit.manage("POST", "/models?url=noop.mar&initial_workers=1&synchronous=true", headers=key(explicit))
    assert answer.status == 200, answer.body
    assert predicted(explicit, "noop") == 200
    assert {one["state"] for one in verify(explicit, 0).values()} == {"verified"}

    # TorchServe's own link is what its next worker reads.
    (link,) = links_to(explicit, "doubled.mar")
    link.unlink()
    link.symlink_to(tree(explicit, "noop.mar"))
    assert "TorchServe's link leads to" in verify(explicit, 4)["doubled"]["found"][0]
    assert (predicted(explicit, "doubled"), predicted(explicit, "noop")) == (503, 200)


def links_to(server: servers.Guarded, archive: str) -> list[Path]:
    (run,) = (server.folder / "tmp").glob("tsguard-*")
    return list((run / "ts" / "tmp" / "models").glob(f"*/{archive}"))


def test_the_guard_looks_by_itself_and_a_worker_loads_nothing_that_was_changed(watching):
    assert predicted(watching, "weighted") == 200
    tamper(tree(watching, "weighted.mar") / "weights.pt")
    until(lambda: predicted(watching, "weighted") == 503, "the door is still open")
    assert doors(watching)["weighted"] == "closed"
    assert [entry["found"] for entry in watching.audit() if entry["event"] == "drift"] == [
        ["`weights.pt` has other contents"]
    ]
    # Its worker has the old weights still; the next one looks before it loads.
    (worker,) = watching.manage("GET", "/models/weighted").json[0]["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: "`weights.pt` was changed" in watching.output(), "no worker said why it does not load")
    assert "Nothing of it was loaded" in watching.output()
    assert predicted(watching, "noop") == 200
