"""The call: one of a client's, from its head to its end; understood, decided, recorded, and said to TorchServe anew.

A management message goes on as it is rendered from the operation. A message for a model goes on as it came, when
every field of it is known and what names the model stands in it once. What comes back passes piece by piece, as fast as
the client takes it. Callbacks all the way; only management, which waits for the disk, is a task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from torchserve_guard.access import INFERENCE, MANAGEMENT, Operation
from torchserve_guard.errors import BadRequest, Refusal, TooMany
from torchserve_guard.http2 import Code
from torchserve_guard.proxy.answer import RequestTimeout
from torchserve_guard.proxy.enforcement import Granted, Understood, understood_call
from torchserve_guard.proxy.grpc.answer import Answer
from torchserve_guard.proxy.grpc.end import End, ended
from torchserve_guard.proxy.grpc.passage import MOST_CALLS, GrpcPassage
from torchserve_guard.proxy.grpc.reply import CLIENT_GONE, Reply
from torchserve_guard.proxy.grpc.whole import Whole
from torchserve_guard.proxy.turns import waited_too_long
from torchserve_guard.wire.grpc.calls import Call as Row
from torchserve_guard.wire.grpc.calls import classify_call, render_call
from torchserve_guard.wire.grpc.message import MessageReader, framed
from torchserve_guard.wire.grpc.metadata import CallHead
from torchserve_guard.wire.grpc.status import HTTP_OF

if TYPE_CHECKING:
    from torchserve_guard.proxy.grpc.client import Client

_NO_MESSAGE = "A message is needed."
_TOO_MANY_MESSAGES = "One message is needed, and no more."


class Call(Reply):
    """One call. `stream` is the client's; `head` may say why it is no call."""

    __slots__ = (
        "_answer", "_asking", "_due", "_held", "_message", "_reader", "_row", "_timer", "_turn", "_waiting", "_waits",
    )  # fmt: skip

    def __init__(self, passage: GrpcPassage, link: Client, head: CallHead, number: int, *, whole: bool) -> None:
        super().__init__(passage, link, head, link.accept(number, self, whole))
        self._row: Row | None = None
        self._reader: MessageReader | None = None
        self._message: bytes | None = None
        self._answer: Answer | None = None
        self._asking: Whole | None = None
        self._timer: asyncio.Handle | None = None
        self._due: float | None = None
        self._turn: str | None = None
        self._waits = False
        self._waiting = 0
        self._held = 0

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
            loop = self._link.loop
            self._due = loop.time() + head.timeout
            self._timer = loop.call_later(head.timeout, self._late)

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
                self.stream.crumbs = 0
                self._take(row, message)
            if whole:
                self._verify_whole(reader)
                self._taken(row)
            self._hold()
        except Refusal as refusal:
            self._give_up()
            self.refuse(refusal)
            return
        self.go_on()

    def _verify_whole(self, reader: MessageReader) -> None:
        if reader.partial:
            raise BadRequest("The message is cut off.", rule="wire.message")
        if self._head.length not in {None, self._came}:
            # RFC 9113 section 8.1.1; nothing goes on of what was said of it, but the next one may believe it.
            raise BadRequest("The body is not as long as was said.", rule="wire.message")

    def _give_up(self) -> None:
        """Count a call that TorchServe was asked and that its client made us end (CVE-2025-8671)."""
        if self._answer is not None:
            self._link.patience.given_up()

    def _hold(self) -> None:
        """Count what of the call is in memory here: what is not whole yet, and what TorchServe has yet to take."""
        reader, answer = self._reader, self._answer
        if self._over or reader is None:
            return
        held = reader.held + len(self._message or b"") + (0 if answer is None else answer.waiting)
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
        if row.many_in:
            if self._answer is None:
                raise BadRequest(_NO_MESSAGE, rule="wire.message")
            self._answer.send(b"", whole=True)
        elif message is None:
            raise BadRequest(_NO_MESSAGE, rule="wire.message")
        elif row.action in MANAGEMENT:
            # Before anything is waited for: who leaves meanwhile is named in the access log with what was asked.
            understood = self._understood = understood_call(classify_call(row, message))
            self._passage.crowd.run(self._manage(row, understood), self._bug)
        else:
            self._permit(row, message)
            self._forward(framed(message), whole=True)

    def go_on(self) -> None:
        """Let more come of the client, unless TorchServe does not take it."""
        if self._held:
            self._hold()
        if self._answer is None or not self._answer.full:
            self._link.grant(self.stream)

    def _permit(self, row: Row, message: bytes) -> None:
        """Return if a message for a model may go on. Raises what `permit` and `Forms.verify` raise, and BadRequest."""
        understood = self._understood = self._passage.understood(classify_call(row, message))
        enforcer, head = self._passage.enforcer, self._head
        self._principal = enforcer.permit(understood, head.authorization, self._certificate).name
        # After the permission: who may not ask is told nothing of the models.
        self._passage.forms.verify(understood.operation)
        if self._passage.turns is not None and self._turn is None:
            self._take_turn(understood.operation)

    def _forward(self, message: bytes, *, whole: bool) -> None:
        self._answer = Answer(self, self._passage.upstream, self._head.path)
        self._answer.send(message, whole=whole)
        if not self._waits:
            self._answer.start(self._left())

    def _left(self) -> float | None:
        """Return how many seconds are left of the client's deadline."""
        # Of its timer the loop does not tell: what is due at once is no timer in uvloop.
        return None if self._due is None else max(0.0, self._due - self._link.loop.time())

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

    async def _manage(self, row: Row, understood: Understood) -> None:
        """Do what a management call asks for; refusal or outcome is recorded by the end, whoever still waits."""
        enforcer = self._passage.enforcer
        try:
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
        changes = granted.operation.action.changes
        if self._over and not changes:
            return ended("CANCELLED"), b""
        within = None if changes else self._left()
        asking = self._passage.upstream.ask(row.path, render_call(granted.operation), within)
        if not changes:
            self._asking = asking
        return await asking.ended()

    # --- the answer -------------------------------------------------------------------------------------------------

    def drained(self) -> None:
        """Let more of the answer come."""
        self._since = self._passage.tick
        if self._answer is not None:
            self._answer.go_on()

    def _late(self) -> None:
        self._timer = None
        if not self._over:
            self._give_up()
            end = ended("DEADLINE_EXCEEDED", "Deadline exceeded.")
            self._end(end.block, HTTP_OF[end.code])

    def _let_go(self) -> None:
        """Let go of TorchServe, of the clock, of the turn and of what is held."""
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None:
            self._answer.cancel()
        if self._asking is not None:
            self._asking.cancel()
        self._leave_turn()
        self._passage.hold(-self._held)
        self._held = 0

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
        waiting = self.stream.waiting
        if waiting != self._waiting:
            self._waiting, self._since = waiting, self._passage.tick
        elif waited > self._passage.limits.stall_time:
            if not self._over:
                self._part(CLIENT_GONE, "proxy.time")
            self._link.reset(self.stream, Code.CANCEL)
