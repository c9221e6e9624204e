"""A handler that looks for itself before it loads: its model directory against the digests, then nothing but weights.

Runs inside a TorchServe worker and stands alone: it needs torch, and `safetensors` for files of that name. Use it as it
is, with a state dictionary and a model file, or give it to an archive as an extra file and derive from it:

    from verified import VerifiedHandler

    class Translator(VerifiedHandler):
        def build(self, weights, context): ...

What the directory must hold stands in the file that TSGUARD_ROSTER names: the guard's roster, which it sets, or
without the guard a manifest of `tsguard manifest create`. Where there is none the model is refused, unless
TSGUARD_UNVERIFIED is `warn`. Both come from the environment, which no archive can change.

What is loaded is read once: the bytes that were hashed are the bytes that are loaded. So they lie in memory twice while
the model is built, and `largest` bounds them. The handler's own code runs before it can look: that it is what was
reviewed is the guard's business, not this file's.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

ROSTER = "TSGUARD_ROSTER"
UNVERIFIED = "TSGUARD_UNVERIFIED"
SCHEMAS = frozenset({"tsguard-roster/1", "tsguard-manifest/1"})
MARKER = ".tsguard"  # the guard's empty file beside a lone directory
COMPILED = "__pycache__"  # what Python leaves where the tree is not read-only; nothing here reads it
SAFE_SINCE = (2, 6)  # before, `weights_only` could be made to run code (CVE-2025-32434)
PIECE = 1 << 20
MOST_TOLD = 5

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_LOG = logging.getLogger(__name__)

Digests = dict[str, tuple[int, str]]


class VerifiedHandler:
    """What TorchServe calls: `initialize` once, then `handle` for each batch.

    `accepts` names the forms that may be loaded: `state_dict`, `safetensors`, and for who asks for them `torchscript`
    and `pickle`, which runs whatever is in the file. A derived class sets it, or `handler: {accepts: [...]}` in the
    archive's model-config.yaml.
    """

    accepts: frozenset[str] = frozenset({"state_dict", "safetensors"})
    largest = 16 << 30

    def initialize(self, context: Any) -> None:
        """Verify the directory, then load what was verified. Raises RuntimeError, which the worker's log shows."""
        properties, model = context.system_properties, context.manifest["model"]
        gpu = properties.get("gpu_id")
        self.device = torch.device(f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu")
        told = (getattr(context, "model_yaml_config", None) or {}).get("handler", {}).get("accepts")
        self._accepted = frozenset(told) if told is not None else self.accepts
        wanted = {name for name in (model.get("serializedFile"), model.get("modelFile")) if name}
        self.files = verified(properties["model_dir"], wanted, self.largest, os.environ)
        serialized = model.get("serializedFile")
        if not serialized:
            raise RuntimeError("the archive has no serialized file, so there is nothing to load")
        self.model = self.build(self._loaded(serialized, self.files.pop(serialized)), context).to(self.device).eval()
        self.files.clear()

    def build(self, weights: Any, context: Any) -> torch.nn.Module:
        """Return the model for what was loaded: itself, or the module of the archive's model file with its weights."""
        if isinstance(weights, torch.nn.Module):
            return weights
        name = context.manifest["model"].get("modelFile")
        if not name:
            raise RuntimeError("weights need a model: add --model-file to the archive, or derive and write `build`")
        module = _module(name, self.files[name])
        module.load_state_dict(weights)
        return module

    def handle(self, data: list[dict[str, Any]], _context: Any) -> list[list[float]]:
        """Return the model's answer to each row of numbers; derive for other shapes."""
        rows = torch.tensor([_numbers(row) for row in data], dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            answers: list[list[float]] = self.model(rows).tolist()
        return answers

    def _loaded(self, name: str, data: bytes) -> Any:
        form = form_of(name, data)
        if form not in self._accepted:
            raise RuntimeError(
                f"{name}: is of the form `{form}`, and only {', '.join(sorted(self._accepted))} may be loaded; save "
                "the weights alone (`state_dict()`), or name the form in `accepts`"
            )
        return LOADERS[form](name, data, self.device)


def verified(directory: str, wanted: set[str], largest: int, environment: Mapping[str, str]) -> dict[str, bytes]:
    """Return the bytes of the wanted files of a model directory that is as it was verified; raise RuntimeError."""
    roster = environment.get(ROSTER)
    if not roster and environment.get(UNVERIFIED) != "warn":
        raise RuntimeError(
            f"{ROSTER} names no file, so nobody can say what `{directory}` must hold; serve it behind tsguard, let the "
            f"variable name a manifest, or set {UNVERIFIED}=warn"
        )
    subjects = _subjects(roster) if roster else []
    # TorchServe hands over a link; what it leads to is opened once, and everything is reached from there.
    with _opened(os.path.realpath(directory), None, _FOLDER) as root:
        digests, files = _read(root, wanted, largest)
    if roster:
        _verify(digests, subjects, directory, roster)
    else:
        _LOG.warning("%s: not verified, as %s=warn says", directory, UNVERIFIED)
    missing = wanted - files.keys()
    if missing:
        raise RuntimeError(f"{directory}: `{min(missing)}` is not there")
    return files


def _verify(digests: Digests, subjects: list[dict[str, Any]], directory: str, roster: str) -> None:
    """Return if the directory holds what some subject lists, and nothing else."""
    closest: list[str] | None = None
    for subject in subjects:
        listed = {one["path"]: (one["size"], one["sha256"]) for one in subject["members"] if one["path"][-1:] != "/"}
        different = _differences(listed, digests, more=subject.get("writable") is True)
        if listed and not different:
            return
        if listed and (closest is None or len(different) < len(closest)):
            closest = different
    told = "; ".join((closest or ["it lists no members"])[:MOST_TOLD])
    raise RuntimeError(f"{directory}: is not what `{roster}` lists: {told}. Nothing of it was loaded")


def _differences(listed: Digests, found: Digests, *, more: bool) -> list[str]:
    rows = [f"`{path}` is missing" for path in sorted(listed.keys() - found.keys())]
    rows += [f"`{path}` was changed" for path in sorted(listed.keys() & found.keys()) if listed[path] != found[path]]
    if not more:
        rows += [f"`{path}` was added" for path in sorted(found.keys() - listed.keys()) if not _harmless(path)]
    return rows


def _harmless(path: str) -> bool:
    return path == MARKER or COMPILED in path.split("/")[:-1]


def _subjects(roster: str) -> list[dict[str, Any]]:
    try:
        with _opened(roster, None, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) as descriptor:
            document = json.loads(_whole(descriptor, roster, 1 << 28))
        if document["schema"] not in SCHEMAS:
            raise RuntimeError(f"{ROSTER} `{roster}`: is neither a roster nor a manifest")
        return [subject for subject in document["subjects"] if isinstance(subject["members"], list)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"{ROSTER} `{roster}`: cannot be read: {error!r}") from error


# --- reading -------------------------------------------------------------------------------------------------------


def _read(root: int, wanted: set[str], largest: int) -> tuple[Digests, dict[str, bytes]]:
    """Return the size and digest of every file, and the very bytes of those that are wanted."""
    digests: Digests = {}
    files: dict[str, bytes] = {}
    for path, descriptor in _walk(root, ""):
        if path in wanted:
            files[path] = _whole(descriptor, path, largest)
            digests[path] = len(files[path]), hashlib.sha256(files[path]).hexdigest()
        else:
            digests[path] = _digest(descriptor)
    return digests, files


def _walk(folder: int, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield every file beneath a folder, open; links, pipes and devices are refused, and none is waited for."""
    for name in sorted(os.listdir(folder)):
        path = prefix + name
        kind = os.lstat(name, dir_fd=folder).st_mode
        if stat.S_ISDIR(kind):
            with _opened(name, folder, _FOLDER) as deeper:
                yield from _walk(deeper, path + "/")
        elif stat.S_ISREG(kind):
            with _opened(name, folder, _FILE) as descriptor:
                yield path, descriptor
        else:
            raise RuntimeError(f"`{path}` is a link, a pipe or a device, which no archive holds")


@contextmanager
def _opened(path: str, folder: int | None, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _whole(descriptor: int, path: str, largest: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or size > largest:
        raise RuntimeError(f"`{path}` is no file of at most {largest} bytes")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(size + 1)


def _digest(descriptor: int) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while piece := os.read(descriptor, PIECE):
        size += len(piece)
        digest.update(piece)
    return size, digest.hexdigest()


# --- loading -------------------------------------------------------------------------------------------------------


def form_of(name: str, data: bytes) -> str:
    """Return the form of a file: `safetensors` by its name, the others by what is in it."""
    if name.endswith(".safetensors"):
        return "safetensors"
    if not data.startswith(b"PK\x03\x04"):
        return "pickle"
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise RuntimeError(f"{name}: is damaged: {error}") from error
    return "torchscript" if any(member.endswith("/constants.pkl") for member in members) else "state_dict"


def _state_dict(name: str, data: bytes, device: torch.device) -> Any:
    if _version() < SAFE_SINCE:
        raise RuntimeError(
            f"{name}: torch {torch.__version__} can be made to run code even with weights_only (CVE-2025-32434); use "
            "torch 2.6 or later, or safetensors"
        )
    try:
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:
        raise RuntimeError(f"{name}: holds more than weights, and nothing of it was run: {error}") from error


def _safetensors(name: str, data: bytes, device: torch.device) -> Any:
    try:
        from safetensors.torch import load  # noqa: PLC0415 - only some models need it
    except ImportError as error:
        raise RuntimeError(f"{name}: `safetensors` is not installed for the workers") from error
    return {key: tensor.to(device) for key, tensor in load(data).items()}


def _torchscript(_name: str, data: bytes, device: torch.device) -> Any:
    return torch.jit.load(io.BytesIO(data), map_location=device)


def _pickle(name: str, data: bytes, device: torch.device) -> Any:
    _LOG.warning("%s: unpickled, which runs whatever is in it, as `accepts` says", name)
    return torch.load(io.BytesIO(data), map_location=device, weights_only=False)


LOADERS = {"state_dict": _state_dict, "safetensors": _safetensors, "torchscript": _torchscript, "pickle": _pickle}


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


def _module(name: str, source: bytes) -> torch.nn.Module:
    """Return the one module that a model file defines, made of the bytes that were verified."""
    namespace: dict[str, Any] = {"__name__": "tsguard_model_file"}
    exec(compile(source, name, "exec"), namespace)  # noqa: S102 - verified, and what TorchServe would import
    modules = [
        value
        for value in namespace.values()
        if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__ == namespace["__name__"]
    ]
    if len(modules) != 1:
        raise RuntimeError(f"{name}: defines {len(modules)} modules, and one is needed; derive and write `build`")
    module: torch.nn.Module = modules[0]()
    return module


def _numbers(row: dict[str, Any]) -> list[float]:
    body = row.get("body", row.get("data"))
    return [float(number) for number in (body if isinstance(body, list) else json.loads(bytes(body)))]
