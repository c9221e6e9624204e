"""The service: the calls of one gRPC listener, each understood, decided, recorded, and said to TorchServe anew.

A management message goes on as it is rendered from the operation. A message for a model goes on as it came, when
every field of it is known and what names the model stands in it once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import grpc
from grpc import aio

from torchserve_guard.access import MANAGEMENT
from torchserve_guard.errors import BadRequest, Refusal
from torchserve_guard.proxy.answer import RequestTimeout
from torchserve_guard.proxy.enforcement import Asked, Enforcer, Understood, understood_call
from torchserve_guard.proxy.grpc_ending import Context, Endings, brought_back
from torchserve_guard.proxy.grpc_tls import GrpcTls
from torchserve_guard.proxy.grpc_upstream import Converse, End, GrpcUpstream
from torchserve_guard.proxy.head import Kept
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.passage import Counts
from torchserve_guard.wire import Listener
from torchserve_guard.wire.grpc_calls import METHOD, Call, call_of, classify_call, render_call
from torchserve_guard.wire.grpc_metadata import CallMetadata, parse_metadata
from torchserve_guard.wire.grpc_status import HTTP_OF

_LOG = logging.getLogger(__name__)
_MOST_REMEMBERED = 1024

Requests = object  # the iterator that grpc passes; what is read is read from the context


@dataclass(frozen=True, slots=True)
class Put:
    """One call as it was put."""

    call: Call
    metadata: CallMetadata
    asked: Asked


class Service(grpc.GenericRpcHandler):
    """What answers the calls of one listener; `optional` and `tls` are those of the door."""

    def __init__(
        self,
        listener: Listener,
        upstream: GrpcUpstream,
        enforcer: Enforcer,
        limits: Limits,
        counts: Counts,
        *,
        optional: bool,
        tls: GrpcTls | None,
    ) -> None:
        self._listener = listener
        self._upstream = upstream
        self._enforcer = enforcer
        self._limits = limits
        self._endings = Endings(enforcer, counts)
        self._optional = optional
        self._tls = tls
        self._prefix = secrets.token_hex(12)
        self._numbers = count()
        self._remembered: Kept[tuple[str, str | None, str | None], Understood] = Kept(_MOST_REMEMBERED)
        self._certified = tls is not None and tls.asks
        self.under_way: set[asyncio.Task[tuple[End, bytes | None]]] = set()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return what answers a call, before any of its messages is read."""
        path, metadata = handler_call_details.method, CallMetadata()
        try:
            metadata = parse_metadata(handler_call_details.invocation_metadata)
            call = call_of(self._listener, path, optional=self._optional)
            self._enforcer.forestall(call.about, metadata.authorization, certified=self._certified)
        except Refusal as refusal:
            return grpc.stream_stream_rpc_method_handler(partial(self._turned_away, path, metadata, refusal))
        if call.action in MANAGEMENT:
            return grpc.stream_stream_rpc_method_handler(partial(self._manage, call, metadata))
        if call.many_in:
            return grpc.stream_stream_rpc_method_handler(partial(self._converse, call, metadata))
        if call.many_out:
            return grpc.stream_stream_rpc_method_handler(partial(self._stream, call, metadata))
        # The library reads the message of this one by itself: it costs a third less, and is by far the most frequent.
        return grpc.unary_unary_rpc_method_handler(partial(self._infer, call, metadata))

    # --- one handler for each shape of call ----------------------------------------------------------------------

    async def _turned_away(
        self, path: str, metadata: CallMetadata, refusal: Refusal, _requests: Requests, context: Context
    ) -> None:
        await self._endings.refuse(self._asked(path, metadata, context), refusal, context)

    async def _infer(self, call: Call, metadata: CallMetadata, message: bytes, context: Context) -> bytes:
        put = self._put(call, metadata, context)
        try:
            self._permit(put, message)
        except Refusal as refusal:
            await self._endings.refuse(put.asked, refusal, context)
        end, answer = await self._upstream.ask(call.path, message, context.time_remaining())
        return await self._endings.answer(put.asked, end, answer, context)

    async def _stream(self, call: Call, metadata: CallMetadata, _requests: Requests, context: Context) -> None:
        put = self._put(call, metadata, context)
        try:
            message = await self._only(context)
            self._permit(put, message)
        except Refusal as refusal:
            await self._endings.refuse(put.asked, refusal, context)
        upstream = self._upstream.stream(call.path, message, context.time_remaining())
        try:
            end = await brought_back(upstream, context)
        finally:
            upstream.cancel()
        await self._endings.end(put.asked, end, context)

    async def _converse(self, call: Call, metadata: CallMetadata, _requests: Requests, context: Context) -> None:
        put = self._put(call, metadata, context)
        upstream = None
        try:
            first = await self._next(context, self._limits.stall_time)
            if first is None:
                raise BadRequest("A message is needed.", rule="wire.message")
            self._permit(put, first)
            upstream = self._upstream.converse(call.path, context.time_remaining())
            end = await self._both_ways(put, first, upstream, context)
        except Refusal as refusal:
            await self._endings.refuse(put.asked, refusal, context)
        finally:
            if upstream is not None:
                upstream.cancel()
        await self._endings.end(put.asked, end, context)

    async def _manage(self, call: Call, metadata: CallMetadata, _requests: Requests, context: Context) -> None:
        put = self._put(call, metadata, context)
        try:
            operation = classify_call(call, await self._only(context, self._limits.management_body))
        except Refusal as refusal:
            await self._endings.refuse(put.asked, refusal, context)
        changes = operation.action.changes
        managed = self._managed(put, understood_call(operation), None if changes else context.time_remaining())
        end, answer = await (self._to_its_end(managed) if changes else managed)
        await context.write(await self._endings.answer(put.asked, end, answer, context))

    # --- steps ----------------------------------------------------------------------------------------------------

    def _permit(self, put: Put, message: bytes) -> None:
        """Return if a message for a model may go on. Raises what `Enforcer.permit` raises, and BadRequest."""
        operation = classify_call(put.call, message)
        key = (operation.route, operation.resource.name, operation.resource.version)
        understood = self._remembered.get(key) or self._remembered.keep(key, understood_call(operation))
        self._enforcer.permit(understood, put.metadata.authorization, put.asked.certificate)

    async def _managed(self, put: Put, understood: Understood, within: float | None) -> tuple[End, bytes | None]:
        """Return how a management call ended; its refusal or its outcome is recorded by then, whoever still waits."""
        try:
            granted = await self._enforcer.manage(put.asked, understood, None)
        except Refusal as refusal:
            return self._endings.refused(put.asked, refusal), None
        status = None
        try:
            end, answer = await self._upstream.ask(put.call.path, render_call(granted.operation), within)
            status = None if end.gone else HTTP_OF[end.code.name]
        finally:
            await self._enforcer.outcome(granted, status)
        return end, answer

    async def _to_its_end(self, managed: Awaitable[tuple[End, bytes | None]]) -> tuple[End, bytes | None]:
        """Wait for a change; a client that leaves meanwhile does not stop what is on record as asked for."""
        task = asyncio.ensure_future(managed)
        self.under_way.add(task)
        task.add_done_callback(self._settled)
        return await asyncio.shield(task)

    def _settled(self, task: asyncio.Task[tuple[End, bytes | None]]) -> None:
        self.under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _LOG.error("a call met with a bug", exc_info=error)

    async def _both_ways(self, put: Put, first: bytes, upstream: Converse, context: Context) -> End:
        """Carry messages in both directions until TorchServe ends the call. Raises Refusal for a message."""
        up = asyncio.ensure_future(self._sent_on(put, first, upstream, context))
        down = asyncio.ensure_future(brought_back(upstream, context))
        both: set[asyncio.Future[Any]] = {up, down}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not down.done():
                up.result()
            return await down
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _sent_on(self, put: Put, first: bytes, upstream: Converse, context: Context) -> None:
        message: bytes | None = first
        try:
            while message is not None:
                await upstream.write(message)
                message = await self._next(context, self._limits.idle_time)
                if message is not None:
                    self._permit(put, message)
            await upstream.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            # The call is over; how it ended is told to whoever reads.
            return

    async def _next(self, context: Context, patience: float) -> bytes | None:
        """Return the client's next message, None after its last."""
        try:
            async with asyncio.timeout(patience):
                message: object = await context.read()
        except TimeoutError:
            raise RequestTimeout("The request did not arrive in time.", rule="proxy.time") from None
        return message if isinstance(message, bytes) else None

    async def _only(self, context: Context, most: int | None = None) -> bytes:
        """Return the one message of a call that has one, of at most so many bytes."""
        message = await self._next(context, self._limits.stall_time)
        if message is None or await self._next(context, self._limits.stall_time) is not None:
            raise BadRequest("One message is needed, and no more.", rule="wire.message")
        if most is not None and len(message) > most:
            raise BadRequest("The message is too long.", rule="wire.message")
        return message

    def _put(self, call: Call, metadata: CallMetadata, context: Context) -> Put:
        return Put(call, metadata, self._asked(call.path, metadata, context))

    def _asked(self, path: str, metadata: CallMetadata, context: Context) -> Asked:
        request_id = metadata.request_id or f"{self._prefix}{next(self._numbers):08x}".encode()
        target = path.encode("utf-8", "surrogateescape")
        certificate = None if self._tls is None else self._tls.certificate(context.auth_context())
        return Asked(
            self._listener,
            _peer(context),
            METHOD,
            target,
            request_id,
            metadata.authorization,
            door="grpc-",
            certificate=certificate,
            from_page=metadata.from_page,
        )


def _peer(context: Context) -> str:
    """Return the client's address as HTTP's record has it: `ipv4:127.0.0.1:4711` without its first word."""
    return str(context.peer()).partition(":")[2].replace("%5B", "[").replace("%5D", "]")
