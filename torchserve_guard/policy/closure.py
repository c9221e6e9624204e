"""The closures: models that nobody is let through to, since they are no longer seen to be what was verified.

Pure. Health, metrics and reading stay as they are, other models too; what would run the model, or start a worker of
it, is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchserve_guard.access import Action, Operation
from torchserve_guard.errors import Unavailable

BARRED = frozenset({Action.INFER, Action.EXPLAIN, Action.SCALE_MODEL})


@dataclass(frozen=True, slots=True)
class Closure:
    """Why a model's door is closed; one that is not `lasting` opens again once the model could be verified."""

    why: str
    lasting: bool


def _nobody_asks() -> None:
    pass


class Closures:
    """Which models are closed. `models` is empty as long as none is, which is all that a request asks.

    `changed` is called after each change, by whatever thread made it.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], object] = _nobody_asks
        self.models: dict[str, dict[str, Closure]] = {}

    def close(self, model: str, version: str, closure: Closure) -> None:
        """Close a model's door; a lasting closure is not replaced."""
        standing = self.of(model, version)
        if standing is None or not standing.lasting:
            self.models.setdefault(model, {})[version] = closure
            self.changed()

    def open(self, model: str, version: str) -> None:
        """Open a model's door, closed or not."""
        versions = self.models.get(model, {})
        versions.pop(version, None)
        if not versions:
            self.models.pop(model, None)
        self.changed()

    def of(self, model: str, version: str) -> Closure | None:
        """Return why a model's door is closed, None when it is open."""
        return self.models.get(model, {}).get(version)

    def verify(self, operation: Operation) -> None:
        """Return if the operation does not reach a closed model; raise `Unavailable`.

        Without a version the default is meant, which only TorchServe knows, and without a name whatever a form in the
        body says: then one closed version, or model, is enough.
        """
        name, version = operation.resource.name, operation.resource.version
        if operation.action not in BARRED or operation.resource.kind != "model":
            return
        for model, versions in self.models.items():
            for closed, closure in versions.items():
                if name in {None, model} and version in {None, closed}:
                    raise Unavailable("The model is not available.", reason=closure.why, rule="model-closed")
