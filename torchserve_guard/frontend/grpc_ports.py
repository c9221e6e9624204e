"""The gRPC ports: those that the kernel chose for TorchServe, found with the process that listens on them.

TorchServe tells them nowhere. What another process listens on is never found here, so it never gets a key.
"""

from __future__ import annotations

import asyncio

import psutil

from torchserve_guard.errors import FrontendError

LISTENERS = 2
EVERY = 0.02


async def grpc_ports(pid: int, patience: float) -> tuple[int, ...]:
    """Return the TCP ports that a process listens on, as soon as there are two. Raises FrontendError."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while len(ports := _listening(pid)) < LISTENERS:
        if loop.time() >= end:
            raise FrontendError(
                f"torchserve: it listens on {len(ports)} TCP ports after {patience:.0f} s, not on the two of gRPC;"
                " see its log, or close the gRPC listeners with `grpc_inference_port=0` and `grpc_management_port=0`"
            )
        await asyncio.sleep(EVERY)
    return ports


def _listening(pid: int) -> tuple[int, ...]:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error as error:
        raise FrontendError(
            f"torchserve: the ports that it listens on cannot be read from /proc ({error}); let the guard see its own "
            "processes there, or close the gRPC listeners with `grpc_inference_port=0` and `grpc_management_port=0`"
        ) from error
    return tuple(sorted({one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}))
