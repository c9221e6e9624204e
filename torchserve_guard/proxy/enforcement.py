"""The enforcement point: no request goes on before it was understood, decided and, where it matters, recorded.

Recorded or refused: a change is on the disk before it is forwarded. The client is told less than the record.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torchserve_guard.access import (
    ANONYMOUS,
    INFERENCE,
    MANAGEMENT,
    Action,
    Decision,
    Mode,
    Operation,
    Principal,
)
from torchserve_guard.audit import Entry
from torchserve_guard.audit.entry import Value, of_request
from torchserve_guard.audit.flood import Flood
from torchserve_guard.errors import (
    AuditError,
    Forbidden,
    GuardError,
    MethodNotAllowed,
    Refusal,
    Unauthenticated,
    Unavailable,
    VerificationError,
)
from torchserve_guard.identity import Certificate, KeyKind
from torchserve_guard.policy import KEYLESS, Access, Closures
from torchserve_guard.proxy import site
from torchserve_guard.proxy.head import Kept
from torchserve_guard.wire import METHOD_NOT_ALLOWED, Listener, classify, render, route_of, with_json_body

_LOG = logging.getLogger(__name__)

LONGEST_REMEMBERED = 512
_MOST_REMEMBERED = 1024
_MOST_ROLES = 64

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
_STOCK_REFUSES = frozenset({Action.REGISTER_MODEL, Action.UNREGISTER_MODEL})


class Record(Protocol):
    """What the enforcer asks of the audit log; `AuditLog` is one. Both raise `AuditError`."""

    def write(self, entry: Entry) -> None:
        """Append an entry."""

    async def record(self, entry: Entry) -> None:
        """Append an entry and return when the disk has it."""


@dataclass(frozen=True, slots=True)
class Understood:
    """A request line as an operation: `line` is its canonical spelling for upstream, `bare` ends a head without a body.

    `permitted` remembers roles that were found to permit it, `told` is the access log's.
    """

    operation: Operation
    line: bytes
    bare: bytes
    managed: bool
    takes_body: bool
    takes_json: bool
    permitted: set[frozenset[str]] = field(default_factory=set, compare=False, repr=False)
    told: dict[tuple[str, str], tuple[object, str]] = field(default_factory=dict, compare=False, repr=False)


class Asked(NamedTuple):
    """One request as it was put: where, by whom, how; `target` is raw. `door` names another door than HTTP's.

    `certificate` is the client's, verified, where it stands for the request. `host` is the one it asks, None where no
    browser can ask; `from_page` says that it carries an `Origin`.
    """

    listener: Listener
    peer: str
    method: str
    target: bytes
    request_id: bytes
    authorization: bytes | None
    door: str = ""
    certificate: Certificate | None = None
    host: bytes | None = None
    from_page: bool = False


class Granted(NamedTuple):
    """A management request that may go on: as `line` upstream, or, with None, as already done here.

    The line of a call over gRPC is empty: its message is made of the operation.
    """

    asked: Asked
    principal: Principal
    operation: Operation
    decision: Decision
    line: bytes | None


class Enforcer:
    """The policy enforcement point of one guard.

    `identify` and `rotate` are the key file's, `decide` the policy's, `audit` the record, `now` seconds since the
    epoch. `prepare` is awaited before a permitted REGISTER_MODEL goes on and returns the operation to forward;
    `prepare_workflow` likewise for REGISTER_WORKFLOW; what they raise refuses the request. `settled` is awaited
    after each change with the status that came back, or None when none did. `closures` are the models that nobody is
    let through to. `spread` is awaited after a key was rotated, before anybody hears of it.
    """

    def __init__(
        self,
        *,
        access: Access,
        identify: Callable[[bytes | None], Principal],
        decide: Callable[[Access, Principal, Operation], Decision],
        audit: Record,
        rotate: Callable[[KeyKind], None],
        prepare: Callable[[Operation], Awaitable[Operation]],
        settled: Callable[[Operation, int | None], Awaitable[None]],
        now: Callable[[], float],
        prepare_workflow: Callable[[Operation], Awaitable[Operation]] | None = None,
        closures: Closures | None = None,
        spread: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._access = access
        self._closures = closures if closures is not None else Closures()
        self._closed = self._closures.models
        self._identify = identify
        self._decide = decide
        self._audit = audit
        self._rotate = rotate
        self._spread = spread
        self._settled = settled
        self._now = now
        self._flood = Flood(now())
        self._remembered: dict[Listener, Kept[tuple[str, bytes], Understood]] = {
            listener: Kept(_MOST_REMEMBERED) for listener in Listener
        }
        self._preparations = {
            Action.REGISTER_MODEL: prepare,
            Action.REGISTER_WORKFLOW: prepare_workflow or _refused_workflow,
        }

    def understand(self, listener: Listener, method: str, target: bytes) -> Understood:
        """Return what a request line asks for. Raises what `classify` raises."""
        remembered = self._remembered[listener]
        understood = remembered.get((method, target))
        if understood is None:
            understood = _spelled(classify(listener, method, target))
            if len(target) <= LONGEST_REMEMBERED:
                remembered.keep((method, target), understood)
        return understood

    def forestall(self, understood: Understood, authorization: bytes | None, *, certified: bool) -> None:
        """Return unless an operation of this action cannot be permitted, whatever the rest of it will be.

        For a request whose action is known before it is read; `certified` says that a client certificate may still
        name who asks. Raises Unauthenticated, Forbidden, MethodNotAllowed.
        """
        principal = self._identify(authorization)
        if principal.roles in understood.permitted:
            return
        operation = understood.operation
        decision = self._decide(self._access, principal, operation)
        hopeless = operation.action.changes and self._access.mode is Mode.NONE
        nobody = principal.name == ANONYMOUS.name and not certified
        if not decision.permitted and (hopeless or nobody):
            raise self._forbidden(principal, operation, decision)
        if decision.permitted and len(understood.permitted) < _MOST_ROLES:
            understood.permitted.add(principal.roles)

    def permit(
        self, understood: Understood, authorization: bytes | None, certificate: Certificate | None = None
    ) -> Principal:
        """Return who asks, if they may. Raises what `manage` raises for who may not ask, and for a closed model."""
        principal = self._identify(authorization)
        if certificate is not None:
            principal = certificate.together(principal, self._now())
        # INVARIANT: a decision depends on mode, operation and the principal's roles, and on nothing else, so a
        # permission holds for whoever has the same roles.
        if principal.roles not in understood.permitted:
            self._verify(understood, principal)
        if self._closed:
            self._closures.verify(understood.operation)
        return principal

    def name_of(self, asked: Asked) -> str:
        """Return the name of who asks."""
        return self._who(asked.authorization, asked.certificate).name

    def _who(self, authorization: bytes | None, certificate: Certificate | None) -> Principal:
        """Return who asks: whom the key stands for, and whom the client certificate does."""
        principal = self._identify(authorization)
        return principal if certificate is None else certificate.together(principal, self._now())

    def _verify(self, understood: Understood, principal: Principal) -> Decision:
        """Return the decision when it permits; remember that. Raises Unauthenticated, Forbidden, MethodNotAllowed."""
        decision = self._decide(self._access, principal, understood.operation)
        if not decision.permitted:
            raise self._forbidden(principal, understood.operation, decision)
        if len(understood.permitted) < _MOST_ROLES:
            understood.permitted.add(principal.roles)
        return decision

    async def manage(self, asked: Asked, understood: Understood, json_body: bytes | None) -> Granted:
        """Return a management request that may go on, recorded; `json_body` replaces its query.

        Raises Unauthenticated, Forbidden, MethodNotAllowed, BadRequest; Unavailable when it cannot be recorded.
        """
        principal = self._who(asked.authorization, asked.certificate)
        decision = self._verify(understood, principal)
        if json_body is not None:
            understood = _spelled(with_json_body(understood.operation, json_body))
            decision = self._verify(understood, principal)
        self._closures.verify(understood.operation)
        if KEYLESS in decision.rules:
            site.verify_own(asked.host, from_page=asked.from_page)
        granted = Granted(asked, principal, understood.operation, decision, understood.line)
        await self._record("request", granted)
        return await self._prepared(granted)

    async def outcome(self, granted: Granted, status: int | None) -> None:
        """Record how a granted request ended: with the status of its answer, or None when there was none."""
        try:
            await self._record("outcome", granted, status)
        except Unavailable as error:
            _LOG.error("the outcome of a request is not on record: %s", error.reason)
        finally:
            if granted.operation.action.changes:
                await self._settled(granted.operation, status)

    def turned_away(self, asked: Asked, refusal: Refusal) -> Refusal:
        """Record a refusal; return the one to answer with, which is Unavailable when it cannot be recorded.

        Of a flood of them some are recorded, and the number of the others (`sum_up`).
        """
        now = self._now()
        if not self._flood.admits(asked.listener.value, refusal.rule, _host(asked.peer), refusal.status, now):
            return refusal
        fields: dict[str, Value] = {
            **_where(asked),
            "method": asked.method,
            "target": asked.target.decode("latin-1"),
            "principal": self.name_of(asked),
            "rule": refusal.rule,
            "reason": refusal.reason,
            "status": refusal.status,
        }
        try:
            self._audit.write(Entry(now, "refusal", fields))
        except AuditError as error:
            return _unrecorded(error)
        return refusal

    def sum_up(self, *, last: bool = False) -> None:
        """Record how many refusals had no entry of their own, when it is time for it or this is the `last` time."""
        summary = self._flood.summary(self._now(), last=last)
        if summary is None:
            return
        try:
            self._audit.write(Entry(self._now(), "refusals-summarized", summary))
        except AuditError as error:
            _LOG.error("%d refusals are not on record: %s", summary["count"], error)

    def _forbidden(self, principal: Principal, operation: Operation, decision: Decision) -> Refusal:
        rule = ",".join(sorted(decision.rules))
        action = operation.action
        if action.changes and self._access.mode is Mode.NONE:
            if action in _STOCK_REFUSES:
                return MethodNotAllowed(METHOD_NOT_ALLOWED, reason=decision.reason, rule=rule)
            return Forbidden("Models are not managed at run time here.", reason=decision.reason, rule=rule)
        if principal.name == ANONYMOUS.name:
            return Unauthenticated("A valid key is needed.", reason=decision.reason, rule=rule)
        return Forbidden("The operation is not permitted.", reason=decision.reason, rule=rule)

    async def _prepared(self, granted: Granted) -> Granted:
        operation = granted.operation
        if operation.action is Action.ROTATE_TOKEN:
            return await self._rotated(granted)
        preparation = self._preparations.get(operation.action)
        if preparation is None:
            return granted
        try:
            prepared = await preparation(operation)
        except GuardError as error:
            raise _unprepared(error) from error
        return granted._replace(operation=prepared, line=granted.line and _spelled(prepared).line)

    async def _rotated(self, granted: Granted) -> Granted:
        kind = _ROTATED.get(granted.operation.parameter("type") or "management")
        if kind is None:
            raise Forbidden("The key cannot be rotated.", reason="no such kind of key", rule="rotate-kind")
        try:
            self._rotate(kind)
        except GuardError as error:
            raise Unavailable("The key could not be rotated.", reason=str(error), rule="rotate-failed") from error
        if self._spread is not None:
            # INVARIANT: whoever is told that a key was replaced finds no process that takes the old one.
            await self._spread()
        return granted._replace(line=None)

    async def _record(self, event: str, granted: Granted, status: int | None = None) -> None:
        """Write an entry of a managed request: a change's entry is on the disk when this returns."""
        asked, principal, operation, decision, _ = granted
        entry = of_request(event, self._now(), principal, operation, decision, **_where(asked), status=status)
        try:
            if operation.action.changes:
                await self._audit.record(entry)
            else:
                self._audit.write(entry)
        except AuditError as error:
            raise _unrecorded(error) from error


_ROTATED = {"management": KeyKind.MANAGEMENT, "inference": KeyKind.INFERENCE}


def understood_call(operation: Operation) -> Understood:
    """Return an operation that came in over gRPC as what may be decided and remembered; it has no line."""
    return Understood(operation, b"", b"", operation.action in MANAGEMENT, takes_body=False, takes_json=False)


def _spelled(operation: Operation) -> Understood:
    method, target = render(operation)
    route = route_of(operation)
    return Understood(
        operation,
        b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), target),
        b"\r\n" if method in _BODILESS else b"Content-Length: 0\r\n\r\n",
        operation.action in MANAGEMENT,
        route.body and operation.action in INFERENCE,
        route.json_body,
    )


def _where(asked: Asked) -> dict[str, Value]:
    where = f"{asked.door}{asked.listener.value}"
    return {"listener": where, "peer": asked.peer, "request_id": asked.request_id.decode("latin-1")}


def _host(peer: str) -> str:
    return peer.rpartition(":")[0] or peer


def _unrecorded(error: AuditError) -> Unavailable:
    return Unavailable("The request cannot be recorded.", reason=str(error), rule="audit")


def _unprepared(error: GuardError) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, VerificationError):
        return Forbidden("The archive is not verified.", reason=str(error), rule="verification")
    return Unavailable("The archive could not be prepared.", reason=str(error), rule="preparation")


async def _refused_workflow(_operation: Operation) -> Operation:
    raise Forbidden("Workflows are not verified by this version.", rule="workflow-unverified")
