"""The forms of an answer: which models are asked for one in pieces, as KServe's, or whole, as the operator says.

TorchServe does not know which models give one. It throws in the thread of the worker when an answer has another form
than the method called for (GRPCJob.response), and the model is without that worker until it has another: for ever
where the method called for one answer and there came more (hazards S23, S24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchserve_guard.access import Operation
from torchserve_guard.errors import Refusal

_PIECES = ("guard.stream_models", "grpc.stream-models", "The model does not answer in pieces here; use Predictions.")
_KSERVE = ("guard.kserve_models", "grpc.kserve-models", "The model does not answer ModelInfer here; use Predictions.")
_WHOLE = ("guard.unary_models", "grpc.unary-models", "The model answers in pieces here; use StreamPredictions.")

# By the route of the call: the key that names the models, the rule of a refusal, and what its client is told.
ASKED_FOR: Mapping[str, tuple[str, str, str]] = {
    "InferenceAPIsService/Predictions": _WHOLE,
    "InferenceAPIsService/StreamPredictions": _PIECES,
    "InferenceAPIsService/StreamPredictions2": _PIECES,
    "GRPCInferenceService/ModelInfer": _KSERVE,
}


class NotInThisForm(Refusal):
    """The model is not named as one that answers so (HTTP 501, UNIMPLEMENTED)."""

    status = 501
    kind = "NotImplementedException"


@dataclass(frozen=True, slots=True)
class Forms:
    """The names of the models that answer in pieces, as KServe does, and whole; None is all of them."""

    stream: frozenset[str] | None = None
    kserve: frozenset[str] | None = None
    unary: frozenset[str] | None = None

    def verify(self, operation: Operation) -> None:
        """Return if the model may be asked for an answer of the form of this call. Raises NotInThisForm."""
        asked_for = ASKED_FOR.get(operation.route)
        if asked_for is None:
            return
        named = {_PIECES: self.stream, _KSERVE: self.kserve, _WHOLE: self.unary}[asked_for]
        # INVARIANT: TorchServe finds a model by its name byte by byte (ModelManager.java), and so are names compared.
        if named is not None and operation.resource.name not in named:
            key, rule, message = asked_for
            raise NotInThisForm(message, reason=f"`{operation.resource.name}` is not named in `{key}`", rule=rule)
