"""TorchServe's own clients, unmodified: each is run as a program, and has to say what it says to a bare TorchServe.

They speak to the ports that are written in them. Their models are look-alikes, small enough to be understood.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONGEST = 300.0
GRPC = "ts_scripts/torchserve_grpc_client.py"
STREAMING = "examples/large_models/utils/test_llm_streaming_response.py"

# What came is told by name and length; streamed in pieces, each an object of its own, when the model is called so.
HANDLER = """\
import json
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


class Handler(BaseHandler):
    def initialize(self, context):
        self.context, self.initialized = context, True

    def handle(self, data, context):
        if context.model_name == "sd":
            return [[[[1, 2, 3]]]] * len(data)
        if context.model_name != "llm":
            return [json.dumps({name: len(value) for name, value in row.items()}) for row in data]
        for number in range(30):
            piece = json.dumps({"text": f"<{number}>"})
            send_intermediate_predict_response([piece], context.request_ids, "Intermediate", 200, context)
        return [json.dumps({"text": "<end>"})]
"""
MODELS = ("echo", "llm", "sd", "rnnt", "rag", "llama3-8b-instruct", "MMF_activity_recognition")
TOOLS = """\
import sys
from ts_scripts import marsgen, tsutils
marsgen.mar_set.add("later.mar")
print(tsutils.register_model("later").status_code)
print(tsutils.run_inference("later", sys.argv[1]).text)
print(tsutils.unregister_model("later").status_code)
"""
# What kubernetes/kserve/kserve_wrapper/TorchserveModel.py asks; it is not run, for it wants the package kserve.
KSERVE = """\
import asyncio, grpc, requests, inference_pb2, inference_pb2_grpc
ready = requests.get("http://127.0.0.1:8081/models/echo?customized=false", timeout=5).json()[0]
print([worker["status"] for worker in ready["workers"]])
print(requests.post("http://127.0.0.1:8080/predictions/echo", json={"instances": [{"data": 1}]}).text)
async def predicted():
    stub = inference_pb2_grpc.InferenceAPIsServiceStub(grpc.aio.insecure_channel("127.0.0.1:7070"))
    request = inference_pb2.PredictionsRequest(model_name="echo", input={"body": b"abc"})
    return (await stub.Predictions(request)).prediction
print(asyncio.run(predicted()))
"""


@dataclass(frozen=True)
class Client:
    """A program with its arguments, and what its output has to match; `keyed` wants the inference key behind it."""

    name: str
    arguments: tuple[str, ...]
    says: str
    code: bool = False
    keyed: bool = False

    def command(self, checkout: Path, key: str) -> list[str]:
        """Return the command line."""
        first, *rest = self.arguments
        program = ["-c", first] if self.code else [str(checkout / first)]
        return [sys.executable, *program, *rest, *(["--auth-token", key] if self.keyed else [])]


_PIECES = "".join(f"<{number}>" for number in range(30)) + "<end>"
_STREAMED = "".join(rf'\{{"text": "<{number}>"\}}\s' for number in range(30))
CLIENTS = (
    Client("gRPC infer", (GRPC, "infer", "echo", "input.txt"), r'\{"data": 5\}'),
    Client("gRPC infer_stream", (GRPC, "infer_stream", "llm", "input.txt"), _STREAMED),
    Client("gRPC register", (GRPC, "register", "later", "later.mar"), "later registered successfully"),
    Client("gRPC unregister", (GRPC, "unregister", "later"), "later unregistered successfully"),
    Client("REST tsutils", (TOOLS, "input.txt"), r'(?s)\n200\n.*\n\{"data": 5\}\n.*\n200\n', code=True),
    Client("REST streaming", (STREAMING, "-m", "llm", "--prompt-text", "hi", "--demo-streaming"), _PIECES),
    Client("REST speech", ("examples/asr_rnnt_emformer/03_predict.py",), r'\{"body": 4\}'),
    Client("REST rag", ("examples/usecases/RAG_based_LLM_serving/query_rag.py",), r'\{"body": 26\}'),
    Client(
        "REST rag, llama", ("examples/usecases/RAG_based_LLM_serving/query_rag_llama.py",), r'Answer: \{"body": 12\}'
    ),
    Client("REST multipart", ("examples/MMF-activity-recognition/request.py",), ""),
    Client(
        "REST image",
        (
            "examples/diffusers/query.py",
            "--url",
            "http://localhost:8080/predictions/sd",
            "--prompt",
            "a",
            "--filename",
            "x.png",
        ),
        "",
    ),
    Client("KServe's calls", (KSERVE,), r"(?s)\['READY'.*\]\n\{.+\}\nb'\{\"body\": 3\}'", code=True),
)
KEYED = (
    Client("gRPC infer, with its key", (GRPC, "infer", "echo", "input.txt"), r'\{"data": 5\}', keyed=True),
    Client(
        "gRPC infer, without one", (GRPC, "infer", "echo", "input.txt"), "Token Authorization failed|UNAUTHENTICATED"
    ),
)


def archived(workspace: Path) -> Path:
    """Make the models' archives, and return their store."""
    store, source = workspace / "clients-store", workspace / "clients_handler.py"
    store.mkdir()
    source.write_text(HANDLER)
    program = str(Path(sys.executable).parent / "torch-model-archiver")
    for name in (*MODELS, "later"):
        command = [
            program,
            "--model-name",
            name,
            "--version",
            "1.0",
            "--handler",
            str(source),
            "--export-path",
            str(store),
        ]
        subprocess.run(command, check=True)
    return store


def laid_out(workspace: Path) -> Path:
    """Return a folder with the files that the clients read."""
    folder = workspace / "clients"
    folder.mkdir()
    for name, text in {
        "input.txt": "hello",
        "1089-134686-0000.wav": "RIFF",
        "372CC.mp4": "video",
        "372CC.info.json": json.dumps({"script": "abc", "action_labels": "ab"}),
    }.items():
        (folder / name).write_text(text)
    return folder


def run(checkout: Path, serve: Path, around: dict[str, str], workspace: Path) -> Iterator[tuple[str, str, str]]:
    """Start the server, without keys and with, run each client, and yield its name, outcome and last word."""
    store, folder = archived(workspace), laid_out(workspace)
    program = str(shutil.which("torchserve", path=around["PATH"]))
    around = {**around, "PYTHONPATH": f"{serve}:{around['PYTHONPATH']}"}
    start = [program, "--start", "--ncs", "--model-store", str(store), "--models", *(f"{name}.mar" for name in MODELS)]
    for clients, options in ((CLIENTS, ["--disable-token-auth", "--enable-model-api"]), (KEYED, [])):
        with (workspace / "clients.log").open("ab") as log:
            subprocess.run([*start, *options], cwd=folder, env=around, stdout=log, stderr=log, check=True)
        try:
            _wait(folder, around)
            key = _inference_key(folder)
            for client in clients:
                yield client.name, *_outcome(client, client.command(checkout, key), folder, around)
        finally:
            subprocess.run([program, "--stop", "--foreground"], cwd=folder, env=around, check=False)


def _outcome(client: Client, command: list[str], folder: Path, around: dict[str, str]) -> tuple[str, str]:
    done = subprocess.run(command, cwd=folder, env=around, text=True, capture_output=True, timeout=LONGEST, check=False)
    said = done.stdout + done.stderr
    if re.search(client.says, said) and (done.returncode == 0 or "without" in client.name):
        return "passed", ""
    return "failure", (said.strip().splitlines() or ["it said nothing"])[-1][:160]


def _inference_key(folder: Path) -> str:
    file = folder / "key_file.json"
    return str(json.loads(file.read_text())["inference"]["key"]) if file.exists() else ""


def _wait(folder: Path, around: dict[str, str]) -> None:
    """Wait until the last model answers: a bare TorchServe starts behind its command's back."""
    asking = (
        "import requests, time, os, json\n"
        "key = json.load(open('key_file.json'))['inference']['key'] if os.path.exists('key_file.json') else ''\n"
        "for _ in range(240):\n"
        "    try:\n"
        "        told = [requests.post(f'http://127.0.0.1:8080/predictions/{name}', data=b'x',\n"
        "            headers={'Authorization': f'Bearer {key}'}).status_code for name in %r]\n"
        "        if set(told) == {200}: break\n"
        "    except requests.ConnectionError: pass\n"
        "    time.sleep(0.5)\n"
    )
    subprocess.run([sys.executable, "-c", asking % (MODELS,)], cwd=folder, env=around, timeout=LONGEST, check=True)
