"""The ending: how a call that was answered, refused or broken off is told to its client, and counted."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import grpc
from grpc import aio

from torchserve_guard.errors import Refusal, UpstreamFailed
from torchserve_guard.proxy.enforcement import Asked, Enforcer
from torchserve_guard.proxy.grpc_upstream import Converse, End, Streamed, ended, verify_not_ours
from torchserve_guard.proxy.passage import Counts
from torchserve_guard.wire.grpc_metadata import returned
from torchserve_guard.wire.grpc_status import refusal_status

Context = aio.ServicerContext[bytes, bytes]


class Endings:
    """The ends of the calls of one listener; each goes out with the request id, and is counted."""

    def __init__(self, enforcer: Enforcer, counts: Counts) -> None:
        self._enforcer = enforcer
        self._counts = counts

    async def answer(self, asked: Asked, end: End, answer: bytes | None, context: Context) -> bytes:
        """Return the answer when there is one, else end the call as TorchServe did, or as it was refused."""
        if answer is None:
            await self._abort(asked, end, context)
        self._served(asked, end, context)
        return answer

    async def end(self, asked: Asked, end: End, context: Context) -> None:
        """End a call whose answers were sent on."""
        if end.code is not grpc.StatusCode.OK:
            await self._abort(asked, end, context)
        self._served(asked, end, context)

    def refused(self, asked: Asked, refusal: Refusal) -> End:
        """Record a refusal, and return the end that it is."""
        self._counts.refused += 1
        code, details = refusal_status(self._enforcer.turned_away(asked, refusal))
        return End(grpc.StatusCode[code], details)

    async def refuse(self, asked: Asked, refusal: Refusal, context: Context) -> NoReturn:
        """Record a refusal and end the call with it."""
        await self._abort(asked, self.refused(asked, refusal), context)

    def _served(self, asked: Asked, end: End, context: Context) -> None:
        self._counts.served += 1
        context.set_trailing_metadata((*end.trailing, _request_id(asked)))

    async def _abort(self, asked: Asked, end: End, context: Context) -> NoReturn:
        if end.gone:
            self._counts.upstream_failures += 1
            gone = UpstreamFailed("TorchServe did not answer.", reason=end.details, rule="proxy.upstream")
            end = self.refused(asked, gone)
        await context.abort(end.code, end.details, (*end.trailing, _request_id(asked)))
        raise AssertionError  # abort raises


async def brought_back(upstream: Streamed | Converse, context: Context) -> End:
    """Carry TorchServe's messages to the client, each when the one before was taken; return how the call ended."""
    try:
        while isinstance(message := await upstream.read(), bytes):
            await context.write(message)
        trailing = await upstream.trailing_metadata()
    except aio.AioRpcError as error:
        return ended(error)
    except asyncio.CancelledError:
        verify_not_ours()
        return End(grpc.StatusCode.CANCELLED)
    return End(grpc.StatusCode.OK, "", returned(trailing))


def _request_id(asked: Asked) -> tuple[str, str]:
    return "x-request-id", asked.request_id.decode("latin-1")
