"""A TorchScript model behind JSON: a list of numbers in, a list of numbers out.

Runs inside a TorchServe worker and stands alone: it needs torch and nothing of TorchServe's own handlers.
The model is the archive's serialized file, loaded by `torch.jit.load`, which executes no Python.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


class TorchScriptHandler:
    """What TorchServe calls: `initialize` once, then `handle` for each batch."""

    def initialize(self, context: Any) -> None:
        """Load the archive's serialized file onto the device that TorchServe assigned."""
        gpu = context.system_properties.get("gpu_id")
        self.device = torch.device(f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu")
        directory = Path(context.system_properties["model_dir"])
        serialized = context.manifest["model"]["serializedFile"]
        self.model = torch.jit.load(str(directory / serialized), map_location=self.device).eval()

    def handle(self, data: list[dict[str, Any]], _context: Any) -> list[list[float]]:
        """Return the model's answer to each row; a row that is not numbers fails its batch."""
        rows = torch.tensor([_numbers(row) for row in data], dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            answers: list[list[float]] = self.model(rows).tolist()
        return answers


def _numbers(row: dict[str, Any]) -> list[float]:
    body = row.get("body", row.get("data"))
    return [float(number) for number in (body if isinstance(body, list) else json.loads(bytes(body)))]
