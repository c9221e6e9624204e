"""The needs: what the workers and the staged models will import, held against what their interpreter has.

Nothing of it is imported, and no code of an archive is run, to find out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from torchserve_guard import archives
from torchserve_guard.findings import Finding, Location, Severity
from torchserve_guard.workers import Answers, Code, Interpreter, Walked

MANIFEST = "MAR-INF/MANIFEST.json"
PICKLED = (".pt", ".pth", ".bin")
SAFE_TORCH = (2, 6)  # torch.load is `weights_only` by itself from here on (hazard H31)
PACKAGES = {
    "yaml": "pyyaml",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
}


def check(interpreter: Interpreter, model_store: Path, staged: Sequence[archives.Staged]) -> list[Finding]:
    """Return what the workers' interpreter lacks for these archives."""
    answers = interpreter.ask(tuple(_code(one) for one in staged))
    return [_unanswered()] if answers is None else list(_findings(answers, model_store, staged))


def _code(staged: archives.Staged) -> Code:
    handler, model = archives.code_of(staged)
    return Code(staged.tree, MANIFEST, handler, model)


def _findings(answers: Answers, model_store: Path, staged: Sequence[archives.Staged]) -> Iterator[Finding]:
    yield from _worker(answers)
    for archive, walked in zip(staged, answers.models, strict=True):
        yield from _handler(model_store / archive.name, archive, walked)
        yield from _torch(model_store / archive.name, archive, answers.torch)


def _unanswered() -> Finding:
    return Finding(
        "TSG076",
        Severity.MEDIUM,
        "the workers' interpreter did not say what is installed beside it: it is too slow, it cannot be run, or an "
        "archive's source is made to exhaust whoever reads it",
        "load the archives one by one to see which it is",
    )


def _worker(answers: Answers) -> Iterator[Finding]:
    for module in dict.fromkeys(one.module for one in answers.worker.missing):
        yield Finding(
            "TSG072",
            Severity.CRITICAL,
            f"TorchServe's workers import `{module}`, which their interpreter does not have: each would die as it "
            "starts, while /ping says Healthy",
            f"`pip install {PACKAGES.get(module, module)}` beside TorchServe",
        )


def _handler(path: Path, archive: archives.Staged, walked: Walked) -> Iterator[Finding]:
    for missing in walked.missing:
        yield Finding(
            "TSG073",
            Severity.HIGH,
            f"imports `{missing.module}`, which the workers' interpreter does not have: its workers would die as they "
            "load it, while /ping says Healthy",
            f"`pip install {PACKAGES.get(missing.module, missing.module)}` beside TorchServe, or put the module into "
            "the archive",
            Location(str(path), missing.line or None, missing.member),
            archive.digest,
        )
    for broken in walked.broken:
        yield Finding(
            "TSG074",
            Severity.HIGH,
            f"is not Python that this interpreter understands: {broken.why}",
            "correct the source, and build the archive again",
            Location(str(path), broken.line or None, broken.member),
            archive.digest,
        )


def _torch(path: Path, archive: archives.Staged, version: str | None) -> Iterator[Finding]:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version or "")[:2])
    if not numbers or numbers >= SAFE_TORCH:
        return
    pickled = next((member for member in archive.paths if member.lower().endswith(PICKLED)), None)
    yield Finding(
        "TSG075",
        Severity.MEDIUM if pickled is None else Severity.HIGH,
        f"torch {version} unpickles what a model loads, and so runs what is in it: only from 2.6 on it loads weights "
        "alone by itself",
        "`pip install 'torch>=2.6'` beside TorchServe",
        Location(str(path), member=pickled),
        archive.digest,
    )
