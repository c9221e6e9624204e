"""What a test that sends anything at all looks at afterwards: TorchServe's state, its log, and the guard's."""

from __future__ import annotations

import json
import re

import psutil
import servers

# Once a minute TorchServe starts a process that measures the machine, and ends by itself; where it may be in the way of
# an observation of processes, a test leaves it out.
QUIET = {"disable_system_metrics": "true"}
TOLD = ("modelVersion", "minWorkers", "maxWorkers", "modelUrl", "batchSize")


def state(server: servers.Server) -> dict[str, object]:
    """Every model with its versions, workers and default, and TorchServe's processes."""
    names = sorted(model["modelName"] for model in server.manage("GET", "/models?limit=100").json["models"])
    told: dict[str, object] = {
        name: [
            {key: version[key] for key in TOLD} | {"workers": sorted(worker["pid"] for worker in version["workers"])}
            for version in server.manage("GET", f"/models/{name}/all").json
        ]
        for name in names
    }
    defaults = {name: server.manage("GET", f"/models/{name}").json[0]["modelVersion"] for name in names}
    assert server.process is not None
    processes = sorted(child.pid for child in psutil.Process(server.process.pid).children(recursive=True))
    return {**told, "defaults": defaults, "processes": processes}


def told(server: servers.Server) -> str:
    """What TorchServe's log says last of workers and failures: why something changed."""
    lines = [
        line for log in server.folder.rglob("ts_log.log*") for line in log.read_text(errors="replace").splitlines()
    ]
    chosen = [line for line in lines if re.search(r"WARN|ERROR|[Ww]orker|Exception|Killed|^\tat ", line)]
    return "\n".join([line for line in chosen if "ancelled" not in line][-200:])


def access_log(server: servers.Guarded) -> dict[str, list[dict[str, object]]]:
    """What the access log says, by the id of the request."""
    said: dict[str, list[dict[str, object]]] = {}
    for line in (server.state / "access.log").read_text().splitlines():
        entry = json.loads(line)
        said.setdefault(entry["request_id"], []).append(entry)
    return said
