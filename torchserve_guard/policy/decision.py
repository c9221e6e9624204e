"""The decision: mode and keys against one operation by one principal.

Pure. Until a policy file names roles, access is what a stock TorchServe grants and never more: open
actions need nothing, inference the inference key, management the management key, rotation the API key;
and a change needs a key even where token authorization is switched off, unless changes are keyless.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchserve_guard.access import CERTIFIED, INFERENCE, OPEN, Action, Decision, Effect, Mode, Operation, Principal

# A client certificate is as good as these keys; to replace keys takes a key.
CERTIFIED_FOR = frozenset({"inference", "management"})

KEYLESS = "keyless-management"
"""The rule that permits a change to who has no key: the profile `compat`, keys switched off, a local listener."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the settings say: the mode, whether reading and inference ask for keys at all, and whether changes do.

    With `keyless_management` models may be managed without a key; rotating one still takes one.
    """

    mode: Mode
    keys_required: bool
    keyless_management: bool = False


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
    rule = _permitting(access, principal, action, role)
    if rule is not None:
        return Decision(Effect.PERMIT, frozenset({rule}))
    return Decision(Effect.FORBID, frozenset({f"{role}-key-required"}), f"the {role} key is needed")


def _permitting(access: Access, principal: Principal, action: Action, role: str | None) -> str | None:
    """Return the first rule that permits the action, None when there is none."""
    keyless = access.keyless_management and not access.keys_required
    rules = (
        ("open-action", role is None),
        ("token-authorization-disabled", not access.keys_required and not action.changes),
        (f"{role}-key", role in principal.roles),
        (CERTIFIED, CERTIFIED in principal.roles and role in CERTIFIED_FOR),
        (KEYLESS, keyless and role == "management"),
    )
    return next((rule for rule, holds in rules if holds), None)
