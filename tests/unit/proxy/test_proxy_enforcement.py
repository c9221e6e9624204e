"""The enforcement point: understood, decided, recorded, and only then forwarded."""

from __future__ import annotations

import pytest

from torchserve_guard.access import ANONYMOUS, CHANGES, Action, Mode, Principal
from torchserve_guard.audit import Entry
from torchserve_guard.errors import (
    AuditError,
    Forbidden,
    FrontendError,
    GuardError,
    MethodNotAllowed,
    NotFound,
    Refusal,
    Unauthenticated,
    Unavailable,
    VerificationError,
)
from torchserve_guard.identity import KeyKind
from torchserve_guard.policy import Access, Closure, Closures, decide
from torchserve_guard.proxy.enforcement import Asked, Enforcer
from torchserve_guard.wire import Listener

PRINCIPALS = {
    None: ANONYMOUS,
    b"m": Principal("management-key", frozenset({"management"})),
    b"i": Principal("inference-key", frozenset({"inference"})),
    b"a": Principal("api-key", frozenset({"api"})),
}
CHANGING = {
    Action.REGISTER_MODEL: ("POST", b"/models?url=a.mar"),
    Action.UNREGISTER_MODEL: ("DELETE", b"/models/m"),
    Action.SCALE_MODEL: ("PUT", b"/models/m?min_worker=1"),
    Action.SET_DEFAULT: ("PUT", b"/models/m/1.0/set-default"),
    Action.REGISTER_WORKFLOW: ("POST", b"/workflows?url=a.war"),
    Action.UNREGISTER_WORKFLOW: ("DELETE", b"/workflows/w"),
    Action.ROTATE_TOKEN: ("GET", b"/token?type=inference"),
}


class World:
    """An enforcer, and everything it did, in order."""

    def __init__(self, mode: Mode = Mode.EXPLICIT, *, keys_required: bool = True) -> None:
        self.done: list[tuple[str, object]] = []
        self.broken = False
        self.failure: GuardError | None = None
        self.closures = Closures()
        self.enforcer = Enforcer(
            access=Access(mode, keys_required),
            identify=PRINCIPALS.__getitem__,
            decide=decide,
            audit=self,
            rotate=lambda kind: self.done.append(("rotate", kind)),
            prepare=self.prepare,
            settled=self.settled,
            now=lambda: 0.0,
            closures=self.closures,
        )

    def write(self, entry: Entry) -> None:
        if self.broken:
            raise AuditError("full")
        self.done.append(("write", entry))

    async def record(self, entry: Entry) -> None:
        self.write(entry)
        self.done[-1] = ("record", entry)

    async def prepare(self, operation):
        if self.failure:
            raise self.failure
        self.done.append(("prepare", operation))
        return operation

    async def settled(self, operation, status) -> None:
        assert operation.action in CHANGES
        self.done.append(("settled", status))

    async def manage(self, method: str, target: bytes, key: bytes | None, body: bytes | None = None):
        understood = self.enforcer.understand(Listener.MANAGEMENT, method, target)
        return await self.enforcer.manage(asked(method, target, key), understood, body)

    @property
    def steps(self) -> list[str]:
        return [step for step, _ in self.done]


def asked(method: str, target: bytes, key: bytes | None) -> Asked:
    return Asked(Listener.MANAGEMENT, "1.2.3.4:5", method, target, b"id", key)


def test_the_table_has_every_change():
    assert set(CHANGING) == CHANGES


@pytest.mark.parametrize("action", sorted(CHANGES, key=str))
@pytest.mark.parametrize("key", PRINCIPALS)
async def test_in_none_no_change_goes_on_for_anybody(action, key):
    world = World(Mode.NONE, keys_required=False)
    stock = action in {Action.REGISTER_MODEL, Action.UNREGISTER_MODEL}
    with pytest.raises(MethodNotAllowed if stock else Forbidden):
        await world.manage(*CHANGING[action], key)
    assert world.done == []


@pytest.mark.parametrize("action", sorted(CHANGES, key=str))
async def test_a_change_is_on_the_disk_before_anything_is_done(action):
    world = World()
    key = b"a" if action is Action.ROTATE_TOKEN else b"m"
    if action is Action.REGISTER_WORKFLOW:
        with pytest.raises(Forbidden, match="not verified"):
            await world.manage(*CHANGING[action], key)
        assert world.steps == ["record"]
        return
    granted = await world.manage(*CHANGING[action], key)
    assert world.steps[0] == "record"
    assert (granted.line is None) == (action is Action.ROTATE_TOKEN)
    await world.enforcer.outcome(granted, 200)
    assert world.steps[-2:] == ["record", "settled"]


@pytest.mark.parametrize("action", sorted(CHANGES, key=str))
async def test_what_cannot_be_recorded_is_not_done(action):
    world = World()
    world.broken = True
    with pytest.raises(Unavailable):
        await world.manage(*CHANGING[action], b"a" if action is Action.ROTATE_TOKEN else b"m")
    assert world.done == []


@pytest.mark.parametrize(("key", "error"), [(None, Unauthenticated), (b"i", Forbidden), (b"a", Forbidden)])
async def test_nobody_is_asked_who_they_are_and_somebody_is_told_no(key, error):
    world = World()
    with pytest.raises(error) as caught:
        await world.manage("PUT", b"/models/m", key)
    assert "management" not in caught.value.message
    assert caught.value.rule == "management-key-required"


def test_permission_is_remembered_for_roles_and_not_for_others():
    world = World()
    understood = world.enforcer.understand(Listener.INFERENCE, "GET", b"/predictions/m")
    for _ in range(3):
        world.enforcer.permit(understood, b"i")
        with pytest.raises(Unauthenticated):
            world.enforcer.permit(understood, None)
        with pytest.raises(Forbidden):
            world.enforcer.permit(understood, b"m")


def test_what_is_remembered_of_one_listener_does_not_hold_on_another():
    world = World()
    world.enforcer.understand(Listener.MANAGEMENT, "GET", b"/models")
    with pytest.raises(Refusal):
        world.enforcer.understand(Listener.INFERENCE, "GET", b"/models")
    with pytest.raises(Refusal):
        world.enforcer.understand(Listener.MANAGEMENT, "FOO", b"/models")


async def test_a_json_body_is_judged_as_the_query_that_it_becomes():
    world = World()
    granted = await world.manage("POST", b"/models", b"m", b'{"url": "b.mar"}')
    assert granted.line == b"POST /models?url=b.mar HTTP/1.1\r\n"
    assert world.done[0][1].fields["parameters"] == {"url": "b.mar"}
    with pytest.raises(Refusal):
        await world.manage("POST", b"/models", b"m", b'{"url": "b.mar", "url": "c.mar"}')


@pytest.mark.parametrize(
    ("failure", "status"), [(VerificationError("bad digest"), 403), (FrontendError("gone"), 503), (NotFound("no"), 404)]
)
async def test_what_cannot_be_prepared_is_refused_and_the_client_told_little(failure, status):
    world = World()
    world.failure = failure
    with pytest.raises(Refusal) as caught:
        await world.manage("POST", b"/models?url=a.mar", b"m")
    assert caught.value.status == status
    assert "digest" not in caught.value.message
    assert str(failure) in caught.value.reason


async def test_reading_is_written_without_waiting_for_the_disk():
    world = World()
    granted = await world.manage("GET", b"/models", b"m")
    await world.enforcer.outcome(granted, 200)
    assert world.steps == ["write", "write"]
    assert [entry.event for _, entry in world.done] == ["request", "outcome"]


async def test_rotation_rotates_the_kind_that_was_asked_for():
    world = World()
    for target, kind in [
        (b"/token?type=inference", KeyKind.INFERENCE),
        (b"/token?type=management", KeyKind.MANAGEMENT),
    ]:
        await world.manage("GET", target, b"a")
        assert world.done[-1] == ("rotate", kind)


def test_a_refusal_tells_the_record_more_than_the_client():
    world = World()
    refusal = Forbidden("no", reason="because", rule="r1")
    assert world.enforcer.turned_away(asked("GET", b"/\xff\x1b", b"m"), refusal) is refusal
    fields = world.done[0][1].fields
    assert (fields["rule"], fields["reason"], fields["target"], fields["principal"]) == (
        "r1", "because", "/\xff\x1b", "management-key",
    )  # fmt: skip
    world.broken = True
    assert world.enforcer.turned_away(asked("GET", b"/", None), refusal).status == 503


async def test_an_outcome_that_cannot_be_recorded_still_settles(caplog):
    world = World()
    granted = await world.manage("PUT", b"/models/m?min_worker=1", b"m")
    world.broken = True
    await world.enforcer.outcome(granted, None)
    assert world.done[-1] == ("settled", None)
    assert "not on record" in caplog.text


async def test_a_closed_model_is_refused_at_once_however_often_it_was_permitted_before():
    world = World()
    understood = world.enforcer.understand(Listener.INFERENCE, "POST", b"/predictions/m")
    other = world.enforcer.understand(Listener.INFERENCE, "POST", b"/predictions/other")
    world.enforcer.permit(understood, b"i")
    world.closures.close("m", "1.0", Closure("`handler.py` has other contents", lasting=True))
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            world.enforcer.permit(understood, b"i")
    assert (caught.value.message, caught.value.rule) == ("The model is not available.", "model-closed")
    with pytest.raises(Unauthenticated):
        world.enforcer.permit(understood, None)
    world.enforcer.permit(other, b"i")
    with pytest.raises(Unavailable):
        await world.manage("PUT", b"/models/m/1.0?min_worker=3", b"m")
    await world.manage("DELETE", b"/models/m/1.0", b"m")
    assert [entry.fields["action"] for step, entry in world.done if step == "record"] == ["unregister-model"]
    world.closures.open("m", "1.0")
    world.enforcer.permit(understood, b"i")
