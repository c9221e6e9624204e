"""The call: one of a client's, from its head to its end; understood, decided, recorded, and said to TorchServe anew.

A management message goes on as it is rendered from the operation. A message for a model goes on as it came, when
every field of it is known and what names the model stands in it once. What comes back passes piece by piece, as fast as
the client takes it. Callbacks all the way; only management, which waits for the disk, is a task.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from torchserve_guard.access import INFERENCE, MANAGEMENT, Operation
from torchserve_guard.errors import BadRequest, Refusal, TooMany, UpstreamFailed
from torchserve_guard.http2 import Code, Stream, encoded
from torchserve_guard.proxy.answer import RequestTimeout
from torchserve_guard.proxy.enforcement import Asked, Granted, Understood, understood_call
from torchserve_guard.proxy.grpc_answer import Answer
from torchserve_guard.proxy.grpc_passage import DOOR, MOST_CALLS, GrpcPassage
from torchserve_guard.proxy.grpc_upstream import End, Whole, ended, status_block
from torchserve_guard.proxy.turns import waited_too_long
from torchserve_guard.wire.grpc_calls import METHOD, classify_call, render_call
from torchserve_guard.wire.grpc_calls import Call as Row
from torchserve_guard.wire.grpc_message import ACCEPTED, MessageReader, framed
from torchserve_guard.wire.grpc_metadata import CallHead, NotACall
from torchserve_guard.wire.grpc_status import HTTP_OF, printed, refusal_status

if TYPE_CHECKING:
    from torchserve_guard.identity import Certificate
    from torchserve_guard.proxy.grpc_client import Client

_BEGINNING = encoded(
    ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", ACCEPTED))
)
_CLIENT_GONE = 499
_NO_MESSAGE = "A message is needed."
_TOO_MANY_MESSAGES = "One message is needed, and no more."


class Call:
    """One call. `stream` is the client's; `head` may say why it is no call."""

    __slots__ = (
        "_answer", "_asking", "_began", "_came", "_head", "_held", "_link", "_message", "_over", "_passage",
        "_principal", "_reader", "_row", "_said", "_sent", "_since", "_timer", "_turn", "_understood", "_waiting",
        "_waits", "request_id", "stream",
    )  # fmt: skip

    def __init__(self, passage: GrpcPassage, link: Client, head: CallHead, number: int, *, whole: bool) -> None:
        self._passage = passage
        self._link = link
        self._head = head
        self.stream: Stream = link.accept(number, self, whole)
        self.request_id = head.request_id or passage.fresh_id()
        self._row: Row | None = None
        self._reader: MessageReader | None = None
        self._message: bytes | None = None
        self._answer: Answer | None = None
        self._asking: Whole | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._understood: Understood | None = None
        self._principal = ""
        self._turn: str | None = None
        self._waits = False
        self._over = False
        self._said = False
        self._since: float = passage.tick
        self._waiting = 0
        self._held = 0
        self._came = 0
        self._sent = 0
        self._began = monotonic() if passage.note is not None else 0.0
        passage.calls += 1

    # --- the head ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Look at the head; who may not ask is told so before a byte of a message is taken."""
        head, passage = self._head, self._passage
        if head.refusal is not None:
            self.refuse(head.refusal)
            return
        try:
            if passage.calls > MOST_CALLS:
                raise TooMany("Too many calls at once.", rule="proxy.calls")
            self._row, known = passage.row(head.path)
            passage.enforcer.forestall(known, head.authorization, certified=self._link.certificate is not None)
            self._reader = MessageReader(passage.longest, head.encoding)
            if self.stream.heard:
                raise BadRequest(_NO_MESSAGE, rule="wire.message")
        except Refusal as refusal:
            self.refuse(refusal)
            return
        if head.timeout is not None:
            self._timer = self._link.loop.call_later(head.timeout, self._late)

    # --- messages ---------------------------------------------------------------------------------------------------

    def data(self, payload: bytes, whole: bool) -> None:  # noqa: FBT001 - hot
        """Take a piece of what the client says; `whole` with the last."""
        row, reader = self._row, self._reader
        if self._over or row is None or reader is None:
            return
        passage, size = self._passage, len(payload)
        # Who talks may be slow to say the next thing; who says one thing says it at some rate.
        self._since = passage.tick if row.many_in else min(passage.tick, self._since + size * passage.worth)
        self._came += size
        try:
            for message in reader.feed(payload):
                self._take(row, message)
            self._hold(reader)
            if whole:
                if reader.partial:
                    raise BadRequest("The message is cut off.", rule="wire.message")
                self._taken(row)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        self.go_on()

    def _hold(self, reader: MessageReader) -> None:
        held = reader.held + len(self._message or b"")
        if held != self._held:
            more, self._held = held - self._held, held
            self._passage.hold(more)

    def _take(self, row: Row, message: bytes) -> None:
        if not row.many_in:
            if self._message is not None:
                raise BadRequest(_TOO_MANY_MESSAGES, rule="wire.message")
            self._message = message
            return
        self._permit(row, message)
        if self._answer is None:
            self._forward(framed(message), whole=False)
        else:
            self._answer.send(framed(message), whole=False)

    def _taken(self, row: Row) -> None:
        """Go on with a call that the client has said all of."""
        message, self._message = self._message, None
        if self._reader is not None:
            self._hold(self._reader)
        if row.many_in:
            if self._answer is None:
                raise BadRequest(_NO_MESSAGE, rule="wire.message")
            self._answer.send(b"", whole=True)
        elif message is None:
            raise BadRequest(_NO_MESSAGE, rule="wire.message")
        elif row.action in MANAGEMENT:
            self._passage.crowd.run(self._manage(row, message), self._bug)
        else:
            self._permit(row, message)
            self._forward(framed(message), whole=True)

    def go_on(self) -> None:
        """Let more come of the client, unless TorchServe does not take it."""
        if self._answer is None or not self._answer.full:
            self._link.grant(self.stream)

    def _permit(self, row: Row, message: bytes) -> None:
        """Return if a message for a model may go on. Raises what `Enforcer.permit` raises, and BadRequest."""
        understood = self._understood = self._passage.understood(classify_call(row, message))
        enforcer, head = self._passage.enforcer, self._head
        self._principal = enforcer.permit(understood, head.authorization, self._certificate).name
        if self._passage.turns is not None and self._turn is None:
            self._take_turn(understood.operation)

    @property
    def _certificate(self) -> Certificate | None:
        # A browser shows its user's certificate to whatever page asks; only a page's request has an Origin.
        return None if self._head.from_page else self._link.certificate

    def _forward(self, message: bytes, *, whole: bool) -> None:
        self._answer = Answer(self, self._passage.upstream, self._head.path)
        self._answer.send(message, whole=whole)
        if not self._waits:
            self._answer.start(self._left())

    def _left(self) -> float | None:
        """Return how many seconds are left of the client's deadline."""
        return None if self._timer is None else max(0.0, self._timer.when() - self._link.loop.time())

    # --- a turn -----------------------------------------------------------------------------------------------------

    def _take_turn(self, operation: Operation) -> None:
        model, turns = operation.resource.name, self._passage.turns
        if turns is not None and model is not None and operation.action in INFERENCE:
            self._waits = not turns.take(model, self)
            self._turn = model

    def turn_comes(self) -> None:
        """Go on with a call that waited."""
        self._waits = False
        self._since = self._passage.tick
        if self._answer is not None:
            self._answer.start(self._left())

    def _leave_turn(self) -> None:
        model, turns = self._turn, self._passage.turns
        if model is None or turns is None:
            return
        self._turn = None
        if self._waits:
            self._waits = False
            turns.leave(model, self)
        else:
            turns.give(model)

    # --- management -------------------------------------------------------------------------------------------------

    async def _manage(self, row: Row, message: bytes) -> None:
        """Do what a management call asks for; refusal or outcome is recorded by the end, whoever still waits."""
        enforcer = self._passage.enforcer
        try:
            understood = self._understood = understood_call(classify_call(row, message))
            granted = await enforcer.manage(self.asked, understood, None)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        self._principal = granted.principal.name
        status = None
        try:
            end, answer = await self._done(row, granted)
            status = None if end.gone else HTTP_OF[end.code]
        finally:
            await enforcer.outcome(granted, status)
        if end.gone:
            self.unanswered(end.gone)
            return
        if answer and not self._over:
            self.pass_back(answer)
        self.finish(end)

    async def _done(self, row: Row, granted: Granted) -> tuple[End, bytes]:
        """Return how it ended. A change goes to its end; a client that leaves does not stop what is on record."""
        within = None if granted.operation.action.changes else self._left()
        asking = self._passage.upstream.ask(row.path, render_call(granted.operation), within)
        if not granted.operation.action.changes:
            self._asking = asking
            if self._over:
                asking.cancel()
        return await asking.ended()

    # --- the answer -------------------------------------------------------------------------------------------------

    def answered(self) -> None:
        """Say how an answer begins."""
        if not self._over and not self._said:
            self._said = True
            self._link.send_head(self.stream, _BEGINNING)

    def pass_back(self, payload: bytes) -> None:
        """Pass a piece of the answer on."""
        if not self._over:
            self.answered()
            self._sent += len(payload)
            self._since = self._passage.tick
            self._link.send(self.stream, payload)

    @property
    def slow(self) -> bool:
        """Whether the client has yet to take what was passed back."""
        return bool(self.stream.pending)

    def drained(self) -> None:
        """Let more of the answer come."""
        self._since = self._passage.tick
        if self._answer is not None:
            self._answer.go_on()

    def finish(self, end: End) -> None:
        """End the call as TorchServe did."""
        if not self._over:
            self._passage.counts.served += 1
            self._end(end.block, HTTP_OF[end.code])

    def unanswered(self, reason: str) -> None:
        """End a call that TorchServe did not."""
        if not self._over:
            self._passage.counts.upstream_failures += 1
        self.refuse(UpstreamFailed("TorchServe did not answer.", reason=reason, rule="proxy.upstream"))

    def refuse(self, refusal: Refusal) -> None:
        """Record a refusal, and end the call with it."""
        self._passage.counts.refused += 1
        told = self._passage.enforcer.turned_away(self.asked, refusal)
        if self._over:
            return
        if isinstance(told, NotACall):
            block = encoded(((b":status", b"%d" % told.status),))
            self._said = True
        else:
            code, details = refusal_status(told)
            block = status_block(code, printed(details))
        self._principal = self._principal or self._passage.enforcer.name_of(self.asked)
        self._end(block, told.status, told.rule)

    def _end(self, block: bytes, status: int, rule: str = "") -> None:
        beginning = b"" if self._said else _BEGINNING
        self._part(status, rule)
        self._link.finish(self.stream, beginning + block + encoded(((b"x-request-id", self.request_id),)))

    def _late(self) -> None:
        self._timer = None
        if not self._over:
            end = ended("DEADLINE_EXCEEDED", "Deadline exceeded.")
            self._end(end.block, HTTP_OF[end.code])

    def _bug(self) -> None:
        if not self._over:
            end = ended("INTERNAL", "The guard could not finish the call.")
            self._end(end.block, HTTP_OF[end.code])

    def reset(self, code: int) -> None:  # noqa: ARG002 - the owner's signature
        """Leave off: the client gave the call up, or is gone. A change goes on."""
        if not self._over:
            self._part(_CLIENT_GONE, "")

    def _part(self, status: int, rule: str) -> None:
        """Be over: let go of TorchServe, of the turn and of the clock, and tell the access log."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None:
            self._answer.cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._leave_turn()
        passage = self._passage
        passage.calls -= 1
        passage.hold(-self._held)
        if passage.note is not None:
            self._note(status, rule)

    def _note(self, status: int, rule: str) -> None:
        note = self._passage.note
        if note is not None:
            note(
                (
                    monotonic(),
                    self._began,
                    self._passage.name,
                    self._link.peer,
                    self,
                    self._understood,
                    self._principal,
                    self.request_id,
                    self._head.trace or self.request_id,
                    status,
                    self._came,
                    self._sent,
                    rule,
                )
            )

    # --- as the record and the access log name it -------------------------------------------------------------------

    @property
    def asked(self) -> Asked:
        """The call as it was put."""
        head = self._head
        return Asked(
            self._passage.listener,
            self._link.peer,
            METHOD,
            self.target,
            self.request_id,
            head.authorization,
            DOOR,
            self._certificate,
            None,
            head.from_page,
        )

    @property
    def method(self) -> str:
        """What stands in the method's place."""
        return METHOD

    @property
    def target(self) -> bytes:
        """The path."""
        return self._head.path.encode("latin-1")

    @property
    def passed(self) -> tuple[bytes, ...]:
        """The header lines that went on: none does."""
        return ()

    # --- the clock --------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Look at the clock, once a second: end what takes too long."""
        passage = self._passage
        waited = passage.tick - self._since
        if self.stream.pending:
            self._sweep_writing(waited)
        elif self._over:
            return
        elif self._waits and passage.turns is not None:
            if waited > passage.turns.patience:
                self.refuse(waited_too_long())
        elif not self.stream.heard and waited > self._patience():
            self.refuse(RequestTimeout("The request did not arrive in time.", rule="proxy.time"))

    def _patience(self) -> float:
        limits = self._passage.limits
        return limits.stall_time if self._answer is None else limits.idle_time

    def _sweep_writing(self, waited: float) -> None:
        waiting = sum(map(len, self.stream.pending))
        if waiting != self._waiting:
            self._waiting, self._since = waiting, self._passage.tick
        elif waited > self._passage.limits.stall_time:
            if not self._over:
                self._part(_CLIENT_GONE, "proxy.time")
            self._link.reset(self.stream, Code.CANCEL)
