"""The reply: what the client of a call is told, once, and what the record and the access log are told of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import monotonic
from typing import TYPE_CHECKING

from torchserve_guard.errors import Refusal, UpstreamFailed
from torchserve_guard.http2 import Stream, encoded
from torchserve_guard.proxy.enforcement import Asked, Understood
from torchserve_guard.proxy.grpc.end import End, ended, status_block
from torchserve_guard.proxy.grpc.passage import DOOR, GrpcPassage
from torchserve_guard.wire.grpc.calls import METHOD
from torchserve_guard.wire.grpc.message import ACCEPTED
from torchserve_guard.wire.grpc.metadata import CallHead, NotACall
from torchserve_guard.wire.grpc.status import HTTP_OF, printed, refusal_status

if TYPE_CHECKING:
    from torchserve_guard.identity import Certificate
    from torchserve_guard.proxy.grpc.client import Client

_BEGINNING = encoded(
    ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", ACCEPTED))
)
CLIENT_GONE = 499


class Reply(ABC):
    """The client's side of a call. Whoever has it says where the bytes come from; once over, nothing is said."""

    __slots__ = (
        "_began", "_came", "_head", "_link", "_over", "_passage", "_principal", "_said", "_sent", "_since",
        "_understood", "request_id", "stream",
    )  # fmt: skip

    def __init__(self, passage: GrpcPassage, link: Client, head: CallHead, stream: Stream) -> None:
        self._passage = passage
        self._link = link
        self._head = head
        self.stream = stream
        self.request_id = head.request_id or passage.fresh_id()
        self._understood: Understood | None = None
        self._principal = ""
        self._over = False
        self._said = False
        self._since: float = passage.tick
        self._came = 0
        self._sent = 0
        self._began = monotonic() if passage.note is not None else 0.0
        passage.calls += 1

    @abstractmethod
    def _let_go(self) -> None:
        """Let go of all that the call has."""

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

    def _bug(self) -> None:
        if not self._over:
            end = ended("INTERNAL", "The guard could not finish the call.")
            self._end(end.block, HTTP_OF[end.code])

    def reset(self, code: int) -> None:  # noqa: ARG002 - the owner's signature
        """Leave off: the client gave the call up, or is gone. A change goes on."""
        if not self._over:
            self._part(CLIENT_GONE, "")

    def _part(self, status: int, rule: str) -> None:
        """Be over: let go of TorchServe, of the turn and of the clock, and tell the access log."""
        self._over = True
        self._let_go()
        passage = self._passage
        passage.calls -= 1
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

    @property
    def _certificate(self) -> Certificate | None:
        # A browser shows its user's certificate to whatever page asks; only a page's request has an Origin.
        return None if self._head.from_page else self._link.certificate
