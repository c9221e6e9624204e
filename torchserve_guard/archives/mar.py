"""The archive's own manifest: what TorchServe would make of `MAR-INF/MANIFEST.json`.

Pure. TorchServe takes a handler or a file "elsewhere" as well as one inside (an absolute path, `..`, any
importable module): what counts here is what is a member, or one of TorchServe's own handlers by name.
"""

from __future__ import annotations

import sys
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, StrictStr, ValidationError

from torchserve_guard import importing
from torchserve_guard.archives import document
from torchserve_guard.archives.refusal import refuse

MANIFEST = "MAR-INF/MANIFEST.json"

HANDLERS = frozenset(
    {
        "base_handler",
        "dali_image_classifier",
        "image_classifier",
        "image_segmenter",
        "object_detector",
        "text_classifier",
        "trt_llm_handler",
        "vllm_handler",
    }
)
"""The modules of ts/torch_handler that a model may name (torch-model-archiver's `model_handlers`)."""

ENVELOPES = frozenset({"body", "json", "kserve", "kservev2"})
"""The modules of ts/torch_handler/request_envelope."""

_ELSEWHERE = sys.stdlib_module_names | {"torch", "ts", "yaml", "numpy"}
_FILES = ("serializedFile", "modelFile", "requirementsFile", "configFile")


class _Model(BaseModel):
    """The fields that TorchServe (archive/model/Manifest.java) and its workers read."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    modelName: StrictStr  # noqa: N815 - the document's own spelling
    modelVersion: StrictStr | None = None  # noqa: N815
    handler: StrictStr | None = None
    envelope: StrictStr | None = None
    serializedFile: StrictStr | None = None  # noqa: N815
    modelFile: StrictStr | None = None  # noqa: N815
    requirementsFile: StrictStr | None = None  # noqa: N815
    configFile: StrictStr | None = None  # noqa: N815


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    runtime: Literal["python", "python3"] = "python"
    model: _Model


@dataclass(frozen=True, slots=True)
class About:
    """What an archive says of its model; the files are members, each by its path."""

    name: str
    version: str | None
    runtime: str
    handler: str | None
    envelope: str | None
    model_file: str | None
    serialized_file: str | None
    requirements_file: str | None
    config_file: str | None


def about(data: bytes, archive: str) -> About:
    """Return what the archive says of its model; raise VerificationError."""
    parsed = _parse(data, archive)
    model = parsed.model
    return About(
        name=model.modelName,
        version=model.modelVersion,
        runtime=parsed.runtime,
        handler=model.handler,
        envelope=model.envelope,
        model_file=model.modelFile,
        serialized_file=model.serializedFile,
        requirements_file=model.requirementsFile,
        config_file=model.configFile,
    )


def verify(data: bytes, paths: AbstractSet[str], archive: str) -> None:
    """Return if everything the manifest names is one of the paths; raise VerificationError otherwise."""
    model = _parse(data, archive).model
    for field in _FILES:
        value = getattr(model, field)
        if value is not None and (value not in paths or value.endswith("/")):
            refuse(archive, MANIFEST, f"`{field}` is `{value}`, which is not a member of the archive")
    if model.envelope is not None and model.envelope not in ENVELOPES:
        refuse(archive, MANIFEST, f"`envelope` is `{model.envelope}`, which is none of TorchServe's")
    if model.handler is not None and model.handler not in HANDLERS:
        # What stands before the source is for the scanner to find; without any source there is nothing to review.
        standing = _standing(model.handler, paths)
        if all(one.kind is not importing.Kind.SOURCE for one in standing):
            only = f" (there is only `{standing[0].path}`)" if standing else ""
            refuse(
                archive,
                MANIFEST,
                f"`handler` is `{model.handler}`, which is neither source in the archive{only} nor one of TorchServe's "
                f"own handlers ({', '.join(sorted(HANDLERS))})",
            )


def identity(data: bytes, archive: str) -> tuple[str, str]:
    """Return the model's name and version, without either of which TorchServe refuses it; raise VerificationError."""
    model = _parse(data, archive).model
    if model.modelVersion is None:
        refuse(archive, MANIFEST, "`modelVersion` is missing: give torch-model-archiver a `--version`")
    return model.modelName, model.modelVersion


def code(data: bytes, archive: str) -> tuple[str | None, str | None]:
    """Return the modules of the handler and of the model that a worker imports; raise VerificationError."""
    model = _parse(data, archive).model
    return tuple(_module(name) for name in (model.handler, model.modelFile))  # type: ignore[return-value]


def resolved(handler: str, paths: AbstractSet[str]) -> str | None:
    """Return the member that the worker would import as the handler (ts/model_loader.py, _load_handler_file).

    The archive is looked into first, also for the names of TorchServe's own handlers. None is for a handler that is no
    member: then only TorchServe's own, by name, may be meant.
    """
    return next((one.path for one in _standing(handler, paths)), None)


def imported(model_file: str, paths: AbstractSet[str]) -> str | None:
    """Return the member that TorchServe's own handlers would import as the model file.

    They import what stands before the first dot of its name (ts/torch_handler/base_handler.py, _load_pickled_model).
    """
    module = model_file.partition(".")[0]
    standing = importing.candidates(module, paths) if "/" not in module else ()
    return next((one.path for one in standing), None)


def _standing(handler: str, paths: AbstractSet[str]) -> tuple[importing.Candidate, ...]:
    """Return the members that may be taken for the handler, first what a worker would import."""
    module, _, function = handler.partition(":")
    if "/" in module or (function and not function.isidentifier()):
        return ()
    path = module.removesuffix(".py").replace(".", "/")
    top, _, rest = path.partition("/")
    # A folder without `__init__.py` loses to every module elsewhere: `os/path.py` would be the real `os.path`.
    if rest and top in _ELSEWHERE and f"{top}/__init__.py" not in paths:
        return ()
    return importing.candidates(path, paths)


def _module(name: str | None) -> str | None:
    return name and name.partition(":")[0].removesuffix(".py").replace("/", ".")


def _parse(data: bytes, archive: str) -> _Manifest:
    try:
        return _Manifest.model_validate(document.parse(data))
    except document.Malformed as error:
        refuse(archive, MANIFEST, f"it {error}")
    except ValidationError as error:
        refuse(archive, MANIFEST, "; ".join(document.complaints("manifest", error)))
