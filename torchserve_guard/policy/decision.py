"""The decision: mode and keys against one operation by one principal.

Pure. Until a policy file names roles, access is what a stock TorchServe grants and never more: open
actions need nothing, inference the inference key, management the management key, rotation the API key;
and a change needs a key even where token authorization is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchserve_guard.access import INFERENCE, OPEN, Action, Decision, Effect, Mode, Operation, Principal


@dataclass(frozen=True, slots=True)
class Access:
    """What the settings say: the mode, and whether reading and inference ask for keys at all."""

    mode: Mode
    keys_required: bool


def role_for(action: Action) -> str | None:
    """Return the role that an action asks for (TokenAuthorizationHandler.java), None when it asks for none."""
    if action in OPEN:
        return None
    if action in INFERENCE:
        return "inference"
    return "api" if action is Action.ROTATE_TOKEN else "management"


def decide(access: Access, principal: Principal, operation: Operation) -> Decision:
    """Return the decision; what no rule permits is forbidden."""
    action = operation.action
    if action.changes and access.mode is not Mode.EXPLICIT:
        return Decision(
            Effect.FORBID, frozenset({"mode-none"}), "model-control-mode is none: nothing is changed at run time"
        )
    role = role_for(action)
    if role is None:
        return Decision(Effect.PERMIT, frozenset({"open-action"}))
    if not access.keys_required and not action.changes:
        return Decision(Effect.PERMIT, frozenset({"token-authorization-disabled"}))
    if role in principal.roles:
        return Decision(Effect.PERMIT, frozenset({f"{role}-key"}))
    return Decision(Effect.FORBID, frozenset({f"{role}-key-required"}), f"the {role} key is needed")
