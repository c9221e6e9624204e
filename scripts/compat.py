"""TorchServe's own tests and clients, through the shim: `scripts/compat CHECKOUT [--stock] [--clients] [FILE ...]`.

CHECKOUT is a checkout of pytorch/serve; nothing in it is changed. Its tests run as they are, in a workspace of their
own, on TorchServe's own ports. What they would download is replaced by look-alikes: archives of the same names,
built by torch-model-archiver from the few lines below. Exits 1 when a test did not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "tests"))

import compat_clients  # noqa: E402
import servers  # noqa: E402 - it lies with the tests

NEEDED = ("test", "ts_scripts", "model-archiver", "examples/image_classifier/mnist", "examples/custom_metrics")
PROTOCOLS = Path("frontend/server/src/main/resources/proto")
TESTS = (
    "test_model_control_mode",
    "test_url_path",
    "test_model_config",
    "test_metrics",
    "test_gRPC_management_apis",
)
# What the tests need beside what the checkout of the guard has.
PACKAGES = ("orjson", "grpcio-tools", "protobuf", "googleapis-common-protos")
LOOK_ALIKES = ("mnist", "squeezenet1_1", "densenet161", "resnet-18", "resnet-152-batch")
LONGEST = 1800.0

MODEL = """\
import torch


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, data):
        return self.line(data)
"""
HANDLER = """\
import torch
from ts.torch_handler.base_handler import BaseHandler


class Handler(BaseHandler):
    def preprocess(self, data):
        return torch.zeros(len(data), 1)

    def postprocess(self, data):
        return data.flatten().tolist()
"""
# In place of examples/custom_metrics/mnist_handler.py, which wants torchvision: it tells the same metrics.
METRICS_HANDLER = """\
import torch
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.torch_handler.base_handler import BaseHandler


class Handler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        told = context.metrics
        told.add_metric_to_cache(
            metric_name="InferenceRequestCount", unit="count", dimension_names=[], metric_type=MetricTypes.COUNTER
        )
        told.add_metric_to_cache(
            metric_name="PreprocessCallCount",
            unit="count",
            dimension_names=["ModelName"],
            metric_type=MetricTypes.COUNTER,
        )
        told.add_metric(name="InitializeCallCount", value=1, unit="count", metric_type=MetricTypes.COUNTER)

    def preprocess(self, data):
        told, name = self.context.metrics, [self.context.model_name]
        told.get_metric("InferenceRequestCount", MetricTypes.COUNTER).add_or_update(1, [])
        told.get_metric("PreprocessCallCount", MetricTypes.COUNTER).add_or_update(1, name)
        told.get_metric("RequestBatchSize", MetricTypes.GAUGE).add_or_update(len(data), name)
        told.add_size(name="SizeOfImage", value=1.5, idx=None, unit="kB")
        told.add_time(
            name="HandlerMethodTime",
            value=2.5,
            idx=None,
            unit="ms",
            dimensions=[Dimension(name="MethodName", value="preprocess")],
            metric_type=MetricTypes.GAUGE,
        )
        return torch.zeros(len(data), 1, 28, 28)

    def postprocess(self, data):
        told = self.context.metrics
        told.add_counter(name="PostprocessCallCount", value=1, idx=None, dimensions=[])
        told.add_percent(
            name="ExamplePercentMetric", value=50, idx=None, dimensions=[], metric_type=MetricTypes.HISTOGRAM
        )
        return data.argmax(1).flatten().tolist()
"""


def copied(checkout: Path, serve: Path) -> None:
    """Copy what the tests read into the workspace."""
    for name in NEEDED:
        shutil.copytree(checkout / name, serve / name, ignore=shutil.ignore_patterns("*.ipynb", "screenshots"))


def look_alikes(serve: Path) -> None:
    """Lay sources under the names that the tests build their archives from."""
    import torch  # noqa: PLC0415 - heavy, and only needed here

    (serve / "model.py").write_text(MODEL)
    (serve / "handler.py").write_text(HANDLER)
    (serve / "examples/custom_metrics/mnist_handler.py").write_text(METRICS_HANDLER)
    torch.save(torch.nn.ModuleDict({"line": torch.nn.Linear(1, 1)}).state_dict(), serve / "tiny.pt")
    digits = {}
    exec((serve / "examples/image_classifier/mnist/mnist.py").read_text(), digits)  # noqa: S102 - TorchServe's example
    torch.save(digits["Net"]().state_dict(), serve / "examples/image_classifier/mnist/mnist_cnn.pt")
    made_from = {
        "version": "1.0",
        "model_file": "model.py",
        "serialized_file_local": "tiny.pt",
        "handler": "handler.py",
    }
    common = {"version": "1.0", "archive_format": "default", **made_from}
    recipes = [{"model_name": name, **common} for name in LOOK_ALIKES]
    (serve / "ts_scripts/mar_config.json").write_text(json.dumps(recipes))


def installed(checkout: Path, workspace: Path) -> tuple[Path, Path]:
    """Install what the tests import, generate the gRPC stubs, and return where both are."""
    packages, stubs = workspace / "packages", workspace / "stubs"
    stubs.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(packages), *PACKAGES], check=True)
    protocols = checkout / PROTOCOLS
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={protocols}", f"--proto_path={packages}"]
    command += [f"--python_out={stubs}", f"--grpc_python_out={stubs}", "inference.proto", "management.proto"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(packages)})
    return packages, stubs


def environment(workspace: Path, places: tuple[Path, ...], *, stock: bool) -> dict[str, str]:
    """Return the environment of the tests: the shim first on the path, and a temporary folder of their own."""
    programs = workspace / "bin"
    if stock:
        programs.mkdir()
        (programs / "torchserve").symlink_to(SCRIPTS / "torchserve")
    else:
        command = [str(SCRIPTS / "tsguard"), "shim", str(programs), "--profile", "compat"]
        subprocess.run([*command, "--model-control-mode", "explicit"], check=True)
    temporary = workspace / "tmp"
    (temporary / "workspace/model_store").mkdir(parents=True)
    kept = {name: os.environ[name] for name in ("LANG", "HOME") if name in os.environ}
    return {
        **kept,
        "PATH": f"{programs}:{SCRIPTS}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(map(str, places)),
        "TMPDIR": str(temporary),
        "XDG_STATE_HOME": str(workspace / "state"),
        "JAVA_HOME": servers.java_home(),
    }


def outcomes(report: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the outcome and the first line of the reason of each test in a report."""
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest has just written it
        bad = next((child for child in case if child.tag in {"failure", "error", "skipped"}), None)
        reason = "" if bad is None else (bad.get("message") or "").split("\n")[0][:160]
        yield str(case.get("name")), "passed" if bad is None else bad.tag, reason


def run(name: str, serve: Path, around: dict[str, str], log: Path) -> list[tuple[str, str, str]]:
    """Run one file of tests in its folder; return what came of each test."""
    report = log.with_suffix(".xml")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"{name}.py"]
    with log.open("wb") as sink:
        subprocess.run(
            command, cwd=serve / "test/pytest", env=around, stdout=sink, stderr=sink, timeout=LONGEST, check=False
        )
    return list(outcomes(report)) if report.exists() else [(name, "error", f"did not run, see {log}")]


REPLAY = """
import json, sys, grpc, test_gRPC_management_apis as tests, test_gRPC_utils, test_utils
from urllib import parse
tests.setup_module(None)
names = {"register": "RegisterModel", "unregister": "UnregisterModel", "scale": "ScaleWorker"}
names |= {"set_default": "SetDefault", "list": "ListModels", "describe": "DescribeModel"}
told = []
for item in json.load(open("../postman/management_data.json")):
    try:
        given = getattr(tests, f"__get_{item['type']}_params")(parse.urlsplit(item["path"]))
        test_gRPC_utils.run_management_api(names[item["type"]], **given)
        code = 0
    except grpc.RpcError as error:
        code = error.code().value[0]
    except ValueError:
        continue
    told.append([item["path"], code])
tests.teardown_module(None)
json.dump(told, open(sys.argv[1], "w"))
"""


def replayed(serve: Path, around: dict[str, str], report: Path) -> None:
    """Make the calls of test_gRPC_management_apis one by one, each whatever came of the others; print their codes."""
    command = [sys.executable, "-c", REPLAY, str(report)]
    with report.with_suffix(".log").open("wb") as sink:
        done = subprocess.run(
            command, cwd=serve / "test/pytest", env=around, stdout=sink, stderr=sink, timeout=LONGEST, check=False
        )
    for path, code in json.loads(report.read_text()) if done.returncode == 0 else []:
        print(f"grpc {code:2}  {path}")


def stopped(serve: Path, around: dict[str, str]) -> None:
    """Stop what a test may have left running."""
    program = shutil.which("torchserve", path=around["PATH"])
    subprocess.run(
        [str(program), "--stop", "--foreground"], cwd=serve / "test/pytest", env=around, check=False, timeout=LONGEST
    )


def main() -> int:
    """Prepare, run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of pytorch/serve")
    parser.add_argument("files", nargs="*", default=TESTS, help="test files of test/pytest, without `.py`")
    parser.add_argument("--stock", action="store_true", help="run them against a bare TorchServe, to compare")
    parser.add_argument("--replay", action="store_true", help="make the gRPC calls one by one, and print their codes")
    parser.add_argument("--clients", action="store_true", help="run TorchServe's own clients, and none of the tests")
    parser.add_argument("--keep", action="store_true", help="keep the workspace")
    told = parser.parse_intermixed_args()
    workspace = Path(tempfile.mkdtemp(prefix="tsg-compat-"))
    serve, failed = workspace / "serve", 0
    try:
        copied(told.checkout, serve)
        look_alikes(serve)
        around = environment(workspace, installed(told.checkout, workspace), stock=told.stock)
        for name in told.files if not told.clients else ():
            for test, outcome, reason in run(name, serve, around, workspace / f"{name}.log"):
                print(f"{outcome:8} {name}::{test}  {reason}", flush=True)
                failed += outcome in {"failure", "error"}
            stopped(serve, around)
        for name, outcome, reason in (
            compat_clients.run(told.checkout, serve, around, workspace) if told.clients else ()
        ):
            print(f"{outcome:8} {name}  {reason}", flush=True)
            failed += outcome == "failure"
        if told.replay:
            replayed(serve, around, workspace / "replay.json")
    finally:
        if told.keep:
            print(f"the workspace is {workspace}")
        else:
            shutil.rmtree(workspace, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
