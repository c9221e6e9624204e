"""A proxy as one writes it with aiohttp: streaming, connections kept, uvloop under it. A peer of the door's.

python benchmarks/_aiohttp_proxy.py PORT UPSTREAM_SOCKET
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import ClientSession, UnixConnector, web


async def serve(port: int, upstream: str) -> None:
    """Serve until the process is ended."""
    async with ClientSession(connector=UnixConnector(upstream, limit=0), auto_decompress=False) as session:

        async def passed_on(request: web.Request) -> web.StreamResponse:
            async with session.request(request.method, f"http://plain{request.path_qs}", data=request.content) as got:
                answer = web.StreamResponse(status=got.status, headers={"Content-Type": got.content_type})
                answer.content_length = got.content_length
                await answer.prepare(request)
                async for piece in got.content.iter_any():
                    await answer.write(piece)
                return answer

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", passed_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
