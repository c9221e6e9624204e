"""Who may do what, before any policy file."""

from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.access import ANONYMOUS, Action, Mode, Operation, Principal, Resource
from torchserve_guard.policy import Access, decide

operations = st.builds(lambda action: Operation(action, Resource("model", "m"), "row"), st.sampled_from(Action))
changes = operations.filter(lambda operation: operation.action.changes)
principals = st.builds(
    lambda roles: Principal("somebody", frozenset(roles)), st.sets(st.sampled_from(["inference", "management", "api"]))
)
accesses = st.builds(Access, st.sampled_from(Mode), st.booleans())


@given(principals, changes, st.booleans())
def test_in_mode_none_nobody_changes_anything(principal, operation, keys_required):
    assert not decide(Access(Mode.NONE, keys_required), principal, operation).permitted


@given(changes, accesses)
def test_nobody_without_a_key_ever_changes_anything(operation, access):
    assert not decide(access, ANONYMOUS, operation).permitted


@given(principals, operations, accesses)
def test_asking_for_keys_never_permits_more(principal, operation, access):
    strict = decide(Access(access.mode, keys_required=True), principal, operation)
    loose = decide(Access(access.mode, keys_required=False), principal, operation)
    assert loose.permitted or not strict.permitted


@given(principals, operations, accesses)
def test_one_more_role_never_closes_a_door(principal, operation, access):
    more = Principal(principal.name, principal.roles | {"management"})
    assert decide(access, more, operation).permitted or not decide(access, principal, operation).permitted


@given(operations, accesses)
def test_an_inference_key_opens_inference_and_nothing_of_management(operation, access):
    decision = decide(access, Principal("client", frozenset({"inference"})), operation)
    anonymous = decide(access, ANONYMOUS, operation)
    if decision.permitted and not anonymous.permitted:
        assert operation.action in {Action.INFER, Action.EXPLAIN, Action.SERVER_METADATA}


@given(principals, operations, accesses)
def test_every_decision_names_its_rules(principal, operation, access):
    assert decide(access, principal, operation).rules
