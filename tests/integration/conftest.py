"""The gRPC door is tested in the loop that it runs in."""

import asyncio

import uvloop


def pytest_asyncio_loop_factories(config, item):
    # The plugin takes no None: what is not the gRPC door's runs in the loop that it would have run in.
    grpc = item.path.name.startswith("test_grpc")
    return {"uvloop": uvloop.new_event_loop} if grpc else {"asyncio": asyncio.new_event_loop}
