"""The example models: `python tests/models/build.py OUTDIR [NAME ...]` builds them with torch-model-archiver.

No archive is committed: each is built from the sources beside this file and in `handlers/`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
HANDLERS = HERE.parents[1] / "handlers"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One archive: the model's name and version, its handler, and what else goes in."""

    model: str
    handler: Path | str
    version: str = "1.0"
    configuration: str | None = None
    serialized: Callable[[Path], Path] | None = None
    model_file: str | None = None


def scripted_module(directory: Path) -> Path:
    """Return the file of a small TorchScript module: y = 2 x + 1, of four numbers."""
    import torch

    layer = torch.nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(4))
        layer.bias.fill_(1)
    path = directory / "doubled.pt"
    torch.jit.save(torch.jit.trace(layer.eval(), torch.zeros(1, 4)), str(path))
    return path


LAYER = "import torch\n\n\nclass Layer(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(4, 4)\n"


def weights(directory: Path) -> Path:
    """Return the file of the weights of `LAYER`: y = 3 x, of four numbers."""
    import torch

    path = directory / "weights.pt"
    torch.save({"weight": 3 * torch.eye(4), "bias": torch.zeros(4)}, path)
    return path


SEQUENCES = """minWorkers: 1
maxWorkers: 1
batchSize: 2
maxNumSequence: 2
sequenceMaxIdleMSec: 100
maxSequenceJobQueueSize: 10
sequenceBatching: true
"""

# The archive's name is the key; a handler given as text is written out first: what does not parse, or does
# not import, cannot lie in the tree as Python.
RECIPES = {
    "noop": Recipe("noop", HERE / "noop.py"),
    "noop_v2": Recipe("noop", HERE / "noop.py", version="2.0"),
    "pair": Recipe("pair", HERE / "noop.py", configuration="minWorkers: 2\nmaxWorkers: 2\n"),
    "slow": Recipe("slow", HERE / "slow.py"),
    "stubborn": Recipe("stubborn", HERE / "stubborn.py"),
    "runaway": Recipe("runaway", HERE / "runaway.py"),
    "mirror": Recipe("mirror", HERE / "mirror.py"),
    "doubled": Recipe("doubled", HANDLERS / "torchscript.py", serialized=scripted_module),
    "weighted": Recipe("weighted", HANDLERS / "verified.py", serialized=weights, model_file=LAYER),
    "counting": Recipe("counting", HERE / "counting.py"),
    "kserved": Recipe("kserved", HERE / "kserved.py"),
    "writing": Recipe("writing", HERE / "writing.py"),
    "summing": Recipe("summing", HERE / "summing.py", configuration=SEQUENCES),
    "broken": Recipe("broken", HERE / "broken.py"),
    "unparsable": Recipe("unparsable", "def handle(data, context:\n    return data\n"),
    "unimportable": Recipe("unimportable", "import a_module_that_nobody_has\n\n\ndef handle(data, context): ...\n"),
}


def build(directory: Path, *names: str) -> tuple[Path, ...]:
    """Build the named archives (all without names) into a directory and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    return tuple(_build(directory, name, RECIPES[name]) for name in names or RECIPES)


def _build(directory: Path, name: str, recipe: Recipe) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(_command(Path(scratch), recipe), check=True, stdout=subprocess.DEVNULL)
        return Path(shutil.move(Path(scratch) / f"{recipe.model}.mar", directory / f"{name}.mar"))


def _command(scratch: Path, recipe: Recipe) -> list[str]:
    command = [sys.executable, "-c", "from model_archiver.model_packaging import generate_model_archive as g; g()"]
    command += ["--model-name", recipe.model, "--version", recipe.version, "--export-path", str(scratch), "--force"]
    command += ["--handler", str(_written(scratch / f"{recipe.model}.py", recipe.handler))]
    if recipe.configuration is not None:
        command += ["--config-file", str(_written(scratch / "model-config.yaml", recipe.configuration))]
    if recipe.serialized is not None:
        command += ["--serialized-file", str(recipe.serialized(scratch))]
    if recipe.model_file is not None:
        command += ["--model-file", str(_written(scratch / "layer.py", recipe.model_file))]
    return command


def _written(path: Path, source: Path | str) -> Path:
    if isinstance(source, Path):
        return source
    path.write_text(source, encoding="utf-8")
    return path


if __name__ == "__main__":
    for archive in build(Path(sys.argv[1]), *sys.argv[2:]):
        sys.stdout.write(f"{archive}\n")
