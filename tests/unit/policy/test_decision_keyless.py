"""Changes without a key: only where they are permitted at all, only of models, and never for more than stock."""

from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.access import ANONYMOUS, Action, Mode, Operation, Resource
from torchserve_guard.policy import KEYLESS, Access, decide

OPERATIONS = st.builds(lambda action: Operation(action, Resource("model", "m"), "row"), st.sampled_from(Action))


@given(OPERATIONS)
def test_who_has_no_key_manages_models_where_changes_are_keyless(operation):
    decision = decide(Access(Mode.EXPLICIT, keys_required=False, keyless_management=True), ANONYMOUS, operation)
    assert decision.permitted == (operation.action is not Action.ROTATE_TOKEN)
    if operation.action.changes and decision.permitted:
        assert decision.rules == {KEYLESS}


@given(OPERATIONS, st.sampled_from([(Mode.NONE, False), (Mode.NONE, True), (Mode.EXPLICIT, True)]))
def test_nothing_is_keyless_in_mode_none_or_where_keys_are_asked_for(operation, told):
    mode, keys_required = told
    decision = decide(Access(mode, keys_required, keyless_management=True), ANONYMOUS, operation)
    assert decision == decide(Access(mode, keys_required), ANONYMOUS, operation)
    assert not (operation.action.changes and decision.permitted)
