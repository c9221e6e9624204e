"""The words in which access is spoken of: who asks, for what, on what, and the answer.

Pure: no I/O, no clock, no environment. The grammar (`wire`) produces an `Operation`, the policy
(`policy`) answers with a `Decision`; they meet only here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mode(Enum):
    """`model-control-mode`: whether models may be managed at run time."""

    NONE = "none"
    EXPLICIT = "explicit"


class Action(Enum):
    """What is being asked, in the terms of TorchServe's API."""

    PING = "ping"
    DESCRIBE_API = "describe-api"
    METRICS = "metrics"
    INFER = "infer"
    EXPLAIN = "explain"
    SERVER_METADATA = "server-metadata"
    LIST_MODELS = "list-models"
    DESCRIBE_MODEL = "describe-model"
    LIST_WORKFLOWS = "list-workflows"
    DESCRIBE_WORKFLOW = "describe-workflow"
    REGISTER_MODEL = "register-model"
    UNREGISTER_MODEL = "unregister-model"
    SCALE_MODEL = "scale-model"
    SET_DEFAULT = "set-default"
    REGISTER_WORKFLOW = "register-workflow"
    UNREGISTER_WORKFLOW = "unregister-workflow"
    ROTATE_TOKEN = "rotate-token"  # noqa: S105 - the name of an action, not a secret

    @property
    def changes(self) -> bool:
        """Whether the action changes what is served, or who may ask for it."""
        return self in CHANGES


CHANGES = frozenset(
    {
        Action.REGISTER_MODEL,
        Action.UNREGISTER_MODEL,
        Action.SCALE_MODEL,
        Action.SET_DEFAULT,
        Action.REGISTER_WORKFLOW,
        Action.UNREGISTER_WORKFLOW,
        Action.ROTATE_TOKEN,
    }
)

INFERENCE = frozenset({Action.INFER, Action.EXPLAIN, Action.SERVER_METADATA})
OPEN = frozenset({Action.PING, Action.DESCRIBE_API, Action.METRICS})
MANAGEMENT = frozenset(Action) - INFERENCE - OPEN


@dataclass(frozen=True, slots=True)
class Resource:
    """What an operation is about: `kind` is `server`, `model` or `workflow`; a model may have a version."""

    kind: str
    name: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        """Return `kind`, `kind/name` or `kind/name/version`."""
        return "/".join(part for part in (self.kind, self.name, self.version) if part is not None)


SERVER = Resource("server")


@dataclass(frozen=True, slots=True)
class Operation:
    """One request, understood: what it asks for, of what, with which parameters.

    `route` names the row of the grammar that it came in by (TorchServe has several spellings for one
    action, whose answers differ); `rest` is what the row lets through unread, decoded: the path behind
    a prediction, which TorchServe hands to the model's handler.
    """

    action: Action
    resource: Resource
    route: str
    parameters: tuple[tuple[str, str], ...] = ()
    rest: tuple[str, ...] = ()
    method: str = "GET"

    def parameter(self, name: str) -> str | None:
        """Return the value of a parameter, the first one as TorchServe does, or None."""
        return next((value for key, value in self.parameters if key == name), None)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, once identified. `roles` are what the credential stands for, not what it may do."""

    name: str
    roles: frozenset[str] = frozenset()


ANONYMOUS = Principal("anonymous")
CERTIFIED = "client-certificate"
"""The role of who showed a client certificate that verifies."""


class Effect(Enum):
    """The two answers of a policy."""

    PERMIT = "permit"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True)
class Decision:
    """The policy's answer, and the rules that brought it about."""

    effect: Effect
    rules: frozenset[str]
    reason: str = ""

    @property
    def permitted(self) -> bool:
        """Whether the operation may be forwarded."""
        return self.effect is Effect.PERMIT
